//! Integer arithmetic, logic and bits.

use super::cursor::Cursor;
use crate::error::Result;
use crate::ir::{Int1, Int2, Int3, Logic, Op, Prmt, Type};

const INTS: [Type; 6] = [
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S16,
    Type::S32,
    Type::S64,
];
const SIGNED: [Type; 3] = [Type::S16, Type::S32, Type::S64];
const WIDE: [Type; 4] = [Type::U32, Type::U64, Type::S32, Type::S64];
const BITS: [Type; 3] = [Type::B16, Type::B32, Type::B64];

pub(super) fn integer(c: &mut Cursor<'_, '_>) -> Result<Op> {
    match c.name() {
        "add" => saturating(c, Int2::Add, Int2::AddSat),
        "sub" => saturating(c, Int2::Sub, Int2::SubSat),
        "mul" => mul(c),
        "mad" => mad(c),
        "div" => int2(c, Int2::Div, &INTS),
        "rem" => int2(c, Int2::Rem, &INTS),
        "min" => int2(c, Int2::Min, &INTS),
        "max" => int2(c, Int2::Max, &INTS),
        "abs" => int1(c, Int1::Abs, &SIGNED),
        "neg" => int1(c, Int1::Neg, &SIGNED),
        "sad" => int3(c, Int3::Sad, &INTS),
        "and" => logic(c, Int2::And, Logic::And),
        "or" => logic(c, Int2::Or, Logic::Or),
        "xor" => logic(c, Int2::Xor, Logic::Xor),
        "not" => not(c),
        "cnot" => int1(c, Int1::Cnot, &BITS),
        "shl" => shift(c, Int2::Shl, &BITS),
        "shr" => {
            let all = [&BITS[..], &INTS[..]].concat();
            shift(c, Int2::Shr, &all)
        }
        "popc" => count(c, Int1::Popc),
        "clz" => count(c, Int1::Clz),
        "brev" => int1(c, Int1::Brev, &BITS[1..]),
        "bfe" => bfe(c),
        "bfi" => bfi(c),
        "prmt" => prmt(c),
        "lop3" => lop3(c),
        "shf" => shf(c),
        _ => c.unknown_instruction(),
    }
}

/// The type of twice the size, with the same signedness.
fn doubled(ty: Type) -> Type {
    match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        _ => Type::S64,
    }
}

fn int1(c: &mut Cursor<'_, '_>, f: Int1, types: &[Type]) -> Result<Op> {
    let ty = c.ty(types)?;
    c.operands(2..=2)?;
    let a = c.row(1, ty)?;
    Ok(Op::Int1 {
        f,
        ty,
        d: c.destination_row(0, ty)?,
        a,
    })
}

/// `popc`, `clz`: the result is a `.u32`.
fn count(c: &mut Cursor<'_, '_>, f: Int1) -> Result<Op> {
    let ty = c.ty(&BITS[1..])?;
    c.operands(2..=2)?;
    let a = c.row(1, ty)?;
    Ok(Op::Int1 {
        f,
        ty,
        d: c.destination_row(0, Type::U32)?,
        a,
    })
}

fn int2(c: &mut Cursor<'_, '_>, f: Int2, types: &[Type]) -> Result<Op> {
    let ty = c.ty(types)?;
    c.operands(3..=3)?;
    let (a, b) = (c.row(1, ty)?, c.row(2, ty)?);
    Ok(Op::Int2 {
        f,
        ty,
        d: c.destination_row(0, ty)?,
        a,
        b,
    })
}

fn int3(c: &mut Cursor<'_, '_>, f: Int3, types: &[Type]) -> Result<Op> {
    let ty = c.ty(types)?;
    c.operands(4..=4)?;
    let (a, b, d) = (c.row(1, ty)?, c.row(2, ty)?, c.row(3, ty)?);
    Ok(Op::Int3 {
        f,
        ty,
        d: c.destination_row(0, ty)?,
        a,
        b,
        c: d,
    })
}

fn saturating(c: &mut Cursor<'_, '_>, f: Int2, saturated: Int2) -> Result<Op> {
    if c.flag("sat") {
        int2(c, saturated, &[Type::S32])
    } else {
        int2(c, f, &INTS)
    }
}

#[derive(Clone, Copy)]
enum Half {
    Lo,
    Hi,
    Wide,
}

const HALVES: [(&str, Half); 3] = [("lo", Half::Lo), ("hi", Half::Hi), ("wide", Half::Wide)];

fn mul(c: &mut Cursor<'_, '_>) -> Result<Op> {
    match c.require(&HALVES)? {
        Half::Lo => int2(c, Int2::MulLo, &INTS),
        Half::Hi => int2(c, Int2::MulHi, &INTS),
        Half::Wide => {
            let ty = c.ty(&[Type::U16, Type::U32, Type::S16, Type::S32])?;
            c.operands(3..=3)?;
            let (a, b) = (c.row(1, ty)?, c.row(2, ty)?);
            Ok(Op::Int2 {
                f: Int2::MulWide,
                ty,
                d: c.destination_row(0, doubled(ty))?,
                a,
                b,
            })
        }
    }
}

fn mad(c: &mut Cursor<'_, '_>) -> Result<Op> {
    match c.require(&HALVES)? {
        Half::Lo => int3(c, Int3::MadLo, &INTS),
        Half::Hi if c.flag("sat") => int3(c, Int3::MadHiSat, &[Type::S32]),
        Half::Hi => int3(c, Int3::MadHi, &INTS),
        Half::Wide => {
            let ty = c.ty(&[Type::U16, Type::U32, Type::S16, Type::S32])?;
            c.operands(4..=4)?;
            let (a, b, addend) = (c.row(1, ty)?, c.row(2, ty)?, c.row(3, doubled(ty))?);
            Ok(Op::Int3 {
                f: Int3::MadWide,
                ty,
                d: c.destination_row(0, doubled(ty))?,
                a,
                b,
                c: addend,
            })
        }
    }
}

fn logic(c: &mut Cursor<'_, '_>, f: Int2, on_predicates: Logic) -> Result<Op> {
    let ty = c.ty(&[Type::Pred, Type::B16, Type::B32, Type::B64])?;
    c.operands(3..=3)?;
    if ty == Type::Pred {
        let (a, b) = (c.predicate_source(1)?, c.predicate_source(2)?);
        return Ok(Op::Logic {
            f: on_predicates,
            d: c.destination_row(0, ty)?,
            a,
            b,
        });
    }
    let (a, b) = (c.row(1, ty)?, c.row(2, ty)?);
    Ok(Op::Int2 {
        f,
        ty,
        d: c.destination_row(0, ty)?,
        a,
        b,
    })
}

fn not(c: &mut Cursor<'_, '_>) -> Result<Op> {
    if !c.flag("pred") {
        return int1(c, Int1::Not, &BITS);
    }
    c.operands(2..=2)?;
    let mut a = c.predicate_source(1)?;
    a.negated = !a.negated;
    Ok(Op::MovPred {
        d: c.destination_row(0, Type::Pred)?,
        a,
    })
}

fn shift(c: &mut Cursor<'_, '_>, f: Int2, types: &[Type]) -> Result<Op> {
    let ty = c.ty(types)?;
    c.operands(3..=3)?;
    let (a, b) = (c.row(1, ty)?, c.row(2, Type::U32)?);
    Ok(Op::Int2 {
        f,
        ty,
        d: c.destination_row(0, ty)?,
        a,
        b,
    })
}

fn bfe(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let ty = c.ty(&WIDE)?;
    c.operands(4..=4)?;
    let (a, position, length) = (c.row(1, ty)?, c.row(2, Type::U32)?, c.row(3, Type::U32)?);
    Ok(Op::Int3 {
        f: Int3::Bfe,
        ty,
        d: c.destination_row(0, ty)?,
        a,
        b: position,
        c: length,
    })
}

fn bfi(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let ty = c.ty(&BITS[1..])?;
    c.operands(5..=5)?;
    let (a, b) = (c.row(1, ty)?, c.row(2, ty)?);
    let (position, length) = (c.row(3, Type::U32)?, c.row(4, Type::U32)?);
    Ok(Op::Bfi {
        wide: ty == Type::B64,
        d: c.destination_row(0, ty)?,
        a,
        b,
        position,
        length,
    })
}

fn prmt(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("b32")?;
    let modes = [
        ("f4e", Prmt::F4e),
        ("b4e", Prmt::B4e),
        ("rc8", Prmt::Rc8),
        ("ecl", Prmt::Ecl),
        ("ecr", Prmt::Ecr),
        ("rc16", Prmt::Rc16),
    ];
    let mode = c.choose(&modes).unwrap_or(Prmt::Index);
    c.operands(4..=4)?;
    let (a, b, selector) = (
        c.row(1, Type::B32)?,
        c.row(2, Type::B32)?,
        c.row(3, Type::B32)?,
    );
    Ok(Op::Prmt {
        mode,
        d: c.destination_row(0, Type::B32)?,
        a,
        b,
        c: selector,
    })
}

fn lop3(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("b32")?;
    c.operands(5..=5)?;
    let (a, b, third) = (
        c.row(1, Type::B32)?,
        c.row(2, Type::B32)?,
        c.row(3, Type::B32)?,
    );
    let table = c.number(4, 0..=255)? as u8;
    Ok(Op::Lop3 {
        table,
        d: c.destination_row(0, Type::B32)?,
        a,
        b,
        c: third,
    })
}

fn shf(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let left = c.require(&[("l", true), ("r", false)])?;
    let clamp = c.require(&[("clamp", true), ("wrap", false)])?;
    c.need("b32")?;
    c.operands(4..=4)?;
    let (a, b, amount) = (
        c.row(1, Type::B32)?,
        c.row(2, Type::B32)?,
        c.row(3, Type::U32)?,
    );
    Ok(Op::Shf {
        left,
        clamp,
        d: c.destination_row(0, Type::B32)?,
        a,
        b,
        c: amount,
    })
}
