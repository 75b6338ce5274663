//! Floating-point arithmetic on f32, f64, f16 and bf16.

use super::cursor::Cursor;
use crate::error::Result;
use crate::ir::{Float1, Float2, FloatMode, HalfFormat, HalfMode, HalfOp, Op, Round, Type};

const ROUNDS: [(&str, Round); 4] = [
    ("rn", Round::Nearest),
    ("rz", Round::Zero),
    ("rm", Round::Down),
    ("rp", Round::Up),
];
const HALVES: [Type; 4] = [Type::F16, Type::F16x2, Type::Bf16, Type::Bf16x2];

/// The types that this module handles.
pub(super) const TYPES: [Type; 6] = [
    Type::F32,
    Type::F64,
    Type::F16,
    Type::F16x2,
    Type::Bf16,
    Type::Bf16x2,
];

pub(super) fn arithmetic(c: &mut Cursor<'_, '_>) -> Result<Op> {
    if c.mentions(&HALVES) {
        return half(c);
    }
    match c.name() {
        "add" => rounded(c, Float2::Add),
        "sub" => rounded(c, Float2::Sub),
        "mul" => rounded(c, Float2::Mul),
        "fma" | "mad" => fma(c),
        "div" => div(c),
        "min" => extremum(c, false),
        "max" => extremum(c, true),
        "abs" => sign(c, Float1::Abs),
        "neg" => sign(c, Float1::Neg),
        "copysign" => binary(c, Float2::CopySign, false, false, None),
        "rcp" => reciprocal(c, Float1::RcpApprox, Float1::Rcp),
        "sqrt" => reciprocal(c, Float1::SqrtApprox, Float1::Sqrt),
        "rsqrt" => approximate(c, Float1::RsqrtApprox),
        "ex2" => approximate(c, Float1::Ex2),
        "lg2" => approximate(c, Float1::Lg2),
        "sin" => approximate(c, Float1::Sin),
        "cos" => approximate(c, Float1::Cos),
        "tanh" => {
            c.need("approx")?;
            unary(c, Float1::Tanh, false, Round::Nearest, &[Type::F32])
        }
        _ => c.unknown_instruction(),
    }
}

fn unary(c: &mut Cursor<'_, '_>, f: Float1, ftz: bool, round: Round, types: &[Type]) -> Result<Op> {
    let ty = c.ty(types)?;
    c.operands(2..=2)?;
    let a = c.row(1, ty)?;
    let mode = FloatMode {
        round,
        ftz,
        sat: false,
    };
    Ok(Op::Float1 {
        f,
        wide: ty == Type::F64,
        mode,
        d: c.destination_row(0, ty)?,
        a,
    })
}

/// `round`: `None` if the instruction has no rounding modifier.
fn binary(
    c: &mut Cursor<'_, '_>,
    f: Float2,
    ftz: bool,
    sat: bool,
    round: Option<Round>,
) -> Result<Op> {
    let ty = float_type(c, ftz || sat, round.unwrap_or(Round::Nearest))?;
    c.operands(3..=3)?;
    let (a, b) = (c.row(1, ty)?, c.row(2, ty)?);
    let mode = FloatMode {
        round: round.unwrap_or(Round::Nearest),
        ftz,
        sat,
    };
    Ok(Op::Float2 {
        f,
        wide: ty == Type::F64,
        mode,
        d: c.destination_row(0, ty)?,
        a,
        b,
    })
}

/// f64 has neither `.ftz` nor `.sat`; only rounding to nearest is simulated.
fn float_type(c: &mut Cursor<'_, '_>, only_f32: bool, round: Round) -> Result<Type> {
    let f64_too = !only_f32 && round == Round::Nearest;
    c.ty(if f64_too {
        &[Type::F32, Type::F64]
    } else {
        &[Type::F32]
    })
}

fn rounded(c: &mut Cursor<'_, '_>, f: Float2) -> Result<Op> {
    let round = c.choose(&ROUNDS);
    let ftz = c.flag("ftz");
    let sat = c.flag("sat");
    binary(c, f, ftz, sat, round)
}

/// `fma`, and its old name `mad.rn`; both require a rounding.
fn fma(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let round = c.require(&ROUNDS)?;
    let ftz = c.flag("ftz");
    let sat = c.flag("sat");
    let ty = float_type(c, ftz || sat, round)?;
    c.operands(4..=4)?;
    let (a, b, addend) = (c.row(1, ty)?, c.row(2, ty)?, c.row(3, ty)?);
    let mode = FloatMode { round, ftz, sat };
    Ok(Op::Fma {
        wide: ty == Type::F64,
        mode,
        d: c.destination_row(0, ty)?,
        a,
        b,
        c: addend,
    })
}

fn div(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let approximate = c.choose(&[("approx", Float2::DivApprox), ("full", Float2::DivFull)]);
    if let Some(f) = approximate {
        let ftz = c.flag("ftz");
        c.ty(&[Type::F32])?;
        c.operands(3..=3)?;
        let (a, b) = (c.row(1, Type::F32)?, c.row(2, Type::F32)?);
        let mode = FloatMode {
            round: Round::Nearest,
            ftz,
            sat: false,
        };
        return Ok(Op::Float2 {
            f,
            wide: false,
            mode,
            d: c.destination_row(0, Type::F32)?,
            a,
            b,
        });
    }
    let round = c.require(&ROUNDS)?;
    let ftz = c.flag("ftz");
    binary(c, Float2::Div, ftz, false, Some(round))
}

fn extremum(c: &mut Cursor<'_, '_>, max: bool) -> Result<Op> {
    let ftz = c.flag("ftz");
    let nan = c.flag("NaN");
    let f = if max {
        Float2::Max { nan }
    } else {
        Float2::Min { nan }
    };
    if nan {
        let ty = c.ty(&[Type::F32])?;
        c.operands(3..=3)?;
        let (a, b) = (c.row(1, ty)?, c.row(2, ty)?);
        let mode = FloatMode {
            round: Round::Nearest,
            ftz,
            sat: false,
        };
        return Ok(Op::Float2 {
            f,
            wide: false,
            mode,
            d: c.destination_row(0, ty)?,
            a,
            b,
        });
    }
    binary(c, f, ftz, false, None)
}

fn sign(c: &mut Cursor<'_, '_>, f: Float1) -> Result<Op> {
    let ftz = c.flag("ftz");
    unary(
        c,
        f,
        ftz,
        Round::Nearest,
        if ftz {
            &[Type::F32]
        } else {
            &[Type::F32, Type::F64]
        },
    )
}

fn reciprocal(c: &mut Cursor<'_, '_>, approximate: Float1, exact: Float1) -> Result<Op> {
    if c.flag("approx") {
        let ftz = c.flag("ftz");
        return unary(c, approximate, ftz, Round::Nearest, &[Type::F32]);
    }
    let round = c.require(&ROUNDS)?;
    let ftz = c.flag("ftz");
    let f64_too = !ftz && round == Round::Nearest;
    unary(
        c,
        exact,
        ftz,
        round,
        if f64_too {
            &[Type::F32, Type::F64]
        } else {
            &[Type::F32]
        },
    )
}

fn approximate(c: &mut Cursor<'_, '_>, f: Float1) -> Result<Op> {
    c.need("approx")?;
    let ftz = c.flag("ftz");
    unary(c, f, ftz, Round::Nearest, &[Type::F32])
}

fn half(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let name = c.name();
    let approximate = matches!(name, "ex2" | "tanh");
    if approximate {
        c.need("approx")?;
    }
    let rounding = matches!(name, "add" | "sub" | "mul" | "fma");
    if name == "fma" {
        c.need("rn")?;
    } else if rounding {
        c.flag("rn");
    }
    let ftz = name != "tanh" && c.flag("ftz");
    let sat = rounding && c.flag("sat");
    let relu = name == "fma" && !sat && c.flag("relu");
    let nan = matches!(name, "min" | "max") && c.flag("NaN");
    let f = match name {
        "neg" => HalfOp::Neg,
        "abs" => HalfOp::Abs,
        "ex2" => HalfOp::Ex2,
        "tanh" => HalfOp::Tanh,
        "add" => HalfOp::Add,
        "sub" => HalfOp::Sub,
        "mul" => HalfOp::Mul,
        "min" => HalfOp::Min { nan },
        "max" => HalfOp::Max { nan },
        "fma" => HalfOp::Fma { relu },
        _ => return c.unknown_instruction(),
    };
    let ty = c.ty(&HALVES)?;
    let is_bf16 = matches!(ty, Type::Bf16 | Type::Bf16x2);
    let packed = matches!(ty, Type::F16x2 | Type::Bf16x2);
    match f {
        _ if !is_bf16 => {}
        // ex2.approx.ftz.bf16 is the only form with .ftz, and bf16 has no form without it.
        HalfOp::Ex2 if ftz => c.need_target(90)?,
        _ if ftz || sat || f == HalfOp::Ex2 => return c.bad("bf16 does not have this form"),
        HalfOp::Add | HalfOp::Sub | HalfOp::Mul | HalfOp::Tanh => c.need_target(90)?,
        _ => {}
    }
    // .bf16 is kept only in untyped registers.
    let ty = match (is_bf16, packed) {
        (true, true) => Type::B32,
        (true, false) => Type::B16,
        _ => ty,
    };
    let sources = match f {
        HalfOp::Neg | HalfOp::Abs | HalfOp::Ex2 | HalfOp::Tanh => 1,
        HalfOp::Fma { .. } => 3,
        _ => 2,
    };
    c.operands(sources + 1..=sources + 1)?;
    let a = c.row(1, ty)?;
    let b = if sources > 1 { c.row(2, ty)? } else { a };
    let third = if sources > 2 { c.row(3, ty)? } else { a };
    let format = if is_bf16 {
        HalfFormat::Bf16
    } else {
        HalfFormat::F16
    };
    Ok(Op::Half {
        f,
        mode: HalfMode {
            format,
            packed,
            ftz,
            sat,
        },
        d: c.destination_row(0, ty)?,
        a,
        b,
        c: third,
    })
}
