//! f32 and f64 arithmetic.
//!
//! NaN results are the canonical NaN, 0x7fffffff in f32. Approximate functions are computed in f64 and rounded once to
//! f32, so they are closer to the true value than the hardware's. Special operands give the results in the ISA's
//! tables.

use super::regs::{Regs, map1, map2, map3};
use super::round::{F32, add_odd, div_odd, round_f64, sqrt_odd};
use crate::ir::{Float1, Float2, FloatMode, Round, Row};

const NAN: f32 = f32::from_bits(0x7fff_ffff);

/// Subnormals become zero of the same sign.
pub(super) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE {
        f32::from_bits(x.to_bits() & 0x8000_0000)
    } else {
        x
    }
}

fn canonical(x: f32) -> f32 {
    if x.is_nan() { NAN } else { x }
}

fn input(x: f32, ftz: bool) -> f32 {
    if ftz { flush(x) } else { x }
}

fn output(x: f32, mode: FloatMode) -> f32 {
    let x = canonical(x);
    let x = if mode.ftz { flush(x) } else { x };
    if !mode.sat {
        x
    } else if x.is_nan() || x <= 0.0 {
        0.0
    } else {
        x.min(1.0)
    }
}

/// An exact or odd-rounded value, rounded to f32.
fn to_f32(x: f64, round: Round) -> f32 {
    f32::from_bits(round_f64(x, F32, round) as u32)
}

pub(super) fn float1(
    regs: &mut Regs,
    mask: u32,
    f: Float1,
    wide: bool,
    mode: FloatMode,
    d: Row,
    a: Row,
) {
    if wide {
        return map1(regs, mask, d, a, |x: f64| match f {
            Float1::Neg => -x,
            Float1::Abs => x.abs(),
            Float1::Rcp => 1.0 / x,
            _ => x.sqrt(),
        });
    }
    match f {
        // The sign is a bit operation, for NaN too.
        Float1::Neg => map1(regs, mask, d, a, |x: f32| -input(x, mode.ftz)),
        Float1::Abs => map1(regs, mask, d, a, |x: f32| input(x, mode.ftz).abs()),
        _ => map1(regs, mask, d, a, |x: f32| {
            output(function(f, input(x, mode.ftz), mode.round), mode)
        }),
    }
}

fn function(f: Float1, x: f32, round: Round) -> f32 {
    let wide = f64::from(x);
    match f {
        Float1::Ex2 => wide.exp2() as f32,
        Float1::Lg2 => wide.log2() as f32,
        Float1::RcpApprox => wide.recip() as f32,
        Float1::RsqrtApprox => wide.sqrt().recip() as f32,
        Float1::SqrtApprox => wide.sqrt() as f32,
        Float1::Sin => wide.sin() as f32,
        Float1::Cos => wide.cos() as f32,
        Float1::Tanh => wide.tanh() as f32,
        Float1::Rcp if round == Round::Nearest => 1.0 / x,
        Float1::Rcp => to_f32(div_odd(1.0, wide), round),
        Float1::Sqrt if round == Round::Nearest => x.sqrt(),
        Float1::Sqrt => to_f32(sqrt_odd(wide), round),
        Float1::Neg | Float1::Abs => unreachable!("handled by the caller"),
    }
}

pub(super) fn float2(
    regs: &mut Regs,
    mask: u32,
    f: Float2,
    wide: bool,
    mode: FloatMode,
    d: Row,
    rows: (Row, Row),
) {
    if wide {
        return map2(regs, mask, d, rows, |a: f64, b: f64| f64_binary(f, a, b));
    }
    let plain = mode.round == Round::Nearest && !mode.ftz && !mode.sat;
    match f {
        Float2::Add if plain => map2(regs, mask, d, rows, |a: f32, b: f32| canonical(a + b)),
        Float2::Sub if plain => map2(regs, mask, d, rows, |a: f32, b: f32| canonical(a - b)),
        Float2::Mul if plain => map2(regs, mask, d, rows, |a: f32, b: f32| canonical(a * b)),
        // copysign(a, b) is b with the sign of a.
        Float2::CopySign => map2(regs, mask, d, rows, |a: f32, b: f32| b.copysign(a)),
        _ => map2(regs, mask, d, rows, |a: f32, b: f32| {
            output(
                f32_binary(f, input(a, mode.ftz), input(b, mode.ftz), mode.round),
                mode,
            )
        }),
    }
}

fn f32_binary(f: Float2, a: f32, b: f32, round: Round) -> f32 {
    let (x, y) = (f64::from(a), f64::from(b));
    match (f, round) {
        (Float2::Add, Round::Nearest) => a + b,
        (Float2::Sub, Round::Nearest) => a - b,
        (Float2::Mul, Round::Nearest) => a * b,
        (Float2::Div, Round::Nearest) => a / b,
        (Float2::Add, _) => zero_sum(a, b, round).unwrap_or_else(|| to_f32(add_odd(x, y), round)),
        (Float2::Sub, _) => zero_sum(a, -b, round).unwrap_or_else(|| to_f32(add_odd(x, -y), round)),
        (Float2::Mul, _) => to_f32(x * y, round),
        (Float2::Div, _) => to_f32(div_odd(x, y), round),
        // Above 2^126 the reciprocal is flushed to zero.
        (Float2::DivApprox, _) if b.abs() > 2f32.powi(126) && b.is_finite() => {
            if a.is_infinite() || a.is_nan() {
                NAN
            } else {
                0f32.copysign(f32::from_bits(a.to_bits() ^ b.to_bits()))
            }
        }
        (Float2::DivApprox | Float2::DivFull, _) => (x / y) as f32,
        (Float2::Min { nan }, _) => extremum(a, b, nan, true),
        (Float2::Max { nan }, _) => extremum(a, b, nan, false),
        (Float2::CopySign, _) => b.copysign(a),
    }
}

/// An exact sum of zero is -0 when rounding down, unless both operands are +0.
fn zero_sum(a: f32, b: f32, round: Round) -> Option<f32> {
    if a != -b || a.is_nan() || a.is_infinite() {
        return None;
    }
    let both_positive = a == 0.0 && a.is_sign_positive() && b.is_sign_positive();
    let both_negative = a == 0.0 && a.is_sign_negative() && b.is_sign_negative();
    Some(if both_negative || round == Round::Down && !both_positive {
        -0.0
    } else {
        0.0
    })
}

/// If one operand is NaN, the result is the other one, or NaN if `nan` is set. -0 is less than +0.
pub(super) fn extremum(a: f32, b: f32, nan: bool, least: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return match (nan, a.is_nan()) {
            (true, _) => NAN,
            (false, true) => b,
            (false, false) => a,
        };
    }
    let a_first = a < b || a == b && a.is_sign_negative();
    if a_first == least { a } else { b }
}

fn f64_binary(f: Float2, a: f64, b: f64) -> f64 {
    match f {
        Float2::Add => a + b,
        Float2::Sub => a - b,
        Float2::Mul => a * b,
        Float2::Div | Float2::DivApprox | Float2::DivFull => a / b,
        Float2::CopySign => b.copysign(a),
        Float2::Min { .. } | Float2::Max { .. } => {
            if a.is_nan() || b.is_nan() {
                return if a.is_nan() { b } else { a };
            }
            let a_first = a < b || a == b && a.is_sign_negative();
            if a_first == matches!(f, Float2::Min { .. }) {
                a
            } else {
                b
            }
        }
    }
}

pub(super) fn fma(
    regs: &mut Regs,
    mask: u32,
    wide: bool,
    mode: FloatMode,
    d: Row,
    rows: (Row, Row, Row),
) {
    if wide {
        return map3(regs, mask, d, rows, |a: f64, b: f64, c: f64| {
            a.mul_add(b, c)
        });
    }
    if mode.round == Round::Nearest {
        if !mode.ftz && !mode.sat {
            return map3(regs, mask, d, rows, |a: f32, b: f32, c: f32| {
                canonical(a.mul_add(b, c))
            });
        }
        return map3(regs, mask, d, rows, |a: f32, b: f32, c: f32| {
            output(
                input(a, mode.ftz).mul_add(input(b, mode.ftz), input(c, mode.ftz)),
                mode,
            )
        });
    }
    map3(regs, mask, d, rows, |a: f32, b: f32, c: f32| {
        let [a, b, c] = [a, b, c].map(|x| f64::from(input(x, mode.ftz)));
        let product = a * b;
        let sum = add_odd(product, c);
        let zero = sum == 0.0
            && mode.round == Round::Down
            && (product.is_sign_negative() || c.is_sign_negative());
        output(if zero { -0.0 } else { to_f32(sum, mode.round) }, mode)
    });
}
