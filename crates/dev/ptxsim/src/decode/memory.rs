//! Loads, stores, atomics, `cp.async`, and the matrix instructions.

use super::cursor::Cursor;
use crate::error::{Result, Space};
use crate::ir::{AccessSpace, Elements, Mma, MmaType, Op, Reduce, Reg, Row, Type};
use crate::parse::{Operand, Value};

const ACCESSED: [Type; 14] = [
    Type::B8,
    Type::B16,
    Type::B32,
    Type::B64,
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F32,
    Type::F64,
];
const L1_HINTS: [(&str, ()); 5] = [
    ("L1::evict_normal", ()),
    ("L1::evict_unchanged", ()),
    ("L1::evict_first", ()),
    ("L1::evict_last", ()),
    ("L1::no_allocate", ()),
];
const PREFETCH_HINTS: [(&str, ()); 3] = [("L2::64B", ()), ("L2::128B", ()), ("L2::256B", ())];

/// The state space; generic if none is named.
fn space(c: &mut Cursor<'_, '_>, table: &[(&str, Space)]) -> AccessSpace {
    c.choose(table)
        .map_or(AccessSpace::Generic, AccessSpace::In)
}

fn vector(c: &mut Cursor<'_, '_>) -> usize {
    c.choose(&[("v2", 2), ("v4", 4)]).unwrap_or(1)
}

/// Records the size of an access. Races are detected at the granularity of the smallest access to shared or global
/// memory.
fn note_access(c: &mut Cursor<'_, '_>, space: AccessSpace, bytes: u64) {
    if matches!(space, AccessSpace::Generic | AccessSpace::In(Space::Shared)) {
        c.shared_access(bytes as u32);
    }
    if matches!(space, AccessSpace::Generic | AccessSpace::In(Space::Global)) {
        c.global_access(bytes as u32);
    }
}

/// The order and scope of a strong access. The simulator runs every access in order, so they only tell that blocks may
/// communicate.
fn strength(c: &mut Cursor<'_, '_>, order: &str) {
    if c.flag("volatile") {
        c.in_order();
        return;
    }
    c.flag("weak");
    if c.choose(&[("relaxed", ()), (order, ())]).is_some() {
        scope(c);
        c.in_order();
    }
}

fn scope(c: &mut Cursor<'_, '_>) {
    c.choose(&[("cta", ()), ("gpu", ()), ("sys", ())]);
}

pub(super) fn ld(c: &mut Cursor<'_, '_>) -> Result<Op> {
    strength(c, "acquire");
    let space = space(
        c,
        &[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("param", Space::Param),
            ("const", Space::Const),
        ],
    );
    // Cache hints change no result.
    if matches!(space, AccessSpace::In(Space::Global) | AccessSpace::Generic) {
        if c.choose(&[("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ())])
            .is_some()
        {
            // `.nc` may follow: ld.global.cg.nc
        }
        if space == AccessSpace::In(Space::Global) {
            c.flag("nc");
        }
        c.choose(&L1_HINTS);
        c.choose(&PREFETCH_HINTS);
    }
    let count = vector(c);
    let ty = c.ty(&ACCESSED)?;
    c.operands(2..=2)?;
    check_vector(c, count, ty, 0)?;
    let from = c.target(1, space, count as u64 * ty.bytes())?;
    let regs = c
        .parts(0)
        .into_iter()
        .map(|(operand, at)| match operand {
            Operand::Name(name) if name == "_" && count > 1 => Ok(None),
            _ => c.destination_of(operand, at, ty, true).map(Some),
        })
        .collect::<Result<_>>()?;
    note_access(c, space, ty.bytes());
    Ok(Op::Ld {
        to: Elements {
            regs,
            bytes: ty.bytes() as u32,
            signed: ty.is_signed(),
        },
        from,
    })
}

pub(super) fn st(c: &mut Cursor<'_, '_>) -> Result<Op> {
    strength(c, "release");
    let space = space(
        c,
        &[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
        ],
    );
    if matches!(space, AccessSpace::In(Space::Global) | AccessSpace::Generic) {
        c.choose(&[("wb", ()), ("cg", ()), ("cs", ()), ("wt", ())]);
        c.choose(&L1_HINTS);
    }
    let count = vector(c);
    let ty = c.ty(&ACCESSED)?;
    c.operands(2..=2)?;
    check_vector(c, count, ty, 1)?;
    let to = c.target(0, space, count as u64 * ty.bytes())?;
    let regs = c
        .parts(1)
        .into_iter()
        .map(|(operand, at)| c.source_of(operand, at, ty, true).map(Some))
        .collect::<Result<_>>()?;
    note_access(c, space, ty.bytes());
    Ok(Op::St {
        from: Elements {
            regs,
            bytes: ty.bytes() as u32,
            signed: false,
        },
        to,
    })
}

fn check_vector(c: &Cursor<'_, '_>, count: usize, ty: Type, operand: usize) -> Result<()> {
    let is_vector = matches!(c.operand(operand).0, Operand::Vector(_));
    if is_vector != (count > 1) || c.parts(operand).len() != count {
        return c.bad(format!("{count} elements are expected"));
    }
    if count as u64 * ty.bytes() > 16 {
        return c.bad("one access has at most 16 bytes");
    }
    Ok(())
}

pub(super) fn atom(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let returns = c.name() == "atom";
    if returns {
        c.choose(&[
            ("relaxed", ()),
            ("acquire", ()),
            ("release", ()),
            ("acq_rel", ()),
        ]);
    } else {
        c.choose(&[("relaxed", ()), ("release", ())]);
    }
    scope(c);
    let space = space(
        c,
        &[
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
        ],
    );
    let f = c.require(&[
        ("add", Reduce::Add),
        ("min", Reduce::Min),
        ("max", Reduce::Max),
        ("and", Reduce::And),
        ("or", Reduce::Or),
        ("xor", Reduce::Xor),
        ("inc", Reduce::Inc),
        ("dec", Reduce::Dec),
        ("exch", Reduce::Exch),
        ("cas", Reduce::Cas),
    ])?;
    let types: &[Type] = match f {
        Reduce::Add => &[Type::U32, Type::S32, Type::U64, Type::F32, Type::F64],
        Reduce::Min | Reduce::Max => &[Type::U32, Type::S32, Type::U64, Type::S64],
        Reduce::And | Reduce::Or | Reduce::Xor => &[Type::B32, Type::B64],
        Reduce::Inc | Reduce::Dec => &[Type::U32],
        Reduce::Exch | Reduce::Cas if returns => &[Type::B32, Type::B64],
        Reduce::Exch | Reduce::Cas => return c.bad("red does not have this operation"),
    };
    let ty = c.ty(types)?;
    let first = usize::from(returns);
    let count = first + 2 + usize::from(f == Reduce::Cas);
    c.operands(count..=count)?;
    let at = c.target(first, space, ty.bytes())?;
    let b = c.source(first + 1, ty)?;
    let third = if f == Reduce::Cas {
        Some(c.source(first + 2, ty)?)
    } else {
        None
    };
    let d = match c.operand(0) {
        _ if !returns => None,
        (Operand::Name(name), _) if name == "_" => None,
        _ => Some(c.destination(0, ty)?),
    };
    if space != AccessSpace::In(Space::Shared) {
        // Integer reductions give the same result in any order. Operations that return a value, or round, do not.
        if d.is_some()
            || ty.is_float()
            || ty.bytes() == 8
            || matches!(f, Reduce::Inc | Reduce::Dec | Reduce::Exch | Reduce::Cas)
        {
            c.in_order();
        }
    }
    note_access(c, space, ty.bytes());
    Ok(Op::Atom {
        f,
        ty,
        d,
        at,
        b,
        c: third,
    })
}

pub(super) fn prefetch(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let space = space(c, &[("global", Space::Global)]);
    c.require(&[("L1", ()), ("L2", ())])?;
    c.operands(1..=1)?;
    Ok(Op::Prefetch {
        at: c.target(0, space, 1)?,
    })
}

pub(super) fn cp_async(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("async")?;
    if c.flag("commit_group") {
        c.operands(0..=0)?;
        return Ok(Op::CpAsyncCommit);
    }
    if c.flag("wait_group") {
        c.operands(1..=1)?;
        return Ok(Op::CpAsyncWait {
            groups: Some(c.number(0, 0..=1 << 30)?),
        });
    }
    if c.flag("wait_all") {
        c.operands(0..=0)?;
        return Ok(Op::CpAsyncWait { groups: None });
    }
    let only_16 = c.require(&[("ca", false), ("cg", true)])?;
    c.require(&[("shared", ()), ("shared::cta", ())])?;
    c.need("global")?;
    c.choose(&PREFETCH_HINTS);
    let n = c.operands(3..=4)?;
    let bytes = c.number(2, 4..=16)?;
    if !(bytes == 16 || !only_16 && (bytes == 4 || bytes == 8)) {
        return c.bad("cp.async.cg copies 16 bytes, cp.async.ca 4, 8 or 16");
    }
    let to = c.target(0, AccessSpace::In(Space::Shared), bytes.into())?;
    let from = c.target(1, AccessSpace::In(Space::Global), bytes.into())?;
    let mut source_bytes = None;
    let mut ignore = None;
    if n == 4 {
        if is_predicate(c, 3) {
            ignore = Some(c.predicate_source(3)?);
        } else {
            source_bytes = Some(c.row(3, Type::U32)?);
        }
    }
    Ok(Op::CpAsync {
        bytes,
        to,
        from,
        source_bytes,
        ignore,
    })
}

fn is_predicate(c: &mut Cursor<'_, '_>, i: usize) -> bool {
    match c.operand(i) {
        (Operand::Not(_), _) => true,
        (Operand::Value(Value::Int(_)), _) => false,
        (Operand::Name(name), at) => c.is_predicate_name(name, at),
        _ => false,
    }
}

pub(super) fn ldmatrix(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("sync")?;
    c.need("aligned")?;
    c.need("m8n8")?;
    let count = c.require(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let transpose = c.flag("trans");
    c.require(&[("shared", ()), ("shared::cta", ())])?;
    c.need("b16")?;
    c.operands(2..=2)?;
    let from = c.target(1, AccessSpace::In(Space::Shared), 16)?;
    let d = fragment(c, 0, count, Type::B32)?;
    Ok(Op::LdMatrix {
        d: d.into(),
        transpose,
        from,
    })
}

/// A destination of `count` registers.
fn fragment(c: &mut Cursor<'_, '_>, i: usize, count: usize, ty: Type) -> Result<Vec<Row>> {
    check_fragment(c, i, count)?;
    c.parts(i)
        .into_iter()
        .map(|(o, at)| c.destination_of(o, at, ty, false).map(Reg::row))
        .collect()
}

fn source_fragment(c: &mut Cursor<'_, '_>, i: usize, count: usize, ty: Type) -> Result<Vec<Row>> {
    check_fragment(c, i, count)?;
    c.parts(i)
        .into_iter()
        .map(|(o, at)| c.source_of(o, at, ty, false).map(Reg::row))
        .collect()
}

fn check_fragment(c: &Cursor<'_, '_>, i: usize, count: usize) -> Result<()> {
    let (operand, at) = c.operand(i);
    if !matches!(operand, Operand::Vector(_)) || c.parts(i).len() != count {
        return c.bad_at(at, format!("{count} registers in braces are expected here"));
    }
    Ok(())
}

pub(super) fn mma(c: &mut Cursor<'_, '_>) -> Result<Op> {
    c.need("sync")?;
    c.need("aligned")?;
    let k = c.require(&[("m16n8k16", 16), ("m16n8k8", 8), ("m16n8k4", 4)])?;
    c.need("row")?;
    c.need("col")?;
    c.need("f32")?;
    let types = [
        ("f16", MmaType::F16),
        ("bf16", MmaType::Bf16),
        ("tf32", MmaType::Tf32),
    ];
    let ty = c.require(&types)?;
    if c.require(&types)? != ty {
        return c.bad("A and B have the same type");
    }
    c.need("f32")?;
    let (a_regs, b_regs) = match (ty, k) {
        (MmaType::Tf32, 8) | (MmaType::F16 | MmaType::Bf16, 16) => (4, 2),
        (MmaType::Tf32, 4) | (MmaType::F16 | MmaType::Bf16, 8) => (2, 1),
        _ => return c.bad("this shape does not exist for the type"),
    };
    c.operands(4..=4)?;
    let a = source_fragment(c, 1, a_regs, Type::B32)?;
    let b = source_fragment(c, 2, b_regs, Type::B32)?;
    let addend = source_fragment(c, 3, 4, Type::F32)?;
    let d = fragment(c, 0, 4, Type::F32)?;
    // A shorter fragment repeats its last register, which is not read.
    let pick = |rows: &[Row], i: usize| rows[i.min(rows.len() - 1)];
    Ok(Op::Mma(Box::new(Mma {
        ty,
        k,
        d: [0, 1, 2, 3].map(|i| d[i]),
        a: [0, 1, 2, 3].map(|i| pick(&a, i)),
        b: [0, 1].map(|i| pick(&b, i)),
        c: [0, 1, 2, 3].map(|i| addend[i]),
    })))
}
