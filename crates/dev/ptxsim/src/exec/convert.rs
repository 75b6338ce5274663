//! `cvt`.

use super::float::flush;
use super::half::{narrow, nearest_bf16, nearest_f16, widen};
use super::regs::{LANES, Regs, map1, map2};
use super::round::{F16, F32, F64, TF32, round_f64, round_parts};
use crate::ir::{Convert, HalfFormat, Reg, Round, Row, Type};

/// The source value of a conversion.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

pub(super) fn cvt(regs: &mut Regs, mask: u32, how: Convert, d: Reg, a: Reg) {
    let plain = !how.ftz && !how.sat && !how.relu && !how.integral;
    match (how.to, how.from, d, a) {
        (Type::Bf16, Type::F32, Reg::B32(d), Reg::B32(a))
            if plain && how.round == Round::Nearest =>
        {
            return map1(regs, mask, d, a, |x: f32| u32::from(nearest_bf16(x)));
        }
        (Type::F16, Type::F32, Reg::B32(d), Reg::B32(a))
            if plain && how.round == Round::Nearest =>
        {
            return map1(regs, mask, d, a, |x: f32| u32::from(nearest_f16(x)));
        }
        (Type::U64, Type::U32, Reg::B64(d), Reg::B32(a)) => {
            return map1(regs, mask, d, a, |x: u32| u64::from(x));
        }
        (Type::S64, Type::S32, Reg::B64(d), Reg::B32(a)) => {
            return map1(regs, mask, d, a, |x: i32| i64::from(x));
        }
        (Type::U32, Type::U64, Reg::B32(d), Reg::B64(a)) if plain => {
            return map1(regs, mask, d, a, |x: u64| x as u32);
        }
        (Type::F32, Type::S32, Reg::B32(d), Reg::B32(a))
            if plain && how.round == Round::Nearest =>
        {
            return map1(regs, mask, d, a, |x: i32| x as f32);
        }
        (Type::F32, Type::U32, Reg::B32(d), Reg::B32(a))
            if plain && how.round == Round::Nearest =>
        {
            return map1(regs, mask, d, a, |x: u32| x as f32);
        }
        _ => {}
    }
    let values = regs.get(a);
    let mut out = [0; LANES];
    for (out, &value) in out.iter_mut().zip(&values) {
        *out = convert(how, value);
    }
    regs.put(d, mask, &out);
}

/// Converts two f32 to a pair of halves.
pub(super) fn cvt_pair(regs: &mut Regs, mask: u32, how: Convert, d: Row, rows: (Row, Row)) {
    let pair = |high: u16, low: u16| u32::from(high) << 16 | u32::from(low);
    if how.round == Round::Nearest && !how.relu {
        return match how.to {
            Type::F16x2 => map2(regs, mask, d, rows, |a: f32, b: f32| {
                pair(nearest_f16(a), nearest_f16(b))
            }),
            _ => map2(regs, mask, d, rows, |a: f32, b: f32| {
                pair(nearest_bf16(a), nearest_bf16(b))
            }),
        };
    }
    let format = if how.to == Type::F16x2 {
        HalfFormat::F16
    } else {
        HalfFormat::Bf16
    };
    map2(regs, mask, d, rows, |high: f32, low: f32| {
        let [high, low] = [high, low].map(|x| {
            let bits = narrow(x.into(), format, how.round);
            if how.relu { relu(bits) } else { bits }
        });
        pair(high, low)
    });
}

/// Negative values become +0; NaN stays the canonical NaN.
fn relu(bits: u16) -> u16 {
    if bits & 0x8000 != 0 { 0 } else { bits }
}

fn convert(how: Convert, value: u64) -> u64 {
    let number = match read(how.from, value) {
        Number::Float(x) if how.ftz && how.from == Type::F32 => {
            Number::Float(flush(x as f32).into())
        }
        number => number,
    };
    if how.to.is_float() {
        to_float(how, number)
    } else {
        to_int(how, number)
    }
}

fn read(ty: Type, value: u64) -> Number {
    match ty {
        Type::U8 => Number::Int((value as u8).into()),
        Type::S8 => Number::Int((value as i8).into()),
        Type::U16 => Number::Int((value as u16).into()),
        Type::S16 => Number::Int((value as i16).into()),
        Type::U32 => Number::Int((value as u32).into()),
        Type::S32 => Number::Int((value as i32).into()),
        Type::U64 => Number::Int(value.into()),
        Type::S64 => Number::Int((value as i64).into()),
        Type::F16 => Number::Float(widen(value as u16, HalfFormat::F16).into()),
        Type::Bf16 => Number::Float(widen(value as u16, HalfFormat::Bf16).into()),
        Type::F32 => Number::Float(f32::from_bits(value as u32).into()),
        Type::F64 => Number::Float(f64::from_bits(value)),
        _ => unreachable!("the decoder refuses other types"),
    }
}

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::NearestAway => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

fn to_float(how: Convert, number: Number) -> u64 {
    let clamp = |x: f64| {
        if x.is_nan() || x <= 0.0 {
            0.0
        } else {
            x.min(1.0)
        }
    };
    let bits = match number {
        Number::Int(value) => {
            let format = match how.to {
                Type::F16 => F16,
                Type::F32 => F32,
                _ => F64,
            };
            let value = if how.sat { value.clamp(0, 1) } else { value };
            round_parts(value < 0, value.unsigned_abs(), 0, format, how.round)
        }
        Number::Float(x) => {
            let x = if how.integral {
                integral(x, how.round)
            } else {
                x
            };
            let x = if how.sat { clamp(x) } else { x };
            match how.to {
                Type::F16 => narrow(x, HalfFormat::F16, how.round).into(),
                Type::Bf16 => narrow(x, HalfFormat::Bf16, how.round).into(),
                Type::F32 => round_f64(x, F32, how.round),
                // A tf32 is an f32 whose last 13 bits are zero.
                Type::Tf32 if x.is_nan() => 0x7fff_ffff,
                Type::Tf32 => round_f64(x, TF32, how.round) << 13,
                _ => round_f64(x, F64, how.round),
            }
        }
    };
    match how.to {
        Type::F16 | Type::Bf16 if how.relu => relu(bits as u16).into(),
        Type::Tf32 if how.relu && bits & 0x8000_0000 != 0 => 0,
        Type::F32 if how.ftz => flush(f32::from_bits(bits as u32)).to_bits().into(),
        _ => bits,
    }
}

/// Floats are clamped to the range. Integers are clamped with `.sat`, and truncated without. NaN becomes 0; from f64,
/// or to 64 bits, only the top bit is set (PTX ISA, `cvt`, and an H200).
fn to_int(how: Convert, number: Number) -> u64 {
    let bits = 8 * how.to.bytes() as u32;
    let (least, most) = if how.to.is_signed() {
        (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
    } else {
        (0, (1i128 << bits) - 1)
    };
    let value = match number {
        Number::Float(x) if x.is_nan() && (how.from == Type::F64 || bits == 64) => 1 << (bits - 1),
        Number::Float(x) if x.is_nan() => 0,
        // Rust's cast clamps to i128, whose range holds both bounds.
        Number::Float(x) => (integral(x, how.round) as i128).clamp(least, most),
        Number::Int(value) if how.sat => value.clamp(least, most),
        Number::Int(value) => value,
    };
    // A register wider than the type is filled with the sign or with zeros.
    let cut = value & ((1 << bits) - 1);
    let extended = if how.to.is_signed() && cut >> (bits - 1) & 1 == 1 {
        cut - (1 << bits)
    } else {
        cut
    };
    extended as u64
}
