//! Comparisons, branches, barriers, and operations that the lanes of a warp perform together.

use super::cursor::Cursor;
use crate::error::Result;
use crate::ir::{Compare, Logic, Op, PredSource, Reduce, Row, Shuffle, Type, Vote};
use crate::parse::Operand;

const ORDERED: [(&str, Compare); 6] = [
    ("eq", Compare::Eq),
    ("ne", Compare::Ne),
    ("lt", Compare::Lt),
    ("le", Compare::Le),
    ("gt", Compare::Gt),
    ("ge", Compare::Ge),
];
const UNSIGNED: [(&str, Compare); 4] = [
    ("lo", Compare::Lt),
    ("ls", Compare::Le),
    ("hi", Compare::Gt),
    ("hs", Compare::Ge),
];
const UNORDERED: [(&str, Compare); 8] = [
    ("equ", Compare::Equ),
    ("neu", Compare::Neu),
    ("ltu", Compare::Ltu),
    ("leu", Compare::Leu),
    ("gtu", Compare::Gtu),
    ("geu", Compare::Geu),
    ("num", Compare::Num),
    ("nan", Compare::Nan),
];
const COMPARED: [Type; 13] = [
    Type::B16,
    Type::B32,
    Type::B64,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::Bf16,
    Type::F32,
    Type::F64,
];

struct Comparison {
    f: Compare,
    logic: Option<Logic>,
    ftz: bool,
}

/// `.eq{.and}{.ftz}`: the modifiers before the types.
fn comparison(c: &mut Cursor<'_, '_>) -> Result<(Comparison, bool, bool)> {
    let unsigned = c.choose(&UNSIGNED);
    let unordered = if unsigned.is_none() {
        c.choose(&UNORDERED)
    } else {
        None
    };
    let f = match unsigned.or(unordered) {
        Some(f) => f,
        None => c.require(&ORDERED)?,
    };
    let logic = c.choose(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
    let ftz = c.flag("ftz");
    Ok((
        Comparison { f, logic, ftz },
        unsigned.is_some(),
        unordered.is_some(),
    ))
}

/// Checks that the comparison exists for the type.
fn check(
    c: &Cursor<'_, '_>,
    f: Compare,
    ty: Type,
    ftz: bool,
    unsigned: bool,
    unordered: bool,
) -> Result<()> {
    if ty.is_bits() && !matches!(f, Compare::Eq | Compare::Ne) {
        return c.bad(format!("{ty} can be compared with .eq and .ne only"));
    }
    if unsigned && (ty.is_float() || ty.is_signed()) || unordered && !ty.is_float() {
        return c.bad(format!("{ty} does not have this comparison"));
    }
    if ftz && !matches!(ty, Type::F32 | Type::F16) {
        return c.bad(".ftz needs .f32 or .f16");
    }
    Ok(())
}

fn register_type(ty: Type) -> Type {
    if ty == Type::Bf16 { Type::B16 } else { ty }
}

fn combine(c: &mut Cursor<'_, '_>, logic: Option<Logic>) -> Result<Option<(Logic, PredSource)>> {
    match logic {
        Some(logic) => Ok(Some((logic, c.predicate_source(3)?))),
        None => Ok(None),
    }
}

pub(super) fn setp(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let (Comparison { f, logic, ftz }, unsigned, unordered) = comparison(c)?;
    let ty = c.ty(&COMPARED)?;
    check(c, f, ty, ftz, unsigned, unordered)?;
    let sources = 3 + usize::from(logic.is_some());
    c.operands(sources..=sources)?;
    let (a, b) = (c.row(1, register_type(ty))?, c.row(2, register_type(ty))?);
    let combine = combine(c, logic)?;
    let (d, not_d) = match c.operand(0) {
        (Operand::Pair(p, q), at) => (sink(c, p, at)?, sink(c, q, at)?),
        (Operand::Name(p), at) => (sink(c, p, at)?, None),
        (_, at) => return c.bad_at(at, "a predicate is expected here"),
    };
    Ok(Op::Setp {
        f,
        ty,
        ftz,
        d,
        not_d,
        a,
        b,
        combine,
    })
}

/// A predicate to write, or `_`.
fn sink(c: &mut Cursor<'_, '_>, name: &str, at: crate::error::Position) -> Result<Option<Row>> {
    if name == "_" {
        Ok(None)
    } else {
        c.predicate_destination(name, at).map(Some)
    }
}

pub(super) fn set(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let (Comparison { f, logic, ftz }, unsigned, unordered) = comparison(c)?;
    let to = c.ty(&[Type::U32, Type::S32, Type::F32])?;
    let ty = c.ty(&COMPARED)?;
    check(c, f, ty, ftz, unsigned, unordered)?;
    let sources = 3 + usize::from(logic.is_some());
    c.operands(sources..=sources)?;
    let (a, b) = (c.row(1, register_type(ty))?, c.row(2, register_type(ty))?);
    let combine = combine(c, logic)?;
    Ok(Op::Set {
        f,
        ty,
        ftz,
        float: to == Type::F32,
        d: c.destination_row(0, to)?,
        a,
        b,
        combine,
    })
}

pub(super) fn bra(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let uniform = c.flag("uni");
    c.operands(1..=1)?;
    Ok(Op::Bra {
        target: c.label(0)?,
        uniform,
    })
}

pub(super) fn exit(c: &mut Cursor<'_, '_>) -> Result<Op> {
    if c.name() == "ret" {
        c.flag("uni");
    }
    c.operands(0..=0)?;
    Ok(Op::Exit)
}

/// `bar.sync`, `barrier.sync`, `bar.warp.sync`.
pub(super) fn barrier(c: &mut Cursor<'_, '_>) -> Result<Op> {
    if c.name() == "bar" && c.flag("warp") {
        c.need("sync")?;
        c.operands(1..=1)?;
        return Ok(Op::WarpSync {
            mask: c.row(0, Type::B32)?,
        });
    }
    c.flag("cta");
    c.need("sync")?;
    if c.name() == "barrier" {
        c.flag("aligned");
    }
    let n = c.operands(1..=2)?;
    let id = c.row(0, Type::U32)?;
    let count = if n == 2 {
        Some(c.row(1, Type::U32)?)
    } else {
        None
    };
    Ok(Op::Barrier { id, count })
}

pub(super) fn fence(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let global = if c.name() == "membar" {
        c.require(&[("cta", false), ("gl", true), ("sys", true)])?
    } else {
        c.choose(&[("sc", ()), ("acq_rel", ())]);
        c.require(&[("cta", false), ("gpu", true), ("sys", true)])?
    };
    c.operands(0..=0)?;
    if global {
        c.in_order();
    }
    Ok(Op::Fence { global })
}

pub(super) fn shfl(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("sync")?;
    let f = c.require(&[
        ("up", Shuffle::Up),
        ("down", Shuffle::Down),
        ("bfly", Shuffle::Butterfly),
        ("idx", Shuffle::Index),
    ])?;
    c.need("b32")?;
    c.operands(5..=5)?;
    let (a, b) = (c.row(1, Type::B32)?, c.row(2, Type::B32)?);
    let (clamp, mask) = (c.row(3, Type::B32)?, c.row(4, Type::B32)?);
    let (d, p) = c.destination_pair(0, Type::B32)?;
    Ok(Op::Shfl {
        f,
        d,
        p,
        a,
        b,
        c: clamp,
        mask,
    })
}

pub(super) fn vote(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("sync")?;
    let f = c.require(&[
        ("all", Vote::All),
        ("any", Vote::Any),
        ("uni", Vote::Uni),
        ("ballot", Vote::Ballot),
    ])?;
    let ty = if f == Vote::Ballot {
        Type::B32
    } else {
        Type::Pred
    };
    c.ty(&[ty])?;
    c.operands(3..=3)?;
    let a = c.predicate_source(1)?;
    let mask = c.row(2, Type::B32)?;
    Ok(Op::Vote {
        f,
        d: c.destination_row(0, ty)?,
        a,
        mask,
    })
}

pub(super) fn match_any(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("any")?;
    c.need("sync")?;
    let ty = c.ty(&[Type::B32, Type::B64])?;
    c.operands(3..=3)?;
    let (a, mask) = (c.row(1, ty)?, c.row(2, Type::B32)?);
    Ok(Op::MatchAny {
        wide: ty == Type::B64,
        d: c.destination_row(0, Type::B32)?,
        a,
        mask,
    })
}

pub(super) fn redux(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("sync")?;
    let f = c.require(&[
        ("add", Reduce::Add),
        ("min", Reduce::Min),
        ("max", Reduce::Max),
        ("and", Reduce::And),
        ("or", Reduce::Or),
        ("xor", Reduce::Xor),
    ])?;
    let types: &[Type] = match f {
        Reduce::Add | Reduce::Min | Reduce::Max => &[Type::U32, Type::S32],
        _ => &[Type::B32],
    };
    let ty = c.ty(types)?;
    c.operands(3..=3)?;
    let (a, mask) = (c.row(1, ty)?, c.row(2, Type::B32)?);
    Ok(Op::Redux {
        f,
        signed: ty == Type::S32,
        d: c.destination_row(0, ty)?,
        a,
        mask,
    })
}

pub(super) fn active_mask(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("b32")?;
    c.operands(1..=1)?;
    Ok(Op::ActiveMask {
        d: c.destination_row(0, Type::B32)?,
    })
}
