//! The gated unit in f32, and its gradient.

use rayon::prelude::*;

use super::CpuRows;
use super::glu::gated;
use super::math::{GELU_CUBE, GELU_SLOPE, gelu_argument, one_plus_exp};
use super::simd::{Isa, Loop, Simd};
use crate::error::check_shape;
use crate::{Activation, Result};

/// `out = activation(gate) * up`, kept in f32.
pub(super) fn glu_f32(
    isa: Isa,
    activation: Activation,
    gate_up: &CpuRows,
    out: &mut CpuRows,
) -> Result<()> {
    const OP: &str = "glu_f32";
    check_shape(OP, "width of gate_up", 2 * out.width(), gate_up.width())?;
    out.set_len(OP, gate_up.len())?;
    let width = out.width();
    out.values_mut()
        .par_chunks_mut(width)
        .zip(gate_up.values().par_chunks(2 * width))
        .for_each(|(out, row)| {
            gated(isa, activation, row.split_at(width), out);
        });
    Ok(())
}

/// The gradients of gate and up, from that of `activation(gate) * up`.
pub(super) fn mlp_backward(
    isa: Isa,
    activation: Activation,
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
            let backward = Backward {
                gate,
                up,
                d,
                d_gate,
                d_up,
            };
            match activation {
                Activation::Silu => isa.run(SiluBackward(backward)),
                Activation::GeluTanh => isa.run(GeluTanhBackward(backward)),
            }
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

impl Backward<'_> {
    /// Calls `slope(gate)` for each column; it returns the activation and its slope.
    #[inline(always)]
    fn each(self, slope: impl Fn(f32) -> (f32, f32)) {
        let outputs = self.d_gate.iter_mut().zip(self.d_up);
        let inputs = self.gate.iter().zip(self.up).zip(self.d);
        for ((d_gate, d_up), ((&gate, &up), &d)) in outputs.zip(inputs) {
            let (active, slope) = slope(gate);
            *d_gate = d * up * slope;
            *d_up = d * active;
        }
    }
}

struct SiluBackward<'a>(Backward<'a>);

impl Loop for SiluBackward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.each(|gate| {
            let sigmoid = 1.0 / one_plus_exp(s, gate);
            // silu' = sigmoid + silu * (1 - sigmoid)
            (gate * sigmoid, sigmoid * (1.0 + gate * (1.0 - sigmoid)))
        });
    }
}

struct GeluTanhBackward<'a>(Backward<'a>);

impl Loop for GeluTanhBackward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.each(|gate| {
            let sigmoid = 1.0 / one_plus_exp(s, gelu_argument(s, gate));
            // x sigmoid(u(x)): sigmoid + x sigmoid (1 - sigmoid) u'
            let inner = GELU_SLOPE * (1.0 + 3.0 * GELU_CUBE * gate * gate);
            let active = gate * sigmoid;
            (active, sigmoid + active * (1.0 - sigmoid) * inner)
        });
    }
}
