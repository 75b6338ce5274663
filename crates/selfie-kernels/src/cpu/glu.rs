//! The gated unit of the MLP (arXiv 2002.05202, section 2).

use super::math::{Operand, gelu_argument, one_plus_exp};
use super::rows::ActValues;
use super::simd::{Isa, Loop, Simd};
use super::threads::Threads;
use super::{CpuActs, CpuRows};
use crate::error::check_shape;
use crate::{Activation, Result};

/// What a gate's exponential costs beside a plain value.
const GATE_WORK: usize = 4;

pub(super) fn glu(
    isa: Isa,
    threads: &Threads,
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
        ActValues::F32(out) => all_rows(isa, threads, activation, gate_up, out, stride),
        ActValues::Rounded(out) => all_rows(isa, threads, activation, gate_up, out, stride),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            all_rows(isa, threads, activation, gate_up, out, stride);
        }
    }
    Ok(())
}

fn all_rows<T: Operand>(
    isa: Isa,
    threads: &Threads,
    activation: Activation,
    gate_up: &CpuRows,
    out: &mut [T],
    stride: usize,
) {
    let rows = out.chunks_mut(stride.max(1)).zip(gate_up.rows());
    let work = GATE_WORK * gate_up.width() / 2;
    threads.each(gate_up.len(), work, rows, |(out, row)| {
        gated(isa, activation, row.split_at(row.len() / 2), out);
    });
}

/// `activation(gate) * up` for one row.
pub(super) fn gated<T: Operand>(
    isa: Isa,
    activation: Activation,
    (gate, up): (&[f32], &[f32]),
    out: &mut [T],
) {
    let row = Row { gate, up, out };
    match activation {
        Activation::Silu => isa.run(Silu(row)),
        Activation::GeluTanh => isa.run(GeluTanh(row)),
    }
}

struct Row<'a, T> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [T],
}

impl<T: Operand> Row<'_, T> {
    /// `gate / (1 + e^-argument(gate)) * up`.
    #[inline(always)]
    fn each<S: Simd>(self, s: S, argument: impl Fn(f32) -> f32) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = T::round(gate / one_plus_exp(s, argument(gate)) * up);
        }
    }
}

struct Silu<'a, T>(Row<'a, T>);

impl<T: Operand> Loop for Silu<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.each(s, |gate| gate);
    }
}

struct GeluTanh<'a, T>(Row<'a, T>);

impl<T: Operand> Loop for GeluTanh<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.each(s, |gate| gelu_argument(s, gate));
    }
}
