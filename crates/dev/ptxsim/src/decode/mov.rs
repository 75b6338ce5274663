//! `mov`, `selp`, `slct`, `cvta`.

use super::cursor::Cursor;
use crate::error::{Result, Space};
use crate::ir::{Op, Type};
use crate::parse::Operand;

const ANY: [Type; 12] = [
    Type::Pred,
    Type::B16,
    Type::B32,
    Type::B64,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F32,
    Type::F64,
];

pub(super) fn mov(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let ty = c.ty(&ANY)?;
    c.operands(2..=2)?;
    if ty == Type::Pred {
        let d = c.destination_row(0, ty)?;
        return Ok(Op::MovPred {
            d,
            a: c.predicate_source(1)?,
        });
    }
    if matches!(c.operand(1).0, Operand::Vector(_)) {
        let (part, bits) = part(c, ty, 1)?;
        let parts = c
            .parts(1)
            .into_iter()
            .map(|(o, at)| c.source_of(o, at, part, false))
            .collect::<Result<_>>()?;
        return Ok(Op::Pack {
            d: c.destination(0, ty)?,
            parts,
            bits,
        });
    }
    if matches!(c.operand(0).0, Operand::Vector(_)) {
        let (part, bits) = part(c, ty, 0)?;
        let a = c.source(1, ty)?;
        let d = c
            .parts(0)
            .into_iter()
            .map(|(o, at)| match o {
                Operand::Name(name) if name == "_" => Ok(None),
                _ => c.destination_of(o, at, part, false).map(Some),
            })
            .collect::<Result<_>>()?;
        return Ok(Op::Unpack { d, a, bits });
    }
    let a = c.source(1, ty)?;
    Ok(Op::Mov {
        d: c.destination(0, ty)?,
        a,
    })
}

/// The type of each part of a `{a, b}` operand.
fn part(c: &Cursor<'_, '_>, ty: Type, i: usize) -> Result<(Type, u32)> {
    match (ty, c.parts(i).len()) {
        (Type::B32, 2) => Ok((Type::B16, 16)),
        (Type::B64, 2) => Ok((Type::B32, 32)),
        (Type::B64, 4) => Ok((Type::B16, 16)),
        (_, n) => c.bad(format!("cannot pack or unpack {n} parts of {ty}")),
    }
}

pub(super) fn selp(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let ty = c.ty(&ANY[1..])?;
    c.operands(4..=4)?;
    let (a, b) = (c.source(1, ty)?, c.source(2, ty)?);
    let p = c.predicate_source(3)?;
    Ok(Op::Selp {
        d: c.destination(0, ty)?,
        a,
        b,
        c: p,
    })
}

pub(super) fn slct(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let ftz = c.flag("ftz");
    let ty = c.ty(&ANY[1..])?;
    let by = c.ty(if ftz {
        &[Type::F32]
    } else {
        &[Type::S32, Type::F32]
    })?;
    c.operands(4..=4)?;
    let (a, b) = (c.source(1, ty)?, c.source(2, ty)?);
    let row = c.row(3, by)?;
    Ok(Op::Slct {
        d: c.destination(0, ty)?,
        a,
        b,
        c: row,
        float: by == Type::F32,
        ftz,
    })
}

pub(super) fn cvta(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let to_space = c.flag("to");
    let space = c.require(&[
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("const", Space::Const),
    ])?;
    c.ty(&[Type::U64])?;
    c.operands(2..=2)?;
    let a = c.row(1, Type::U64)?;
    Ok(Op::Cvta {
        space,
        to_space,
        d: c.destination_row(0, Type::U64)?,
        a,
    })
}
