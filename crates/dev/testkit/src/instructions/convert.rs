//! `cvt`.

use half::{bf16, f16};

use super::Expected::{Bits, Nan};
use super::float::{EDGES, f, flush};
use super::oracle::{BF16, F16, F32, MODES, Mode, TF32};
use super::{Case, Expected, case, random, singles};

const M32: u64 = 0xffff_ffff;
const INTS: [u64; 8] = [
    0,
    1,
    0x7f,
    0x80,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ff80,
    0xffff_ffff,
];
/// A rounding to an integer, with its name.
type Integral = (&'static str, fn(f64) -> f64);
const INTEGRAL: [Integral; 4] = [
    ("rni", f64::round_ties_even),
    ("rzi", f64::trunc),
    ("rmi", f64::floor),
    ("rpi", f64::ceil),
];

/// Floats around integers, ties and the bounds of the integer types.
fn around_integers() -> Vec<[u64; 1]> {
    let values = [
        0.5f32,
        1.5,
        2.5,
        -0.5,
        -1.5,
        0.49999997,
        127.5,
        128.0,
        -128.5,
        -129.0,
        255.5,
        32767.5,
        -32768.9,
        65535.5,
        1e6,
        2147483520.0,
        2147483648.0,
        -2147483648.0,
        -2147483904.0,
        4294967040.0,
        4294967296.0,
        1e18,
        9.3e18,
        -9.3e18,
        1.9e19,
    ];
    let random = random(64).map(|x| [x & 0x80ff_ffff | 0x4500_0000]);
    values
        .iter()
        .map(|x| [u64::from(x.to_bits())])
        .chain(singles(&EDGES, M32))
        .chain(random)
        .collect()
}

/// Floats that lie around the values of a narrower format: ties, just above and below, overflow.
fn around_halves() -> Vec<[u64; 1]> {
    let ties = [
        0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0x1_8000,
    ];
    let exponents = [
        0x3f80_0000,
        0x3880_0000,
        0x3300_0000,
        0x477f_0000,
        0x3370_0000,
        0x7f7f_0000,
        0x0001_0000,
    ];
    let mut rows: Vec<[u64; 1]> = Vec::new();
    for exponent in exponents {
        for tie in ties {
            rows.push([exponent + tie]);
            rows.push([(exponent + tie) | 0x8000_0000]);
        }
    }
    rows.extend(singles(&EDGES, M32));
    rows
}

pub(super) fn cases() -> Vec<Case> {
    [
        to_integers(),
        from_integers(),
        between_integers(),
        narrower(),
        pairs(),
        wider(),
        integral(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Clamped to the type's range. NaN becomes 0; with 64 bits, only the top bit is set.
fn clamp(x: f64, bits: u32, signed: bool) -> u64 {
    let value = match (bits, signed) {
        (64, _) if x.is_nan() => return 1 << 63,
        (64, true) => return x as i64 as u64,
        (64, false) => return x as u64,
        (_, true) => x as i64,
        (_, false) => return (x as u64).min((1 << bits) - 1),
    };
    let bound = 1i64 << (bits - 1);
    value.clamp(-bound, bound - 1) as u64
}

fn to_integers() -> Vec<Case> {
    let rows = around_integers();
    let mut cases = Vec::new();
    for (mode, round) in INTEGRAL {
        for (ty, bits, signed) in [
            ("s32", 32, true),
            ("u32", 32, false),
            ("s64", 64, true),
            ("u64", 64, false),
            ("s16", 16, true),
            ("u16", 16, false),
        ] {
            let result = ["b16", "b32", "b64"][bits as usize / 32];
            cases.push(case(
                format!("cvt.{mode}.{ty}.f32 %d, %a;"),
                &["f32"],
                result,
                &rows,
                move |[a]| Bits(clamp(round(f(a)), bits, signed) & (u64::MAX >> (64 - bits))),
            ));
        }
        // Into a wider register, filled with the sign or with zeros.
        cases.push(case(
            format!("cvt.{mode}.s8.f32 %d, %a;"),
            &["f32"],
            "b32",
            &rows,
            move |[a]| Bits(clamp(round(f(a)), 8, true) & M32),
        ));
        cases.push(case(
            format!("cvt.{mode}.u8.f32 %d, %a;"),
            &["f32"],
            "b32",
            &rows,
            move |[a]| Bits(clamp(round(f(a)), 8, false)),
        ));
    }
    // A subnormal is above 0; flushed, it is not.
    cases.push(case(
        "cvt.rpi.ftz.s32.f32 %d, %a;",
        &["f32"],
        "b32",
        &rows,
        |[a]| Bits(clamp(f(flush(a)).ceil(), 32, true) & M32),
    ));
    cases
}

fn from_integers() -> Vec<Case> {
    let rows = singles(&INTS, M32);
    let wide = singles(
        &[
            0,
            1,
            u64::MAX,
            i64::MAX as u64,
            i64::MIN as u64,
            (1 << 53) + 1,
        ],
        u64::MAX,
    );
    let mut cases = Vec::new();
    for (name, mode) in MODES {
        cases.push(case(
            format!("cvt.{name}.f32.u32 %d, %a;"),
            &["b32"],
            "f32",
            &rows,
            move |[a]| Bits(F32.round(a as f64, mode)),
        ));
        cases.push(case(
            format!("cvt.{name}.f32.s32 %d, %a;"),
            &["b32"],
            "f32",
            &rows,
            move |[a]| Bits(F32.round(f64::from(a as i32), mode)),
        ));
        cases.push(case(
            format!("cvt.{name}.f16.s32 %d, %a;"),
            &["b32"],
            "f16",
            &rows,
            move |[a]| Bits(F16.round(f64::from(a as i32), mode)),
        ));
    }
    // Rust's casts round to nearest, once.
    cases.push(case(
        "cvt.rn.f32.u64 %d, %a;",
        &["b64"],
        "f32",
        &wide,
        |[a]| Bits(u64::from((a as f32).to_bits())),
    ));
    cases.push(case(
        "cvt.rn.f32.s64 %d, %a;",
        &["b64"],
        "f32",
        &wide,
        |[a]| Bits(u64::from((a as i64 as f32).to_bits())),
    ));
    cases.push(case(
        "cvt.rn.f64.u64 %d, %a;",
        &["b64"],
        "f64",
        &wide,
        |[a]| Bits((a as f64).to_bits()),
    ));
    cases.push(case(
        "cvt.rn.f32.u8 %d, %a;",
        &["b32"],
        "f32",
        &rows,
        |[a]| Bits(F32.round((a & 255) as f64, Mode::Nearest)),
    ));
    cases.push(case(
        "cvt.rn.f32.s8 %d, %a;",
        &["b32"],
        "f32",
        &rows,
        |[a]| Bits(F32.round(f64::from(a as i8), Mode::Nearest)),
    ));
    cases
}

fn between_integers() -> Vec<Case> {
    let rows = singles(&INTS, M32);
    let wide = singles(
        &[0, 1, u64::MAX, 0x8000_0000, 0x1_0000_0000, i64::MIN as u64],
        u64::MAX,
    );
    vec![
        case("cvt.u64.u32 %d, %a;", &["b32"], "b64", &rows, |[a]| Bits(a)),
        case("cvt.s64.s32 %d, %a;", &["b32"], "b64", &rows, |[a]| {
            Bits(i64::from(a as i32) as u64)
        }),
        case("cvt.u32.u64 %d, %a;", &["b64"], "b32", &wide, |[a]| {
            Bits(a & M32)
        }),
        case("cvt.u16.u32 %d, %a;", &["b32"], "b16", &rows, |[a]| {
            Bits(a & 0xffff)
        }),
        case("cvt.s32.s8 %d, %a;", &["b32"], "b32", &rows, |[a]| {
            Bits((i32::from(a as i8) as u32).into())
        }),
        case("cvt.u32.u8 %d, %a;", &["b32"], "b32", &rows, |[a]| {
            Bits(a & 255)
        }),
        case("cvt.s8.s32 %d, %a;", &["b32"], "b32", &rows, |[a]| {
            Bits((i32::from(a as i8) as u32).into())
        }),
        case("cvt.u8.u32 %d, %a;", &["b32"], "b32", &rows, |[a]| {
            Bits(a & 255)
        }),
        case("cvt.sat.s8.s32 %d, %a;", &["b32"], "b32", &rows, |[a]| {
            Bits(((a as i32).clamp(-128, 127) as u32).into())
        }),
        case("cvt.sat.u8.s32 %d, %a;", &["b32"], "b32", &rows, |[a]| {
            Bits((a as i32).clamp(0, 255) as u64)
        }),
        case("cvt.sat.s32.s64 %d, %a;", &["b64"], "b32", &wide, |[a]| {
            Bits(((a as i64).clamp(i32::MIN.into(), i32::MAX.into()) as u32).into())
        }),
    ]
}

fn rounded(x: f64, round: impl Fn(f64) -> u64) -> Expected {
    if x.is_nan() { Nan } else { Bits(round(x)) }
}

fn narrower() -> Vec<Case> {
    let rows = around_halves();
    let mut cases = Vec::new();
    for (name, mode) in MODES {
        cases.push(case(
            format!("cvt.{name}.f16.f32 %d, %a;"),
            &["f32"],
            "f16",
            &rows,
            move |[a]| rounded(f(a), |x| F16.round(x, mode)),
        ));
        let doubles: Vec<[u64; 1]> = rows
            .iter()
            .map(|&[a]| [(f(a) * (1.0 + 2f64.powi(-40))).to_bits()])
            .collect();
        cases.push(case(
            format!("cvt.{name}.f32.f64 %d, %a;"),
            &["f64"],
            "f32",
            &doubles,
            move |[a]| rounded(f64::from_bits(a), |x| F32.round(x, mode)),
        ));
    }
    cases.push(case(
        "cvt.rn.bf16.f32 %d, %a;",
        &["f32"],
        "b16",
        &rows,
        |[a]| rounded(f(a), |x| BF16.round(x, Mode::Nearest)),
    ));
    cases.push(case(
        "cvt.rz.bf16.f32 %d, %a;",
        &["f32"],
        "b16",
        &rows,
        |[a]| rounded(f(a), |x| BF16.round(x, Mode::Zero)),
    ));
    cases.push(case(
        "cvt.rn.relu.bf16.f32 %d, %a;",
        &["f32"],
        "b16",
        &rows,
        |[a]| {
            rounded(f(a), |x| {
                if x < 0.0 || x.is_sign_negative() {
                    0
                } else {
                    BF16.round(x, Mode::Nearest)
                }
            })
        },
    ));
    cases.push(case(
        "cvt.rna.tf32.f32 %d, %a;",
        &["f32"],
        "b32",
        &rows,
        |[a]| rounded(f(a), |x| TF32.round(x, Mode::NearestAway) << 13),
    ));
    cases.push(case(
        "cvt.rn.sat.f16.f32 %d, %a;",
        &["f32"],
        "f16",
        &rows,
        |[a]| match f(a) {
            x if x.is_nan() => Bits(0),
            x => Bits(F16.round(x.clamp(0.0, 1.0) + 0.0, Mode::Nearest)),
        },
    ));
    cases
}

/// The first operand goes to the upper half.
fn pairs() -> Vec<Case> {
    let singles = around_halves();
    let rows: Vec<[u64; 2]> = (0..singles.len())
        .map(|i| [singles[i][0], singles[(i + 7) % singles.len()][0]])
        .filter(|row| row.iter().all(|&x| !f(x).is_nan()))
        .collect();
    let mut cases = Vec::new();
    for (name, format) in [("bf16x2", BF16), ("f16x2", F16)] {
        for (rounding, mode) in [("rn", Mode::Nearest), ("rz", Mode::Zero)] {
            cases.push(case(
                format!("cvt.{rounding}.{name}.f32 %d, %a, %b;"),
                &["f32", "f32"],
                "b32",
                &rows,
                |[a, b]| Bits(format.round(f(a), mode) << 16 | format.round(f(b), mode)),
            ));
            cases.push(case(
                format!("cvt.{rounding}.relu.{name}.f32 %d, %a, %b;"),
                &["f32", "f32"],
                "b32",
                &rows,
                |[a, b]| {
                    let half = |x: u64| {
                        if x & 0x8000_0000 != 0 {
                            0
                        } else {
                            format.round(f(x), mode)
                        }
                    };
                    Bits(half(a) << 16 | half(b))
                },
            ));
        }
    }
    // A NaN becomes the canonical one.
    cases.push(case(
        "cvt.rn.bf16x2.f32 %d, %a, %b;",
        &["f32", "f32"],
        "b32",
        &[[0xffc0_0001, 0x7f80_0001]],
        |_| Bits(0x7fff_7fff),
    ));
    cases
}

fn wider() -> Vec<Case> {
    let halves: Vec<[u64; 1]> = (0..=0xffff)
        .step_by(37)
        .chain([1, 0x3ff, 0x400, 0x7bff, 0x7c00, 0x8001])
        .map(|x| [x])
        .collect();
    let floats = singles(&EDGES, M32);
    vec![
        case("cvt.f32.f16 %d, %a;", &["f16"], "f32", &halves, |[a]| {
            rounded(f16::from_bits(a as u16).into(), |x| {
                F32.round(x, Mode::Nearest)
            })
        }),
        case("cvt.f64.f16 %d, %a;", &["f16"], "f64", &halves, |[a]| {
            rounded(f16::from_bits(a as u16).into(), f64::to_bits)
        }),
        case("cvt.f64.f32 %d, %a;", &["f32"], "f64", &floats, |[a]| {
            rounded(f(a), f64::to_bits)
        }),
        // bf16 is the upper half of an f32: kernels for sm_80 shift it up.
        case("shl.b32 %d, %a, 16;", &["b32"], "f32", &halves, |[a]| {
            rounded(bf16::from_bits(a as u16).into(), |x| {
                F32.round(x, Mode::Nearest)
            })
        }),
        case(
            "cvt.sat.f32.f32 %d, %a;",
            &["f32"],
            "f32",
            &floats,
            |[a]| match f(a) {
                x if x.is_nan() => Bits(0),
                x => Bits(F32.round(x.clamp(0.0, 1.0) + 0.0, Mode::Nearest)),
            },
        ),
        case(
            "cvt.ftz.f32.f32 %d, %a;",
            &["f32"],
            "f32",
            &floats,
            |[a]| {
                if f(a).is_nan() { Nan } else { Bits(flush(a)) }
            },
        ),
    ]
}

fn integral() -> Vec<Case> {
    let rows = around_integers();
    INTEGRAL
        .iter()
        .map(|&(mode, round)| {
            case(
                format!("cvt.{mode}.f32.f32 %d, %a;"),
                &["f32"],
                "f32",
                &rows,
                move |[a]| rounded(round(f(a)), |x| F32.round(x, Mode::Nearest)),
            )
        })
        .collect()
}
