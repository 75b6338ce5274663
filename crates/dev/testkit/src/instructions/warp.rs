//! Operations that the 32 lanes of a warp perform together: row i of a case is lane i.

use super::Expected::Bits;
use super::{Case, case, random};

/// One row a lane.
fn lanes() -> Vec<[u64; 1]> {
    random(32).map(|x| [x & 0xffff_ffff]).collect()
}

fn values() -> Vec<u64> {
    lanes().into_iter().map(|[a]| a).collect()
}

pub(super) fn cases() -> Vec<Case> {
    [shuffles(), votes(), reductions()]
        .into_iter()
        .flatten()
        .collect()
}

/// A case whose result depends on all lanes. `g` gets the lane.
fn whole(body: impl Into<String>, g: impl Fn(usize) -> u64) -> Case {
    let mut case = case(body, &["b32"], "b32", &lanes(), |_| Bits(0));
    for (lane, row) in case.rows.iter_mut().enumerate() {
        row.expected = Bits(g(lane));
    }
    case
}

/// The ISA's pseudo-code. Returns the lane to read, or the lane itself outside the segment, and whether it is inside.
fn source(mode: &str, lane: i32, b: i32, c: i32) -> (usize, bool) {
    let (b, clamp, segment) = (b & 31, c & 31, c >> 8 & 31);
    let most = lane & segment | clamp & !segment;
    let least = lane & segment;
    let j = match mode {
        "up" => lane - b,
        "down" => lane + b,
        "bfly" => lane ^ b,
        _ => least | b & !segment,
    };
    let inside = if mode == "up" { j >= most } else { j <= most };
    (if inside { j as usize } else { lane as usize }, inside)
}

fn shuffles() -> Vec<Case> {
    let values = values();
    let mut cases = Vec::new();
    for mode in ["up", "down", "bfly", "idx"] {
        for b in [0, 1, 3, 8, 16, 31] {
            // Whole warps and segments of 8 lanes; `up` stops at the lowest lane.
            let clamp = if mode == "up" { 0 } else { 31 };
            for c in [clamp, 0x1800 | clamp] {
                let body = format!("shfl.sync.{mode}.b32 %d, %a, {b}, {c}, 0xffffffff;");
                cases.push(whole(body, |lane| {
                    values[source(mode, lane as i32, b, c).0]
                }));
                let body = format!(
                    "shfl.sync.{mode}.b32 %d|%p, %a, {b}, {c}, 0xffffffff; selp.b32 %d, 1, 0, %p;"
                );
                cases.push(whole(body, |lane| source(mode, lane as i32, b, c).1.into()));
            }
        }
    }
    // Each lane reads its own index.
    cases.push(whole(
        "shfl.sync.idx.b32 %d, %a, %a, 31, 0xffffffff;",
        |lane| values[(values[lane] & 31) as usize],
    ));
    cases
}

fn votes() -> Vec<Case> {
    let values = values();
    let odd = |lane: usize| values[lane] & 1 == 1;
    let ballot = (0..32).fold(0u64, |mask, lane| mask | u64::from(odd(lane)) << lane);
    let setp = "and.b32 %y, %a, 1; setp.eq.b32 %q, %y, 1;";
    let answer = "selp.b32 %d, 1, 0, %p;";
    let halves =
        "mov.u32 %x, %laneid; setp.lt.u32 %p, %x, 16; selp.b32 %x, 0xffff, 0xffff0000, %p;";
    vec![
        whole(
            format!("{setp} vote.sync.ballot.b32 %d, %q, 0xffffffff;"),
            |_| ballot,
        ),
        whole(
            format!("{setp} vote.sync.ballot.b32 %d, !%q, 0xffffffff;"),
            |_| ballot ^ 0xffff_ffff,
        ),
        whole(
            format!("{setp} vote.sync.any.pred %p, %q, 0xffffffff; {answer}"),
            |_| 1,
        ),
        whole(
            format!("{setp} vote.sync.all.pred %p, %q, 0xffffffff; {answer}"),
            |_| 0,
        ),
        whole(
            format!("{setp} vote.sync.uni.pred %p, %q, 0xffffffff; {answer}"),
            |_| 0,
        ),
        whole(
            format!("setp.eq.b32 %q, %a, %a; vote.sync.all.pred %p, %q, 0xffffffff; {answer}"),
            |_| 1,
        ),
        whole(
            format!("setp.ne.b32 %q, %a, %a; vote.sync.uni.pred %p, %q, 0xffffffff; {answer}"),
            |_| 1,
        ),
        // Each half of the warp votes separately.
        whole(
            format!("{setp} {halves} vote.sync.ballot.b32 %d, %q, %x;"),
            |lane| ballot & if lane < 16 { 0xffff } else { 0xffff_0000 },
        ),
        whole("activemask.b32 %d;", |_| 0xffff_ffff),
        whole("mov.u32 %d, %laneid;", |lane| lane as u64),
        whole("mov.u32 %d, %lanemask_lt;", |lane| (1 << lane) - 1),
        whole("mov.u32 %d, %lanemask_ge;", |lane| {
            0xffff_ffff & u64::MAX << lane
        }),
        whole(
            "and.b32 %x, %a, 3; match.any.sync.b32 %d, %x, 0xffffffff;",
            |lane| {
                (0..32).fold(0, |mask, other| {
                    mask | u64::from(values[other] & 3 == values[lane] & 3) << other
                })
            },
        ),
    ]
}

fn reductions() -> Vec<Case> {
    let values: Vec<u32> = values().into_iter().map(|x| x as u32).collect();
    let reduce = |g: fn(u32, u32) -> u32| u64::from(values.iter().copied().reduce(g).unwrap());
    let signed = |g: fn(i32, i32) -> i32| {
        u64::from(values.iter().map(|&x| x as i32).reduce(g).unwrap() as u32)
    };
    let case = |name: &str, result: u64| {
        whole(
            format!("redux.sync.{name} %d, %a, 0xffffffff;"),
            move |_| result,
        )
    };
    vec![
        case("add.u32", reduce(u32::wrapping_add)),
        case("add.s32", reduce(u32::wrapping_add)),
        case("min.u32", reduce(u32::min)),
        case("max.u32", reduce(u32::max)),
        case("min.s32", signed(i32::min)),
        case("max.s32", signed(i32::max)),
        case("and.b32", reduce(|a, b| a & b)),
        case("or.b32", reduce(|a, b| a | b)),
        case("xor.b32", reduce(|a, b| a ^ b)),
    ]
}
