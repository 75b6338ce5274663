//! f32 and f64 arithmetic.

use super::Expected::{self, Bits, Nan, Near};
use super::oracle::{F32, MODES, Mode, exact_sum};
use super::{Case, case, pairs, random, singles, triples};

/// Zeros, subnormals, the smallest and largest normals, ones and their neighbours, infinities, NaN, ties.
pub(super) const EDGES: [u64; 19] = [
    0x0000_0000,
    0x8000_0000,
    0x0000_0001,
    0x8000_0001,
    0x007f_ffff,
    0x8040_0000,
    0x0080_0000,
    0x8080_0000,
    0x3f80_0000,
    0xbf80_0000,
    0x3f80_0001,
    0x3f00_0000,
    0x3380_0000,
    0x4b80_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
];
const M32: u64 = 0xffff_ffff;

pub(super) fn f(bits: u64) -> f64 {
    f32::from_bits(bits as u32).into()
}

fn value(x: f64, round: impl Fn(f64) -> u64) -> Expected {
    if x.is_nan() { Nan } else { Bits(round(x)) }
}

/// A subnormal becomes zero of the same sign.
pub(super) fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

/// Floats with exponents so close that f64 holds sums and products exactly.
fn near(count: usize) -> Vec<u64> {
    random(count)
        .map(|x| x & 0x807f_ffff | (115 + (x >> 40) % 24) << 23)
        .collect()
}

fn near_pairs() -> Vec<[u64; 2]> {
    near(512).chunks_exact(2).map(|x| [x[0], x[1]]).collect()
}

fn near_triples() -> Vec<[u64; 3]> {
    let mut rows: Vec<_> = near(768)
        .chunks_exact(3)
        .map(|x| [x[0], x[1], x[2]])
        .collect();
    rows.retain(|&[a, b, c]| exact_sum(f(a) * f(b), f(c)).is_some());
    assert!(rows.len() > 100, "most sums fit f64");
    rows
}

pub(super) fn cases() -> Vec<Case> {
    [
        rounded(),
        flushed(),
        quotients(),
        extrema(),
        signs(),
        approximate(),
        doubles(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn two(body: String, rows: &[[u64; 2]], g: impl Fn(u64, u64) -> Expected) -> Case {
    case(body, &["f32", "f32"], "f32", rows, |[a, b]| g(a, b))
}

/// Rounding a sum or product to nearest through f64 equals rounding it once, because 53 > 2 * 24 + 1 bits.
fn rounded() -> Vec<Case> {
    let edges = pairs(&EDGES, M32);
    let round = |x| F32.round(x, Mode::Nearest);
    let mut cases = vec![
        two("add.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(f(a) + f(b), round)
        }),
        two("sub.rn.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(f(a) - f(b), round)
        }),
        two("mul.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(f(a) * f(b), round)
        }),
        two("add.sat.f32 %d, %a, %b;".into(), &edges, |a, b| {
            saturated(f(a) + f(b))
        }),
        two("mul.sat.f32 %d, %a, %b;".into(), &edges, |a, b| {
            saturated(f(a) * f(b))
        }),
        // Rust's fma is the C library's, which rounds once.
        case(
            "fma.rn.f32 %d, %a, %b, %c;",
            &["f32", "f32", "f32"],
            "f32",
            &triples(&EDGES, M32),
            |[a, b, c]| {
                let [a, b, c] = [a, b, c].map(|x| f32::from_bits(x as u32));
                value(a.mul_add(b, c).into(), round)
            },
        ),
    ];
    for (name, mode) in MODES {
        let rows = near_pairs();
        let sum = |x: f64, y: f64| match exact_sum(x, y) {
            // An exact zero is -0 only when rounding down.
            Some(0.0) => Bits(if mode == Mode::Down { 0x8000_0000 } else { 0 }),
            Some(sum) => Bits(F32.round(sum, mode)),
            None => unreachable!("the exponents are near"),
        };
        cases.push(two(format!("add.{name}.f32 %d, %a, %b;"), &rows, |a, b| {
            sum(f(a), f(b))
        }));
        cases.push(two(format!("sub.{name}.f32 %d, %a, %b;"), &rows, |a, b| {
            sum(f(a), -f(b))
        }));
        cases.push(two(format!("sub.{name}.f32 %d, %a, %a;"), &rows, |a, _| {
            sum(f(a), -f(a))
        }));
        cases.push(two(format!("mul.{name}.f32 %d, %a, %b;"), &rows, |a, b| {
            Bits(F32.round(f(a) * f(b), mode))
        }));
        cases.push(case(
            format!("fma.{name}.f32 %d, %a, %b, %c;"),
            &["f32", "f32", "f32"],
            "f32",
            &near_triples(),
            |[a, b, c]| sum(f(a) * f(b), f(c)),
        ));
        // A term so small that even f64 cannot hold the sum: only its sign counts.
        let rows = far();
        let body = format!("add.{name}.f32 %d, %a, %b;");
        cases.push(two(body, &rows, |a, b| Bits(beside(a, f(b), mode))));
        let body = format!("fma.{name}.f32 %d, %a, 0f3f800000, %b;");
        cases.push(two(body, &rows, |a, b| Bits(beside(a, f(b), mode))));
        // Overflow and underflow: f64 holds these products exactly.
        let extreme = pairs(&EDGES[..16], 0x807f_ffff);
        cases.push(two(
            format!("mul.{name}.f32 %d, %a, %b;"),
            &extreme,
            |a, b| Bits(F32.round(f(a) * f(b), mode)),
        ));
    }
    cases
}

/// Large terms, and tiny ones of either sign.
fn far() -> Vec<[u64; 2]> {
    let tiny = [2f32.powi(-100), -2f32.powi(-100), 1e-45, -1e-45].map(|x| u64::from(x.to_bits()));
    near(40)
        .into_iter()
        .flat_map(|a| tiny.map(|b| [a, b]))
        .collect()
}

/// `a` plus a tiny amount.
fn beside(a: u64, tiny: f64, mode: Mode) -> u64 {
    let x = f32::from_bits(a as u32);
    let result = match mode {
        Mode::Down if tiny < 0.0 => x.next_down(),
        Mode::Up if tiny > 0.0 => x.next_up(),
        Mode::Zero if x > 0.0 && tiny < 0.0 => x.next_down(),
        Mode::Zero if x < 0.0 && tiny > 0.0 => x.next_up(),
        _ => x,
    };
    result.to_bits().into()
}

fn saturated(x: f64) -> Expected {
    Bits(if x.is_nan() {
        0
    } else {
        F32.round(x.clamp(0.0, 1.0) + 0.0, Mode::Nearest)
    })
}

/// `.ftz` flushes operands and results.
fn flushed() -> Vec<Case> {
    let edges = pairs(&EDGES, M32);
    let round = |x| flush(F32.round(x, Mode::Nearest));
    let g = |x| f(flush(x));
    vec![
        two("add.ftz.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(g(a) + g(b), round)
        }),
        two("sub.ftz.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(g(a) - g(b), round)
        }),
        two("mul.rn.ftz.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(g(a) * g(b), round)
        }),
        two(
            "mul.ftz.sat.f32 %d, %a, %b;".into(),
            &edges,
            |a, b| match saturated(g(a) * g(b)) {
                Bits(bits) => Bits(flush(bits)),
                other => other,
            },
        ),
        case(
            "fma.rn.ftz.f32 %d, %a, %b, %c;",
            &["f32", "f32", "f32"],
            "f32",
            &triples(&EDGES, M32),
            |[a, b, c]| {
                let [a, b, c] = [a, b, c].map(|x| f32::from_bits(flush(x) as u32));
                value(a.mul_add(b, c).into(), round)
            },
        ),
        case(
            "sqrt.rn.ftz.f32 %d, %a;",
            &["f32"],
            "f32",
            &singles(&EDGES, M32),
            |[a]| value(g(a).sqrt(), round),
        ),
        case(
            "rcp.rn.ftz.f32 %d, %a;",
            &["f32"],
            "f32",
            &singles(&EDGES, M32),
            |[a]| value(1.0 / g(a), round),
        ),
        two("div.rn.ftz.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(g(a) / g(b), round)
        }),
    ]
}

/// A quotient or root in a directed mode. The f64 value is off by less than half an ulp of f64. Multiplying back, which
/// is exact in f64, decides the f32 that it is rounded to.
fn settle(
    mode: Mode,
    guess: f64,
    is_above: impl Fn(f64) -> bool,
    is_exact: impl Fn(f64) -> bool,
) -> u64 {
    let down = F32.round(guess, Mode::Down);
    let low = f(down);
    if is_exact(low) {
        return down;
    }
    // The f64 guess may have been rounded up onto an f32 above the true value.
    let low = if is_above(low) {
        f64::from((low as f32).next_down())
    } else {
        low
    };
    let high = f64::from((low as f32).next_up());
    let up = match mode {
        Mode::Up => true,
        Mode::Zero => guess < 0.0,
        _ => false,
    };
    u64::from((if up { high } else { low } as f32).to_bits())
}

fn quotients() -> Vec<Case> {
    let edges = pairs(&EDGES, M32);
    let round = |x| F32.round(x, Mode::Nearest);
    let mut cases = vec![
        two("div.rn.f32 %d, %a, %b;".into(), &edges, |a, b| {
            value(f(a) / f(b), round)
        }),
        case(
            "rcp.rn.f32 %d, %a;",
            &["f32"],
            "f32",
            &singles(&EDGES, M32),
            |[a]| value(1.0 / f(a), round),
        ),
        case(
            "sqrt.rn.f32 %d, %a;",
            &["f32"],
            "f32",
            &singles(&EDGES, M32),
            |[a]| value(f(a).sqrt(), round),
        ),
    ];
    for (name, mode) in MODES.into_iter().filter(|(_, mode)| *mode != Mode::Nearest) {
        let quotient = move |a: f64, b: f64| {
            // q is above a/b if q*b is on the far side of a.
            let above = |q: f64| if b > 0.0 { q * b > a } else { q * b < a };
            Bits(settle(mode, a / b, above, |q| q * b == a))
        };
        cases.push(two(
            format!("div.{name}.f32 %d, %a, %b;"),
            &near_pairs(),
            |a, b| quotient(f(a), f(b)),
        ));
        let rows: Vec<[u64; 1]> = near(200).into_iter().map(|x| [x]).collect();
        cases.push(case(
            format!("rcp.{name}.f32 %d, %a;"),
            &["f32"],
            "f32",
            &rows,
            |[a]| quotient(1.0, f(a)),
        ));
        let positive: Vec<[u64; 1]> = near(200).into_iter().map(|x| [x & 0x7fff_ffff]).collect();
        cases.push(case(
            format!("sqrt.{name}.f32 %d, %a;"),
            &["f32"],
            "f32",
            &positive,
            |[a]| {
                Bits(settle(
                    mode,
                    f(a).sqrt(),
                    |q| q * q > f(a),
                    |q| q * q == f(a),
                ))
            },
        ));
    }
    cases
}

/// With one NaN the result is the other operand, with two the canonical NaN. -0 is below +0.
fn extrema() -> Vec<Case> {
    let edges = pairs(&EDGES, M32);
    let order = |bits: u64| {
        if bits & 0x8000_0000 != 0 {
            -((bits & 0x7fff_ffff) as i64) - 1
        } else {
            bits as i64
        }
    };
    let pick = move |a: u64, b: u64, max: bool, nan: bool| {
        let result = match (f(a).is_nan(), f(b).is_nan()) {
            (true, true) => 0x7fff_ffff,
            (true, _) | (_, true) if nan => 0x7fff_ffff,
            (true, false) => b,
            (false, true) => a,
            _ if (order(a) > order(b)) == max => a,
            _ => b,
        };
        Bits(result)
    };
    let mut cases = Vec::new();
    for (name, max) in [("min", false), ("max", true)] {
        cases.push(two(format!("{name}.f32 %d, %a, %b;"), &edges, |a, b| {
            pick(a, b, max, false)
        }));
        cases.push(two(
            format!("{name}.NaN.f32 %d, %a, %b;"),
            &edges,
            |a, b| pick(a, b, max, true),
        ));
        cases.push(two(
            format!("{name}.ftz.f32 %d, %a, %b;"),
            &edges,
            |a, b| pick(flush(a), flush(b), max, false),
        ));
    }
    cases
}

/// Operands that are not NaN: the ISA does not define NaN's sign.
fn signs() -> Vec<Case> {
    let rows: Vec<[u64; 1]> = singles(&EDGES, M32)
        .into_iter()
        .filter(|&[a]| !f(a).is_nan())
        .collect();
    let two_rows: Vec<_> = pairs(&EDGES, M32)
        .into_iter()
        .filter(|&[a, b]| !f(a).is_nan() && !f(b).is_nan())
        .collect();
    vec![
        case("neg.f32 %d, %a;", &["f32"], "f32", &rows, |[a]| {
            Bits(a ^ 0x8000_0000)
        }),
        case("abs.f32 %d, %a;", &["f32"], "f32", &rows, |[a]| {
            Bits(a & 0x7fff_ffff)
        }),
        case("neg.ftz.f32 %d, %a;", &["f32"], "f32", &rows, |[a]| {
            Bits(flush(a) ^ 0x8000_0000)
        }),
        case("abs.ftz.f32 %d, %a;", &["f32"], "f32", &rows, |[a]| {
            Bits(flush(a) & 0x7fff_ffff)
        }),
        two("copysign.f32 %d, %a, %b;".into(), &two_rows, |a, b| {
            Bits(b & 0x7fff_ffff | a & 0x8000_0000)
        }),
    ]
}

/// A result within a relative error, and exact if it is 0, infinite or NaN.
fn within(x: f64, relative: f64, ftz: bool) -> Expected {
    if x.is_nan() {
        return Nan;
    }
    let tiny = x.abs() < f64::from(f32::MIN_POSITIVE);
    if x == 0.0 || x.abs() >= 2f64.powi(128) {
        return Bits(F32.round(x, Mode::Nearest));
    }
    match (tiny, ftz) {
        (true, true) => Bits(if x < 0.0 { 0x8000_0000 } else { 0 }),
        // Subnormals have an absolute spacing.
        (true, false) => Near {
            value: x,
            absolute: 2f64.powi(-147),
            relative,
        },
        _ => Near {
            value: x,
            absolute: 0.0,
            relative,
        },
    }
}

/// An instruction, the function that it computes, and its relative error.
type Function = (&'static str, fn(f64) -> f64, f64);

/// Errors as the ISA documents them; an ulp is at most 2^-23 of the value.
fn approximate() -> Vec<Case> {
    let all = singles(&EDGES, M32);
    let moderate: Vec<[u64; 1]> = near(200).into_iter().map(|x| [x]).collect();
    let both: Vec<[u64; 1]> = all.iter().chain(&moderate).copied().collect();
    let ulp = 2f64.powi(-23);
    let mut cases = Vec::new();
    let functions: [Function; 4] = [
        ("ex2.approx", f64::exp2, 2.0 * ulp),
        ("rcp.approx", f64::recip, ulp),
        ("rsqrt.approx", |x| 1.0 / x.sqrt(), 2f64.powf(-22.4)),
        ("sqrt.approx", f64::sqrt, ulp),
    ];
    for (name, g, error) in functions {
        cases.push(case(
            format!("{name}.f32 %d, %a;"),
            &["f32"],
            "f32",
            &both,
            |[a]| within(g(f(a)), error, false),
        ));
        cases.push(case(
            format!("{name}.ftz.f32 %d, %a;"),
            &["f32"],
            "f32",
            &both,
            |[a]| within(g(f(flush(a))), error, true),
        ));
    }
    let lg2 = |a: f64| match a.log2() {
        x if !x.is_finite() => within(x, 0.0, false),
        x if a > 0.5 && a < 2.0 => Near {
            value: x,
            absolute: 2f64.powi(-22),
            relative: 0.0,
        },
        x => Near {
            value: x,
            absolute: 0.0,
            relative: 2f64.powi(-22),
        },
    };
    cases.push(case(
        "lg2.approx.f32 %d, %a;",
        &["f32"],
        "f32",
        &both,
        |[a]| lg2(f(a)),
    ));
    cases.push(case(
        "lg2.approx.ftz.f32 %d, %a;",
        &["f32"],
        "f32",
        &both,
        |[a]| lg2(f(flush(a))),
    ));
    // Within [-2 pi, 2 pi]; outside this range the error is larger.
    let angles: Vec<[u64; 1]> = (0..200)
        .map(|i| [u64::from((-6.25f32 + 0.0625 * i as f32).to_bits())])
        .collect();
    let trigonometric = |x: f64| Near {
        value: x,
        absolute: 2f64.powf(-20.5),
        relative: 0.0,
    };
    cases.push(case(
        "sin.approx.f32 %d, %a;",
        &["f32"],
        "f32",
        &angles,
        |[a]| trigonometric(f(a).sin()),
    ));
    cases.push(case(
        "cos.approx.ftz.f32 %d, %a;",
        &["f32"],
        "f32",
        &angles,
        |[a]| trigonometric(f(a).cos()),
    ));
    let infinite = [[0x7f80_0000], [0xff80_0000], [0x7fc0_0000]];
    cases.push(case(
        "sin.approx.f32 %d, %a;",
        &["f32"],
        "f32",
        &infinite,
        |_| Nan,
    ));
    cases.push(case(
        "tanh.approx.f32 %d, %a;",
        &["f32"],
        "f32",
        &both,
        |[a]| match f(a).tanh() {
            x if x.is_nan() => Nan,
            x => Near {
                value: x,
                absolute: 2f64.powi(-147),
                relative: 2f64.powi(-11),
            },
        },
    ));
    // The ISA states 2 ulp for divisors in 2^-126..=2^126.
    let quotient = |a: f64, b: f64| within(a / b, 2.0 * ulp, false);
    cases.push(two(
        "div.full.f32 %d, %a, %b;".into(),
        &near_pairs(),
        |a, b| quotient(f(a), f(b)),
    ));
    cases.push(two(
        "div.approx.f32 %d, %a, %b;".into(),
        &near_pairs(),
        |a, b| quotient(f(a), f(b)),
    ));
    cases.push(two(
        "div.approx.ftz.f32 %d, %a, %b;".into(),
        &near_pairs(),
        |a, b| quotient(f(a), f(b)),
    ));
    // Above 2^126: 0, and NaN for an infinite dividend.
    let large = [
        [0x3f80_0000, 0x7f00_0000],
        [0x7f7f_ffff, 0x7f7f_ffff],
        [0x3f80_0000, 0x7f7f_ffff],
    ];
    let large: Vec<[u64; 2]> = large
        .into_iter()
        .filter(|&[_, b]| f(b) > 2f64.powi(126))
        .collect();
    cases.push(two("div.approx.f32 %d, %a, %b;".into(), &large, |_, _| {
        Bits(0)
    }));
    cases.push(two(
        "div.approx.f32 %d, %a, %b;".into(),
        &[[0x7f80_0000, 0x7f7f_ffff]],
        |_, _| Nan,
    ));
    cases
}

fn doubles() -> Vec<Case> {
    let edges: Vec<u64> = [0.0, -0.0, 1.0, -1.5, 1e-310, 1e300, f64::INFINITY, f64::NAN]
        .map(f64::to_bits)
        .into();
    let rows = pairs(&edges, u64::MAX);
    let value = |x: f64| if x.is_nan() { Nan } else { Bits(x.to_bits()) };
    let d = f64::from_bits;
    vec![
        case(
            "add.f64 %d, %a, %b;",
            &["f64", "f64"],
            "f64",
            &rows,
            |[a, b]| value(d(a) + d(b)),
        ),
        case(
            "sub.rn.f64 %d, %a, %b;",
            &["f64", "f64"],
            "f64",
            &rows,
            |[a, b]| value(d(a) - d(b)),
        ),
        case(
            "mul.rn.f64 %d, %a, %b;",
            &["f64", "f64"],
            "f64",
            &rows,
            |[a, b]| value(d(a) * d(b)),
        ),
        case(
            "div.rn.f64 %d, %a, %b;",
            &["f64", "f64"],
            "f64",
            &rows,
            |[a, b]| value(d(a) / d(b)),
        ),
        case(
            "fma.rn.f64 %d, %a, %b, %a;",
            &["f64", "f64"],
            "f64",
            &rows,
            |[a, b]| value(d(a).mul_add(d(b), d(a))),
        ),
        case(
            "sqrt.rn.f64 %d, %a;",
            &["f64"],
            "f64",
            &singles(&edges, u64::MAX),
            |[a]| value(d(a).sqrt()),
        ),
    ]
}
