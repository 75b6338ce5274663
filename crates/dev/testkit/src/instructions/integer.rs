//! Integer arithmetic, logic and bits.

use super::Expected::Bits;
use super::{Case, case, pairs, random, singles, triples};

const M16: u64 = 0xffff;
const M32: u64 = 0xffff_ffff;
const E16: [u64; 6] = [0, 1, 2, 0x7fff, 0x8000, 0xffff];
const E32: [u64; 8] = [
    0,
    1,
    2,
    31,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
];
const E64: [u64; 8] = [
    0,
    1,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    i64::MIN as u64,
    i64::MIN as u64 + 1,
    u64::MAX,
];
/// Shift amounts around the widths.
const SHIFTS: [u64; 11] = [0, 1, 7, 15, 16, 31, 32, 33, 63, 64, 0xffff_ffff];

/// `%d = %a op %b` on 32-bit registers.
fn b32(body: &str, f: impl Fn(u32, u32) -> u32) -> Case {
    case(body, &["b32", "b32"], "b32", &pairs(&E32, M32), |[a, b]| {
        Bits(f(a as u32, b as u32).into())
    })
}

fn b64(body: &str, f: impl Fn(u64, u64) -> u64) -> Case {
    case(
        body,
        &["b64", "b64"],
        "b64",
        &pairs(&E64, u64::MAX),
        |[a, b]| Bits(f(a, b)),
    )
}

fn b16(body: &str, f: impl Fn(u16, u16) -> u16) -> Case {
    case(body, &["b16", "b16"], "b16", &pairs(&E16, M16), |[a, b]| {
        Bits(f(a as u16, b as u16).into())
    })
}

fn one(body: &str, f: impl Fn(u32) -> u32) -> Case {
    case(body, &["b32"], "b32", &singles(&E32, M32), |[a]| {
        Bits(f(a as u32).into())
    })
}

fn three(body: &str, f: impl Fn(u32, u32, u32) -> u32) -> Case {
    case(
        body,
        &["b32", "b32", "b32"],
        "b32",
        &triples(&E32, M32),
        |[a, b, c]| Bits(f(a as u32, b as u32, c as u32).into()),
    )
}

/// Without rows whose `%b` is zero: the ISA leaves their result undefined.
fn without_zero(mut case: Case) -> Case {
    case.rows.retain(|row| row.operands[1] != 0);
    case
}

fn s(x: u32) -> i32 {
    x as i32
}

pub(super) fn cases() -> Vec<Case> {
    [
        arithmetic(),
        products(),
        logic(),
        shifts(),
        fields(),
        bytes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn arithmetic() -> Vec<Case> {
    vec![
        b32("add.u32 %d, %a, %b;", u32::wrapping_add),
        b32("add.s32 %d, %a, %b;", u32::wrapping_add),
        b32("sub.s32 %d, %a, %b;", u32::wrapping_sub),
        b32("add.sat.s32 %d, %a, %b;", |a, b| {
            s(a).saturating_add(s(b)) as u32
        }),
        b32("sub.sat.s32 %d, %a, %b;", |a, b| {
            s(a).saturating_sub(s(b)) as u32
        }),
        b64("add.u64 %d, %a, %b;", u64::wrapping_add),
        b64("sub.s64 %d, %a, %b;", u64::wrapping_sub),
        b16("add.u16 %d, %a, %b;", u16::wrapping_add),
        b16("sub.s16 %d, %a, %b;", u16::wrapping_sub),
        b32("min.u32 %d, %a, %b;", u32::min),
        b32("max.u32 %d, %a, %b;", u32::max),
        b32("min.s32 %d, %a, %b;", |a, b| s(a).min(s(b)) as u32),
        b32("max.s32 %d, %a, %b;", |a, b| s(a).max(s(b)) as u32),
        b64("min.s64 %d, %a, %b;", |a, b| {
            (a as i64).min(b as i64) as u64
        }),
        b64("max.u64 %d, %a, %b;", u64::max),
        b16("min.s16 %d, %a, %b;", |a, b| {
            (a as i16).min(b as i16) as u16
        }),
        b16("max.u16 %d, %a, %b;", u16::max),
        without_zero(b32("div.u32 %d, %a, %b;", |a, b| {
            a.checked_div(b).unwrap_or(0)
        })),
        without_zero(b32("rem.u32 %d, %a, %b;", |a, b| {
            a.checked_rem(b).unwrap_or(0)
        })),
        without_zero(b32("div.s32 %d, %a, %b;", |a, b| {
            if b == 0 {
                0
            } else {
                s(a).wrapping_div(s(b)) as u32
            }
        })),
        without_zero(b32("rem.s32 %d, %a, %b;", |a, b| {
            if b == 0 {
                0
            } else {
                s(a).wrapping_rem(s(b)) as u32
            }
        })),
        without_zero(b64("div.u64 %d, %a, %b;", |a, b| {
            a.checked_div(b).unwrap_or(0)
        })),
        without_zero(b64("div.s64 %d, %a, %b;", |a, b| {
            if b == 0 {
                0
            } else {
                (a as i64).wrapping_div(b as i64) as u64
            }
        })),
        without_zero(b64("rem.s64 %d, %a, %b;", |a, b| {
            if b == 0 {
                0
            } else {
                (a as i64).wrapping_rem(b as i64) as u64
            }
        })),
        one("neg.s32 %d, %a;", |a| s(a).wrapping_neg() as u32),
        one("abs.s32 %d, %a;", |a| s(a).wrapping_abs() as u32),
        three("sad.u32 %d, %a, %b, %c;", |a, b, c| {
            a.abs_diff(b).wrapping_add(c)
        }),
        three("sad.s32 %d, %a, %b, %c;", |a, b, c| {
            s(a).abs_diff(s(b)).wrapping_add(c)
        }),
    ]
}

fn products() -> Vec<Case> {
    let high = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    let high_signed = |a: u32, b: u32| ((i64::from(s(a)) * i64::from(s(b))) >> 32) as u32;
    vec![
        b32("mul.lo.u32 %d, %a, %b;", u32::wrapping_mul),
        b32("mul.lo.s32 %d, %a, %b;", u32::wrapping_mul),
        b32("mul.hi.u32 %d, %a, %b;", high),
        b32("mul.hi.s32 %d, %a, %b;", high_signed),
        b64("mul.lo.u64 %d, %a, %b;", u64::wrapping_mul),
        b64("mul.hi.u64 %d, %a, %b;", |a, b| {
            ((u128::from(a) * u128::from(b)) >> 64) as u64
        }),
        b64("mul.hi.s64 %d, %a, %b;", |a, b| {
            ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
        }),
        b16("mul.lo.u16 %d, %a, %b;", u16::wrapping_mul),
        b16("mul.hi.s16 %d, %a, %b;", |a, b| {
            ((i32::from(a as i16) * i32::from(b as i16)) >> 16) as u16
        }),
        case(
            "mul.wide.u32 %d, %a, %b;",
            &["b32", "b32"],
            "b64",
            &pairs(&E32, M32),
            |[a, b]| Bits(a * b),
        ),
        case(
            "mul.wide.s32 %d, %a, %b;",
            &["b32", "b32"],
            "b64",
            &pairs(&E32, M32),
            |[a, b]| Bits((i64::from(a as i32) * i64::from(b as i32)) as u64),
        ),
        case(
            "mul.wide.u16 %d, %a, %b;",
            &["b16", "b16"],
            "b32",
            &pairs(&E16, M16),
            |[a, b]| Bits(a * b),
        ),
        case(
            "mul.wide.s16 %d, %a, %b;",
            &["b16", "b16"],
            "b32",
            &pairs(&E16, M16),
            |[a, b]| Bits(((i32::from(a as i16) * i32::from(b as i16)) as u32).into()),
        ),
        three("mad.lo.u32 %d, %a, %b, %c;", |a, b, c| {
            a.wrapping_mul(b).wrapping_add(c)
        }),
        three("mad.hi.u32 %d, %a, %b, %c;", |a, b, c| {
            high(a, b).wrapping_add(c)
        }),
        three("mad.hi.s32 %d, %a, %b, %c;", |a, b, c| {
            high_signed(a, b).wrapping_add(c)
        }),
        three("mad.hi.sat.s32 %d, %a, %b, %c;", |a, b, c| {
            s(high_signed(a, b)).saturating_add(s(c)) as u32
        }),
        case(
            "mad.wide.u32 %d, %a, %b, %c;",
            &["b32", "b32", "b64"],
            "b64",
            &triples(&E32, M32),
            |[a, b, c]| Bits((a * b).wrapping_add(c)),
        ),
        case(
            "mad.wide.s32 %d, %a, %b, %c;",
            &["b32", "b32", "b64"],
            "b64",
            &triples(&E32, M32),
            |[a, b, c]| Bits(((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)),
        ),
        case(
            "mad.lo.u64 %d, %a, %b, %c;",
            &["b64", "b64", "b64"],
            "b64",
            &triples(&E64, u64::MAX),
            |[a, b, c]| Bits(a.wrapping_mul(b).wrapping_add(c)),
        ),
    ]
}

fn logic() -> Vec<Case> {
    let mut cases = vec![
        b32("and.b32 %d, %a, %b;", |a, b| a & b),
        b32("or.b32 %d, %a, %b;", |a, b| a | b),
        b32("xor.b32 %d, %a, %b;", |a, b| a ^ b),
        b64("and.b64 %d, %a, %b;", |a, b| a & b),
        b64("xor.b64 %d, %a, %b;", |a, b| a ^ b),
        b16("or.b16 %d, %a, %b;", |a, b| a | b),
        b16("and.b16 %d, %a, %b;", |a, b| a & b),
        one("not.b32 %d, %a;", |a| !a),
        one("cnot.b32 %d, %a;", |a| u32::from(a == 0)),
        one("popc.b32 %d, %a;", u32::count_ones),
        one("clz.b32 %d, %a;", u32::leading_zeros),
        one("brev.b32 %d, %a;", u32::reverse_bits),
        case(
            "popc.b64 %d, %a;",
            &["b64"],
            "b32",
            &singles(&E64, u64::MAX),
            |[a]| Bits(a.count_ones().into()),
        ),
        case(
            "clz.b64 %d, %a;",
            &["b64"],
            "b32",
            &singles(&E64, u64::MAX),
            |[a]| Bits(a.leading_zeros().into()),
        ),
        case(
            "brev.b64 %d, %a;",
            &["b64"],
            "b64",
            &singles(&E64, u64::MAX),
            |[a]| Bits(a.reverse_bits()),
        ),
        case(
            "not.b16 %d, %a;",
            &["b16"],
            "b16",
            &singles(&E16, M16),
            |[a]| Bits(!a & M16),
        ),
    ];
    // The table's index has a as bit 2, b as bit 1, c as bit 0.
    for table in [0x80u32, 0xfe, 0x96, 0xe8, 0xca, 0x01, 0x3c] {
        cases.push(three(
            &format!("lop3.b32 %d, %a, %b, %c, {table};"),
            move |a, b, c| {
                (0..32).fold(0, |out, i| {
                    let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
                    out | (table >> index & 1) << i
                })
            },
        ));
    }
    cases
}

/// Each of `values` with each shift amount.
fn shift_rows(values: &[u64]) -> Vec<[u64; 2]> {
    values
        .iter()
        .flat_map(|&a| SHIFTS.map(|n| [a, n]))
        .collect()
}

fn shifts() -> Vec<Case> {
    let rows = shift_rows(&E32);
    let wide = shift_rows(&E64);
    let narrow = shift_rows(&E16);
    let mut cases = vec![
        case(
            "shl.b32 %d, %a, %b;",
            &["b32", "b32"],
            "b32",
            &rows,
            |[a, n]| Bits((a as u32).checked_shl(n as u32).unwrap_or(0).into()),
        ),
        case(
            "shr.u32 %d, %a, %b;",
            &["b32", "b32"],
            "b32",
            &rows,
            |[a, n]| Bits((a as u32).checked_shr(n as u32).unwrap_or(0).into()),
        ),
        case(
            "shr.b32 %d, %a, %b;",
            &["b32", "b32"],
            "b32",
            &rows,
            |[a, n]| Bits((a as u32).checked_shr(n as u32).unwrap_or(0).into()),
        ),
        case(
            "shr.s32 %d, %a, %b;",
            &["b32", "b32"],
            "b32",
            &rows,
            |[a, n]| Bits(((a as i32 >> n.min(31)) as u32).into()),
        ),
        case(
            "shl.b64 %d, %a, %b;",
            &["b64", "b32"],
            "b64",
            &wide,
            |[a, n]| Bits(a.checked_shl(n as u32).unwrap_or(0)),
        ),
        case(
            "shr.u64 %d, %a, %b;",
            &["b64", "b32"],
            "b64",
            &wide,
            |[a, n]| Bits(a.checked_shr(n as u32).unwrap_or(0)),
        ),
        case(
            "shr.s64 %d, %a, %b;",
            &["b64", "b32"],
            "b64",
            &wide,
            |[a, n]| Bits((a as i64 >> n.min(63)) as u64),
        ),
        case(
            "shl.b16 %d, %a, %b;",
            &["b16", "b32"],
            "b16",
            &narrow,
            |[a, n]| Bits((a as u16).checked_shl(n as u32).unwrap_or(0).into()),
        ),
        case(
            "shr.s16 %d, %a, %b;",
            &["b16", "b32"],
            "b16",
            &narrow,
            |[a, n]| Bits(((a as i16 >> n.min(15)) as u16).into()),
        ),
    ];
    let funnel: Vec<[u64; 3]> = random(40)
        .flat_map(|x| SHIFTS.map(|n| [x & M32, x >> 32, n]))
        .collect();
    for (mode, clamps) in [("clamp", true), ("wrap", false)] {
        let amount = move |n: u64| if clamps { n.min(32) } else { n % 32 };
        cases.push(case(
            format!("shf.l.{mode}.b32 %d, %a, %b, %c;"),
            &["b32", "b32", "b32"],
            "b32",
            &funnel,
            |[a, b, n]| match amount(n) {
                0 => Bits(b),
                32 => Bits(a),
                n => Bits((b << n | a >> (32 - n)) & M32),
            },
        ));
        cases.push(case(
            format!("shf.r.{mode}.b32 %d, %a, %b, %c;"),
            &["b32", "b32", "b32"],
            "b32",
            &funnel,
            |[a, b, n]| match amount(n) {
                0 => Bits(a),
                32 => Bits(b),
                n => Bits((b << (32 - n) | a >> n) & M32),
            },
        ));
    }
    cases
}

/// The ISA's pseudo-code for `bfe`, bit by bit.
fn bfe(a: u64, position: u64, length: u64, bits: u64, signed: bool) -> u64 {
    let (position, length) = (position & 255, length & 255);
    let top = bits - 1;
    let sign = if !signed || length == 0 {
        0
    } else {
        a >> (position + length - 1).min(top) & 1
    };
    (0..bits).fold(0, |d, i| {
        let bit = if i < length && position + i <= top {
            a >> (position + i) & 1
        } else {
            sign
        };
        d | bit << i
    })
}

/// The ISA's pseudo-code for `bfi`.
fn bfi(a: u64, b: u64, position: u64, length: u64, bits: u64) -> u64 {
    let (position, length) = (position & 255, length & 255);
    (0..length)
        .take_while(|i| position + i < bits)
        .fold(b, |f, i| {
            f & !(1 << (position + i)) | (a >> i & 1) << (position + i)
        })
}

fn fields() -> Vec<Case> {
    let places = [
        (0, 0),
        (0, 1),
        (3, 5),
        (0, 32),
        (31, 1),
        (30, 4),
        (32, 3),
        (7, 64),
        (40, 40),
        (0, 255),
        (255, 8),
        (63, 1),
    ];
    let rows: Vec<[u64; 3]> = random(12)
        .flat_map(|x| places.map(|(p, l)| [x & M32, p, l]))
        .collect();
    let wide: Vec<[u64; 3]> = random(12)
        .flat_map(|x| places.map(|(p, l)| [x, p, l]))
        .collect();
    let four: Vec<[u64; 4]> = random(12)
        .flat_map(|x| places.map(|(p, l)| [x & M32, x >> 32, p, l]))
        .collect();
    let four_wide: Vec<[u64; 4]> = random(12)
        .flat_map(|x| places.map(|(p, l)| [x, !x, p, l]))
        .collect();
    let mut cases = Vec::new();
    for (ty, signed) in [("u32", false), ("s32", true)] {
        let body = format!("bfe.{ty} %d, %a, %b, %c;");
        cases.push(case(
            body,
            &["b32", "b32", "b32"],
            "b32",
            &rows,
            |[a, p, l]| Bits(bfe(a, p, l, 32, signed)),
        ));
    }
    for (ty, signed) in [("u64", false), ("s64", true)] {
        let body = format!("bfe.{ty} %d, %a, %b, %c;");
        cases.push(case(
            body,
            &["b64", "b32", "b32"],
            "b64",
            &wide,
            |[a, p, l]| Bits(bfe(a, p, l, 64, signed)),
        ));
    }
    cases.push(case(
        "bfi.b32 %d, %a, %b, %c, %e;",
        &["b32", "b32", "b32", "b32"],
        "b32",
        &four,
        |[a, b, p, l]| Bits(bfi(a, b, p, l, 32)),
    ));
    cases.push(case(
        "bfi.b64 %d, %a, %b, %c, %e;",
        &["b64", "b64", "b32", "b32"],
        "b64",
        &four_wide,
        |[a, b, p, l]| Bits(bfi(a, b, p, l, 64)),
    ));
    cases
}

fn bytes() -> Vec<Case> {
    // Bytes 0..=3 belong to a, 4..=7 to b; some have their sign bit set.
    let (a, b) = (0x8372_6100, 0x87f6_0584);
    let rows: Vec<[u64; 3]> = random(64).map(|c| [a, b, c & 0xffff]).collect();
    let byte = move |i: u64| (b << 32 | a) >> (8 * (i & 7)) & 255;
    let join = |bytes: [u64; 4]| Bits(bytes[3] << 24 | bytes[2] << 16 | bytes[1] << 8 | bytes[0]);
    let mut cases = vec![case(
        "prmt.b32 %d, %a, %b, %c;",
        &["b32", "b32", "b32"],
        "b32",
        &rows,
        |[_, _, c]| {
            join([0, 4, 8, 12].map(|shift| {
                let selector = c >> shift & 15;
                let value = byte(selector);
                match selector & 8 {
                    0 => value,
                    _ if value & 128 != 0 => 255,
                    _ => 0,
                }
            }))
        },
    )];
    // The ISA's table: for each mode, the bytes that make up d, lowest first, for selectors 0 to 3.
    let modes: [(&str, [[u64; 4]; 4]); 6] = [
        (
            "f4e",
            [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
        ),
        (
            "b4e",
            [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
        ),
        (
            "rc8",
            [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]],
        ),
        (
            "ecl",
            [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
        ),
        (
            "ecr",
            [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
        ),
        (
            "rc16",
            [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
        ),
    ];
    let selectors: Vec<[u64; 3]> = (0..8).map(|c| [a, b, c]).collect();
    for (mode, table) in modes {
        cases.push(case(
            format!("prmt.b32.{mode} %d, %a, %b, %c;"),
            &["b32", "b32", "b32"],
            "b32",
            &selectors,
            |[_, _, c]| join(table[(c & 3) as usize].map(byte)),
        ));
    }
    // Packing: the first part of a vector is the lowest.
    let halves = pairs(&E16, M16);
    cases.push(case(
        "mov.b32 %d, {%a, %b};",
        &["b16", "b16"],
        "b32",
        &halves,
        |[a, b]| Bits(b << 16 | a),
    ));
    cases.push(case(
        "mov.b64 %d, {%a, %b};",
        &["b32", "b32"],
        "b64",
        &pairs(&E32, M32),
        |[a, b]| Bits(b << 32 | a),
    ));
    cases.push(case(
        "{ .reg .b16 %l; mov.b32 {%l, %d}, %a; }",
        &["b32"],
        "b16",
        &singles(&E32, M32),
        |[a]| Bits(a >> 16),
    ));
    cases.push(case(
        "mov.b64 {%d, %x}, %a;",
        &["b64"],
        "b32",
        &singles(&E64, u64::MAX),
        |[a]| Bits(a & M32),
    ));
    cases
}
