//! The gated unit of the MLP (arXiv 2002.05202, section 2).

use rayon::prelude::*;

use super::math::{Operand, gelu_argument, one_plus_exp};
use super::rows::ActValues;
use super::simd::{Isa, Loop, Simd};
use super::{CpuActs, CpuRows};
use crate::error::check_shape;
use crate::{Activation, Result};

pub(super) fn glu(
    isa: Isa,
    activation: Activation,
    gate_up: &CpuRows,
    out: &mut CpuActs,
) -> Result<()> {
    check_shape(
        "glu",
        "width of gate_up",
        gate_up.width() / 2 * 2,
        gate_up.width(),
    )?;
    out.set_len("glu", gate_up.len(), gate_up.width() / 2)?;
    let stride = out.stride;
    match &mut out.values {
        ActValues::F32(out) => all_rows(isa, activation, gate_up, out, stride),
        ActValues::Rounded(out) => all_rows(isa, activation, gate_up, out, stride),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            all_rows(isa, activation, gate_up, out, stride);
        }
    }
    Ok(())
}

fn all_rows<T: Operand>(
    isa: Isa,
    activation: Activation,
    gate_up: &CpuRows,
    out: &mut [T],
    stride: usize,
) {
    out.par_chunks_mut(stride)
        .zip(gate_up.values().par_chunks(gate_up.width()))
        .for_each(|(out, row)| {
            let (gate, up) = row.split_at(row.len() / 2);
            match activation {
                Activation::Silu => isa.run(Silu { gate, up, out }),
                Activation::GeluTanh => isa.run(GeluTanh { gate, up, out }),
            }
        });
}

pub(super) struct Silu<'a, T> {
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) out: &'a mut [T],
}

impl<T: Operand> Loop for Silu<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = T::round(gate / one_plus_exp(s, gate) * up);
        }
    }
}

pub(super) struct GeluTanh<'a, T> {
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) out: &'a mut [T],
}

impl<T: Operand> Loop for GeluTanh<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = T::round(gate / one_plus_exp(s, gelu_argument(s, gate)) * up);
        }
    }
}
