//! The gated unit in f32, and its gradient.

use rayon::prelude::*;

use super::CpuRows;
use super::math::exp;
use super::simd::{Isa, Loop, Simd};
use crate::Result;
use crate::error::check_shape;

/// `out = silu(gate) * up`, kept in f32.
pub(super) fn swiglu_f32(isa: Isa, gate_up: &CpuRows, out: &mut CpuRows) -> Result<()> {
    const OP: &str = "swiglu_f32";
    check_shape(OP, "width of gate_up", 2 * out.width(), gate_up.width())?;
    out.set_len(OP, gate_up.len())?;
    let width = out.width();
    out.values_mut()
        .par_chunks_mut(width)
        .zip(gate_up.values().par_chunks(2 * width))
        .for_each(|(out, row)| {
            let (gate, up) = row.split_at(width);
            isa.run(Forward { gate, up, out });
        });
    Ok(())
}

struct Forward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Loop for Forward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for ((out, &gate), &up) in self.out.iter_mut().zip(self.gate).zip(self.up) {
            *out = gate / (1.0 + exp(s, -gate)) * up;
        }
    }
}

/// The gradients of gate and up from that of `silu(gate) * up`.
pub(super) fn mlp_backward(
    isa: Isa,
    gate_up: &CpuRows,
    d_hidden: &CpuRows,
    out: &mut CpuRows,
) -> Result<()> {
    const OP: &str = "mlp_backward";
    let ffn = d_hidden.width();
    check_shape(OP, "width of gate_up", 2 * ffn, gate_up.width())?;
    check_shape(OP, "width of the output", 2 * ffn, out.width())?;
    check_shape(OP, "rows of d_hidden", gate_up.len(), d_hidden.len())?;
    out.set_len(OP, gate_up.len())?;
    out.values_mut()
        .par_chunks_mut(2 * ffn)
        .zip(gate_up.values().par_chunks(2 * ffn))
        .zip(d_hidden.values().par_chunks(ffn))
        .for_each(|((out, row), d)| {
            let (gate, up) = row.split_at(ffn);
            let (d_gate, d_up) = out.split_at_mut(ffn);
            isa.run(Backward {
                gate,
                up,
                d,
                d_gate,
                d_up,
            });
        });
    Ok(())
}

struct Backward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    d: &'a [f32],
    d_gate: &'a mut [f32],
    d_up: &'a mut [f32],
}

impl Loop for Backward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let outputs = self.d_gate.iter_mut().zip(self.d_up);
        let inputs = self.gate.iter().zip(self.up).zip(self.d);
        for ((d_gate, d_up), ((&gate, &up), &d)) in outputs.zip(inputs) {
            let sigmoid = 1.0 / (1.0 + exp(s, -gate));
            // silu' = sigmoid + silu * (1 - sigmoid)
            *d_gate = d * up * (sigmoid * (1.0 + gate * (1.0 - sigmoid)));
            *d_up = d * (gate * sigmoid);
        }
    }
}
