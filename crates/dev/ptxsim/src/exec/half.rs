//! f16 and bf16 arithmetic, scalar and in pairs.
//!
//! A result is computed in f64, rounded to odd, and rounded once to the format.

use super::float::extremum;
use super::regs::{Regs, map3};
use super::round::{BF16, F16, add_odd, round_f64};
use crate::ir::{HalfFormat, HalfMode, HalfOp, Round, Row};

pub(super) fn half(
    regs: &mut Regs,
    mask: u32,
    f: HalfOp,
    mode: HalfMode,
    d: Row,
    rows: (Row, Row, Row),
) {
    let scalar = |a: u32, b: u32, c: u32| u32::from(apply(f, mode, a as u16, b as u16, c as u16));
    if mode.packed {
        map3(regs, mask, d, rows, |a: u32, b: u32, c: u32| {
            scalar(a, b, c) | scalar(a >> 16, b >> 16, c >> 16) << 16
        });
    } else {
        map3(regs, mask, d, rows, scalar);
    }
}

/// The value of a half.
pub(super) fn widen(bits: u16, format: HalfFormat) -> f32 {
    match format {
        HalfFormat::F16 => widen_f16(bits),
        HalfFormat::Bf16 => f32::from_bits(u32::from(bits) << 16),
    }
}

/// The value of an f16.
pub(super) fn widen_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10 & 31), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        // A subnormal is a multiple of 2^-24.
        0 => (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// Rounds to the format.
pub(super) fn narrow(x: f64, format: HalfFormat, round: Round) -> u16 {
    match format {
        HalfFormat::F16 => round_f64(x, F16, round) as u16,
        HalfFormat::Bf16 => round_f64(x, BF16, round) as u16,
    }
}

/// An f32 rounded to the nearest bf16, the most frequent conversion in kernels.
pub(super) fn nearest_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    // A carry out of the fraction goes into the exponent; the sum overflows only for NaN.
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if x.is_nan() { 0x7fff } else { rounded }
}

/// An f32 rounded to the nearest f16.
pub(super) fn nearest_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let size = x.to_bits() & 0x7fff_ffff;
    let magnitude = match size {
        0x7f80_0001.. => return 0x7fff,
        // Values from 65520 on round to infinity.
        0x477f_f000.. => 0x7c00,
        0x3880_0000.. => ((size - 0x3800_0000 + 0xfff + (size >> 13 & 1)) >> 13) as u16,
        // Adding 1/2 leaves units of 2^-24, those of f16 subnormals, at the end of the fraction.
        _ => ((f32::from_bits(size) + 0.5).to_bits() - 0x3f00_0000) as u16,
    };
    sign | magnitude
}

fn apply(f: HalfOp, mode: HalfMode, a: u16, b: u16, c: u16) -> u16 {
    let flush = |bits: u16| {
        let exponent = if mode.format == HalfFormat::F16 {
            0x7c00
        } else {
            0x7f80
        };
        if mode.ftz && bits & exponent == 0 {
            bits & 0x8000
        } else {
            bits
        }
    };
    let [a, b, c] = [a, b, c].map(flush);
    match f {
        HalfOp::Neg => return a ^ 0x8000,
        HalfOp::Abs => return a & 0x7fff,
        _ => {}
    }
    let [x, y, z] = [a, b, c].map(|bits| f64::from(widen(bits, mode.format)));
    let exact = match f {
        HalfOp::Ex2 => x.exp2(),
        HalfOp::Tanh => x.tanh(),
        HalfOp::Add => add_odd(x, y),
        HalfOp::Sub => add_odd(x, -y),
        HalfOp::Mul => x * y,
        HalfOp::Min { nan } => extremum(x as f32, y as f32, nan, true).into(),
        HalfOp::Max { nan } => extremum(x as f32, y as f32, nan, false).into(),
        HalfOp::Fma { .. } => add_odd(x * y, z),
        HalfOp::Neg | HalfOp::Abs => unreachable!("returned above"),
    };
    let exact = match f {
        HalfOp::Fma { relu: true } if exact <= 0.0 => 0.0,
        _ if mode.sat && exact.is_nan() => 0.0,
        _ if mode.sat => exact.clamp(0.0, 1.0) + 0.0,
        _ => exact,
    };
    flush(narrow(exact, mode.format, Round::Nearest))
}
