//! The gated unit of the MLP (arXiv 2002.05202, section 2).

use rayon::prelude::*;

use super::math::{Operand, exp};
use super::rows::ActValues;
use super::simd::{Isa, Loop, Simd};
use super::{CpuActs, CpuRows};
use crate::Result;
use crate::error::check_shape;

pub(super) fn swiglu(isa: Isa, gate_up: &CpuRows, out: &mut CpuActs) -> Result<()> {
    check_shape(
        "swiglu",
        "width of gate_up",
        gate_up.width() / 2 * 2,
        gate_up.width(),
    )?;
    out.set_len("swiglu", gate_up.len(), gate_up.width() / 2)?;
    let stride = out.stride;
    match &mut out.values {
        ActValues::F32(out) => all_rows(isa, gate_up, out, stride),
        ActValues::Rounded(out) => all_rows(isa, gate_up, out, stride),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            all_rows(isa, gate_up, out, stride);
        }
    }
    Ok(())
}

fn all_rows<T: Operand>(isa: Isa, gate_up: &CpuRows, out: &mut [T], stride: usize) {
    out.par_chunks_mut(stride)
        .zip(gate_up.values().par_chunks(gate_up.width()))
        .for_each(|(out, row)| {
            let (gate, up) = row.split_at(row.len() / 2);
            isa.run(Row { gate, up, out });
        });
}

struct Row<'a, T> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [T],
}

impl<T: Operand> Loop for Row<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = T::round(gate / (1.0 + exp(s, -gate)) * up);
        }
    }
}
