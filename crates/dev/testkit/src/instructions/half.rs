//! f16 and bf16 arithmetic, scalar and in pairs. (add, sub and mul of bf16 need sm_90.)

use half::{bf16, f16};

use super::Expected::{self, Bits, Nan, Near};
use super::oracle::{BF16, F16, Format, Mode, exact_sum};
use super::{Case, case, pairs, random, triples};

const F16_EDGES: [u64; 16] = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x3c01, 0x3555, 0x7bff, 0xfbff,
    0x7c00, 0xfc00, 0x7e00, 0x6400,
];
const BF16_EDGES: [u64; 12] = [
    0x0000, 0x8000, 0x3f80, 0xbf80, 0x3f81, 0x3eab, 0x4049, 0x7f7f, 0x7f80, 0xff80, 0x7fc0, 0x4300,
];

#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    /// The register types of one value and of a pair.
    registers: [&'static str; 2],
    format: Format,
    value: fn(u64) -> f64,
    edges: &'static [u64],
}

const F16_KIND: Kind = Kind {
    name: "f16",
    registers: ["f16", "f16x2"],
    format: F16,
    value: |bits| f16::from_bits(bits as u16).into(),
    edges: &F16_EDGES,
};
const BF16_KIND: Kind = Kind {
    name: "bf16",
    registers: ["b16", "b32"],
    format: BF16,
    value: |bits| bf16::from_bits(bits as u16).into(),
    edges: &BF16_EDGES,
};

impl Kind {
    fn round(self, x: f64) -> Expected {
        if x.is_nan() {
            Nan
        } else {
            Bits(self.format.round(x, Mode::Nearest))
        }
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = [
        fma(F16_KIND),
        fma(BF16_KIND),
        extrema(F16_KIND),
        extrema(BF16_KIND),
        f16_only(),
    ]
    .concat_all();
    cases.extend(pairs_of_halves());
    cases.push(beside_a_tie());
    cases.extend(approximate());
    cases
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Case>;
}

impl<const N: usize> ConcatAll for [Vec<Case>; N] {
    fn concat_all(self) -> Vec<Case> {
        self.into_iter().flatten().collect()
    }
}

/// A case with two operands of this kind.
fn two(kind: Kind, body: String, rows: &[[u64; 2]], f: impl Fn([f64; 2]) -> Expected) -> Case {
    let operands: &'static [&'static str; 2] = if kind.name == "f16" {
        &["f16", "f16"]
    } else {
        &["b16", "b16"]
    };
    case(body, operands, kind.registers[0], rows, |row| {
        f(row.map(kind.value))
    })
}

fn three(kind: Kind, body: String, rows: &[[u64; 3]], f: impl Fn([f64; 3]) -> Expected) -> Case {
    let operands: &'static [&'static str; 3] = if kind.name == "f16" {
        &["f16", "f16", "f16"]
    } else {
        &["b16", "b16", "b16"]
    };
    case(body, operands, kind.registers[0], rows, |row| {
        f(row.map(kind.value))
    })
}

/// Triples whose product and sum f64 holds exactly.
fn exact_triples(kind: Kind) -> Vec<[u64; 3]> {
    let mut rows = triples(kind.edges, 0xffff);
    rows.retain(|row| {
        let [a, b, c] = row.map(kind.value);
        !(a * b).is_finite() || !c.is_finite() || exact_sum(a * b, c).is_some()
    });
    assert!(rows.len() > 100, "most sums fit f64");
    rows
}

fn fma(kind: Kind) -> Vec<Case> {
    let Kind { name, .. } = kind;
    let rows = exact_triples(kind);
    vec![
        three(
            kind,
            format!("fma.rn.{name} %d, %a, %b, %c;"),
            &rows,
            |[a, b, c]| kind.round(a * b + c),
        ),
        three(
            kind,
            format!("fma.rn.relu.{name} %d, %a, %b, %c;"),
            &rows,
            |[a, b, c]| match kind.round(a * b + c) {
                Bits(bits) if bits & 0x8000 != 0 => Bits(0),
                other => other,
            },
        ),
    ]
}

fn extrema(kind: Kind) -> Vec<Case> {
    let rows = pairs(kind.edges, 0xffff);
    let order = |x: f64| {
        if x == 0.0 {
            if x.is_sign_negative() { -1e-300 } else { 0.0 }
        } else {
            x
        }
    };
    let pick = move |[a, b]: [f64; 2], max: bool, nan: bool| match (a.is_nan(), b.is_nan()) {
        (true, true) => Bits(0x7fff),
        (true, _) | (_, true) if nan => Bits(0x7fff),
        (true, false) => kind.round(b),
        (false, true) => kind.round(a),
        _ if (order(a) > order(b)) == max => kind.round(a),
        _ => kind.round(b),
    };
    let mut cases = Vec::new();
    for (op, max) in [("min", false), ("max", true)] {
        let name = kind.name;
        cases.push(two(
            kind,
            format!("{op}.{name} %d, %a, %b;"),
            &rows,
            |row| pick(row, max, false),
        ));
        cases.push(two(
            kind,
            format!("{op}.NaN.{name} %d, %a, %b;"),
            &rows,
            |row| pick(row, max, true),
        ));
    }
    cases
}

/// Operations that bf16 has only on sm_90, or not at all. f64 holds sums and products of f16 exactly.
fn f16_only() -> Vec<Case> {
    let kind = F16_KIND;
    let rows = pairs(&F16_EDGES, 0xffff);
    let flush = |bits: u64| {
        if bits & 0x7c00 == 0 {
            bits & 0x8000
        } else {
            bits
        }
    };
    let ftz = |x: f64| (kind.value)(flush(F16.round(x, Mode::Nearest)));
    let flushed = |expected: Expected| match expected {
        Bits(bits) => Bits(flush(bits)),
        other => other,
    };
    let sat = |x: f64| {
        if x.is_nan() {
            Bits(0)
        } else {
            kind.round(x.clamp(0.0, 1.0) + 0.0)
        }
    };
    vec![
        two(kind, "add.f16 %d, %a, %b;".into(), &rows, |[a, b]| {
            kind.round(a + b)
        }),
        two(kind, "sub.rn.f16 %d, %a, %b;".into(), &rows, |[a, b]| {
            kind.round(a - b)
        }),
        two(kind, "mul.f16 %d, %a, %b;".into(), &rows, |[a, b]| {
            kind.round(a * b)
        }),
        two(
            kind,
            "add.ftz.f16 %d, %a, %b;".into(),
            &rows,
            |[a, b]| match (a.is_nan(), b.is_nan()) {
                (false, false) => flushed(kind.round(ftz(a) + ftz(b))),
                _ => Nan,
            },
        ),
        two(kind, "mul.sat.f16 %d, %a, %b;".into(), &rows, |[a, b]| {
            sat(a * b)
        }),
    ]
}

/// (1 + 1/16)^2 lies half-way between the bf16 values 1.125 and the next one. An addend of 2^-100, too small for f64 to
/// add, decides.
fn beside_a_tie() -> Case {
    let factor = u64::from(bf16::from_f32(1.0625).to_bits());
    let addends =
        [0.0, 2f32.powi(-100), -2f32.powi(-100)].map(|x| u64::from(bf16::from_f32(x).to_bits()));
    let mut rows: Vec<_> = addends.map(|c| [factor, factor, c]).into();
    rows.extend(addends.map(|c| [factor ^ 0x8000, factor, c ^ 0x8000]));
    let fma = "fma.rn.bf16 %d, %a, %b, %c;";
    case(fma, &["b16", "b16", "b16"], "b16", &rows, |[a, _, c]| {
        // The addend points away from zero if it has the product's sign.
        let away = c & 0x7fff != 0 && (a ^ c) & 0x8000 == 0;
        Bits(a & 0x8000 | if away { 0x3f91 } else { 0x3f90 })
    })
}

/// Each half is computed separately.
fn pairs_of_halves() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [F16_KIND, BF16_KIND] {
        let mut rows: Vec<[u64; 3]> = random(600)
            .map(|x| x & 0xffff_ffff)
            .collect::<Vec<_>>()
            .chunks_exact(3)
            .map(|x| [x[0], x[1], x[2]])
            .collect();
        let halves =
            move |row: [u64; 3], shift: u32| row.map(|x| (kind.value)(x >> shift & 0xffff));
        let fits = |[a, b, c]: [f64; 3]| (a * b + c).is_finite() && exact_sum(a * b, c).is_some();
        rows.retain(|&row| fits(halves(row, 0)) && fits(halves(row, 16)));
        let both = |row: [u64; 3], f: &dyn Fn([f64; 3]) -> f64| {
            let half = |shift| kind.format.round(f(halves(row, shift)), Mode::Nearest);
            Bits(half(16) << 16 | half(0))
        };
        let operands: &'static [&'static str; 3] = if kind.name == "f16" {
            &["f16x2", "f16x2", "f16x2"]
        } else {
            &["b32", "b32", "b32"]
        };
        let result = kind.registers[1];
        let name = kind.name;
        let mut add = |body: String, f: &dyn Fn([f64; 3]) -> f64| {
            cases.push(case(body, operands, result, &rows, |row| both(row, f)));
        };
        add(format!("fma.rn.{name}x2 %d, %a, %b, %c;"), &|[a, b, c]| {
            a * b + c
        });
        add(format!("max.{name}x2 %d, %a, %b;"), &|[a, b, _]| a.max(b));
        add(format!("neg.{name}x2 %d, %a;"), &|[a, ..]| -a);
        add(format!("abs.{name}x2 %d, %a;"), &|[a, ..]| a.abs());
        if name == "f16" {
            add("add.f16x2 %d, %a, %b;".into(), &|[a, b, _]| a + b);
            add("mul.rn.f16x2 %d, %a, %b;".into(), &|[a, b, _]| a * b);
        }
    }
    cases
}

fn approximate() -> Vec<Case> {
    let rows: Vec<[u64; 1]> = (0..160)
        .map(|i| [u64::from(f16::from_f32(-8.0 + 0.1 * i as f32).to_bits())])
        .collect();
    let x = |bits: u64| f64::from(f16::from_bits(bits as u16));
    vec![
        case("tanh.approx.f16 %d, %a;", &["f16"], "f16", &rows, |[a]| {
            Near {
                value: x(a).tanh(),
                absolute: 2f64.powf(-10.987),
                relative: 0.0,
            }
        }),
        case("ex2.approx.f16 %d, %a;", &["f16"], "f16", &rows, |[a]| {
            Near {
                value: x(a).exp2(),
                absolute: 0.0,
                relative: 2f64.powf(-9.9),
            }
        }),
    ]
}
