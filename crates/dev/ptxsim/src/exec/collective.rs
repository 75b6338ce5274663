//! Comparisons and selections, and operations that the lanes of a warp perform together.

use super::block::Block;
use super::float::flush;
use super::half::widen;
use super::integer::by_type;
use super::regs::{LANES, Lane, Regs, lanes};
use super::warp::Warp;
use crate::error::{Result, SimError};
use crate::ir::{
    Compare, HalfFormat, Logic, Op, PredSource, Reduce, Reg, Row, Shuffle, Type, Vote,
};

pub(super) fn logic(f: Logic, a: u32, b: u32) -> u32 {
    match f {
        Logic::And => a & b,
        Logic::Or => a | b,
        Logic::Xor => a ^ b,
    }
}

/// The lanes in which the comparison holds.
pub(super) fn compare(regs: &Regs, f: Compare, ty: Type, ftz: bool, a: Row, b: Row) -> u32 {
    let half = |format: HalfFormat| {
        move |bits: u16| {
            let subnormal = ftz && bits & 0x7c00 == 0;
            f64::from(widen(if subnormal { bits & 0x8000 } else { bits }, format))
        }
    };
    match ty {
        Type::F32 if ftz => compare_float(regs, f, a, b, |x: f32| flush(x).into()),
        Type::F32 => compare_float(regs, f, a, b, |x: f32| x.into()),
        Type::F64 => compare_float(regs, f, a, b, |x: f64| x),
        Type::F16 => compare_float(regs, f, a, b, half(HalfFormat::F16)),
        Type::Bf16 => compare_float(regs, f, a, b, half(HalfFormat::Bf16)),
        _ => by_type!(ty, compare_int(regs, f, a, b)),
    }
}

fn compare_float<T: Lane>(
    regs: &Regs,
    f: Compare,
    a: Row,
    b: Row,
    value: impl Fn(T) -> f64,
) -> u32 {
    use super::regs::compare;
    let nan = |a: f64, b: f64| a.is_nan() || b.is_nan();
    let pairs =
        |holds: fn(f64, f64) -> bool| compare(regs, a, b, |a: T, b: T| holds(value(a), value(b)));
    let unordered = compare(regs, a, b, |a: T, b: T| nan(value(a), value(b)));
    match f {
        Compare::Eq => pairs(|a, b| a == b),
        Compare::Ne => pairs(|a, b| a != b) & !unordered,
        Compare::Lt => pairs(|a, b| a < b),
        Compare::Le => pairs(|a, b| a <= b),
        Compare::Gt => pairs(|a, b| a > b),
        Compare::Ge => pairs(|a, b| a >= b),
        Compare::Equ => pairs(|a, b| a == b) | unordered,
        Compare::Neu => pairs(|a, b| a != b) | unordered,
        Compare::Ltu => pairs(|a, b| a < b) | unordered,
        Compare::Leu => pairs(|a, b| a <= b) | unordered,
        Compare::Gtu => pairs(|a, b| a > b) | unordered,
        Compare::Geu => pairs(|a, b| a >= b) | unordered,
        Compare::Num => !unordered,
        Compare::Nan => unordered,
    }
}

fn compare_int<T: Lane + Ord>(regs: &Regs, f: Compare, a: Row, b: Row) -> u32 {
    use super::regs::compare;
    match f {
        Compare::Eq => compare(regs, a, b, |a: T, b: T| a == b),
        Compare::Ne => compare(regs, a, b, |a: T, b: T| a != b),
        Compare::Lt => compare(regs, a, b, |a: T, b: T| a < b),
        Compare::Le => compare(regs, a, b, |a: T, b: T| a <= b),
        Compare::Gt => compare(regs, a, b, |a: T, b: T| a > b),
        _ => compare(regs, a, b, |a: T, b: T| a >= b),
    }
}

/// `p|q = holds, !holds`, each combined with the third operand.
pub(super) fn put_comparison(
    regs: &mut Regs,
    mask: u32,
    holds: u32,
    d: Option<Row>,
    not_d: Option<Row>,
    combine: Option<(Logic, PredSource)>,
) {
    let combined = |holds: u32, regs: &Regs| match combine {
        Some((f, source)) => logic(f, holds, regs.predicate(source)),
        None => holds,
    };
    let (p, q) = (combined(holds, regs), combined(!holds, regs));
    if let Some(d) = d {
        regs.put_pred(d, mask, p);
    }
    if let Some(d) = not_d {
        regs.put_pred(d, mask, q);
    }
}

/// `a` in the lanes of `choice`, `b` in the others.
pub(super) fn select(regs: &mut Regs, mask: u32, d: Reg, a: Reg, b: Reg, choice: u32) {
    let (a, mut out) = (regs.get(a), regs.get(b));
    for lane in lanes(choice) {
        out[lane] = a[lane];
    }
    regs.put(d, mask, &out);
}

/// The lanes whose value is at least zero. -0 counts; NaN does not.
pub(super) fn not_negative(regs: &Regs, c: Row, float: bool, ftz: bool) -> u32 {
    (0..LANES).fold(0, |mask, lane| {
        let bits = regs.b32[c as usize][lane];
        let x = f32::from_bits(bits);
        let holds = if float {
            (if ftz { flush(x) } else { x }) >= 0.0
        } else {
            bits as i32 >= 0
        };
        mask | u32::from(holds) << lane
    })
}

/// The member masks of the lanes that execute a `.sync` instruction. A mask must name its own lane and only lanes that
/// are executing too, and all members must name the same mask.
pub(super) fn members(
    block: &Block<'_>,
    warp: &Warp,
    pc: usize,
    active: u32,
    row: Row,
) -> Result<[u32; LANES]> {
    let masks = warp.regs.b32[row as usize];
    if lanes(active).all(|lane| masks[lane] == active) {
        return Ok(masks);
    }
    for lane in lanes(active) {
        let mask = masks[lane];
        let why = if mask >> lane & 1 == 0 {
            "it omits the thread itself"
        } else if mask & !active != 0 {
            "it names threads that are not here"
        } else if lanes(mask).any(|other| masks[other] != mask) {
            "its threads name different masks"
        } else {
            continue;
        };
        return Err(SimError::SyncMask {
            place: block.place(warp, pc, lane),
            mask,
            active,
            why,
        });
    }
    Ok(masks)
}

pub(super) fn collective(
    block: &mut Block<'_>,
    warp: &mut Warp,
    pc: usize,
    active: u32,
    op: &Op,
) -> Result<()> {
    match *op {
        Op::WarpSync { mask } => {
            let masks = members(block, warp, pc, active, mask)?;
            let mut left = active;
            while left != 0 {
                let mask = masks[left.trailing_zeros() as usize];
                block
                    .shadow
                    .warp_barrier(warp.index as usize, mask, mask == warp.live);
                left &= !mask;
            }
        }
        Op::Shfl {
            f,
            d,
            p,
            a,
            b,
            c,
            mask,
        } => {
            let masks = members(block, warp, pc, active, mask)?;
            let mut out = [0; LANES];
            let mut in_range = 0;
            for lane in lanes(active) {
                let (source, fits) = source_lane(
                    f,
                    lane as u32,
                    warp.regs.b32[b as usize][lane],
                    warp.regs.b32[c as usize][lane],
                );
                if masks[lane] >> source & 1 == 0 {
                    let why = "a thread reads from a lane that is not a member";
                    let place = block.place(warp, pc, lane);
                    return Err(SimError::SyncMask {
                        place,
                        mask: masks[lane],
                        active,
                        why,
                    });
                }
                out[lane] = warp.regs.b32[a as usize][source as usize];
                in_range |= u32::from(fits) << lane;
            }
            warp.regs.put_32(d, active, &out);
            if let Some(p) = p {
                warp.regs.put_pred(p, active, in_range);
            }
        }
        Op::Vote { f, d, a, mask } => {
            let masks = members(block, warp, pc, active, mask)?;
            let votes = warp.regs.predicate(a);
            if f == Vote::Ballot {
                warp.regs.put_32(d, active, &masks.map(|mask| votes & mask));
            } else {
                let result = (0..LANES).fold(0, |result, lane| {
                    let (mask, yes) = (masks[lane], votes & masks[lane]);
                    let holds = match f {
                        Vote::All => yes == mask,
                        Vote::Any => yes != 0,
                        _ => yes == 0 || yes == mask,
                    };
                    result | u32::from(holds) << lane
                });
                warp.regs.put_pred(d, active, result);
            }
        }
        Op::MatchAny { wide, d, a, mask } => {
            let masks = members(block, warp, pc, active, mask)?;
            let values = warp.regs.get(if wide { Reg::B64(a) } else { Reg::B32(a) });
            let out = std::array::from_fn(|lane| {
                (0..LANES).fold(0, |same, other| {
                    same | u32::from(values[other] == values[lane]) << other
                }) & masks[lane]
            });
            warp.regs.put_32(d, active, &out);
        }
        Op::Redux {
            f,
            signed,
            d,
            a,
            mask,
        } => {
            let masks = members(block, warp, pc, active, mask)?;
            let values = warp.regs.b32[a as usize];
            let out = masks.map(|mask| {
                let members = lanes(mask & active).map(|lane| values[lane]);
                members.reduce(|x, y| reduce(f, signed, x, y)).unwrap_or(0)
            });
            warp.regs.put_32(d, active, &out);
        }
        _ => unreachable!("only instructions of a whole warp come here"),
    }
    Ok(())
}

fn reduce(f: Reduce, signed: bool, x: u32, y: u32) -> u32 {
    match (f, signed) {
        (Reduce::Add, _) => x.wrapping_add(y),
        (Reduce::Min, true) => (x as i32).min(y as i32) as u32,
        (Reduce::Max, true) => (x as i32).max(y as i32) as u32,
        (Reduce::Min, false) => x.min(y),
        (Reduce::Max, false) => x.max(y),
        (Reduce::And, _) => x & y,
        (Reduce::Or, _) => x | y,
        _ => x ^ y,
    }
}

/// The lane that `lane` reads from, and whether it is in the segment (PTX ISA, "shfl.sync").
fn source_lane(f: Shuffle, lane: u32, b: u32, c: u32) -> (u32, bool) {
    let b = (b & 31) as i32;
    let clamp = (c & 31) as i32;
    let segment = (c >> 8 & 31) as i32;
    let lane = lane as i32;
    let most = lane & segment | clamp & !segment;
    let least = lane & segment;
    let (source, fits) = match f {
        Shuffle::Up => (lane - b, lane - b >= most),
        Shuffle::Down => (lane + b, lane + b <= most),
        Shuffle::Butterfly => (lane ^ b, lane ^ b <= most),
        Shuffle::Index => {
            let source = least | b & !segment;
            (source, source <= most)
        }
    };
    (if fits { source } else { lane } as u32, fits)
}
