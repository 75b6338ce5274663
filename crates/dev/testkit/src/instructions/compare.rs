//! Comparisons and selections.

use super::Expected::Bits;
use super::float::{EDGES, f, flush};
use super::{Case, case, pairs, triples};

const M32: u64 = 0xffff_ffff;
const INTS: [u64; 5] = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// A comparison or logical operation, with its name.
type Named<T> = (&'static str, fn(T, T) -> bool);

/// Sets `%d` to 1 where `%p` is true.
fn as_number(setp: &str) -> String {
    format!("{setp} selp.u32 %d, 1, 0, %p;")
}

pub(super) fn cases() -> Vec<Case> {
    [integers(), floats(), combined(), selections()]
        .into_iter()
        .flatten()
        .collect()
}

fn integers() -> Vec<Case> {
    let rows = pairs(&INTS, M32);
    let wide = pairs(
        &[0, 1, i64::MAX as u64, i64::MIN as u64, u64::MAX],
        u64::MAX,
    );
    let signed: [Named<i64>; 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    let unsigned: [Named<u64>; 8] = [
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("lo", |a, b| a < b),
        ("ls", |a, b| a <= b),
        ("hi", |a, b| a > b),
        ("hs", |a, b| a >= b),
    ];
    let mut cases = Vec::new();
    for (name, g) in signed {
        let body = as_number(&format!("setp.{name}.s32 %p, %a, %b;"));
        cases.push(case(body, &["b32", "b32"], "b32", &rows, |[a, b]| {
            Bits(g((a as i32).into(), (b as i32).into()).into())
        }));
        let body = as_number(&format!("setp.{name}.s64 %p, %a, %b;"));
        cases.push(case(body, &["b64", "b64"], "b32", &wide, |[a, b]| {
            Bits(g(a as i64, b as i64).into())
        }));
        let body = as_number(&format!("setp.{name}.s16 %p, %a, %b;"));
        let halves: Vec<[u64; 2]> = rows.iter().map(|row| row.map(|x| x & 0xffff)).collect();
        cases.push(case(body, &["b16", "b16"], "b32", &halves, |[a, b]| {
            Bits(g((a as i16).into(), (b as i16).into()).into())
        }));
    }
    for (name, g) in unsigned {
        let body = as_number(&format!("setp.{name}.u32 %p, %a, %b;"));
        cases.push(case(body, &["b32", "b32"], "b32", &rows, |[a, b]| {
            Bits(g(a, b).into())
        }));
        let body = as_number(&format!("setp.{name}.u64 %p, %a, %b;"));
        cases.push(case(body, &["b64", "b64"], "b32", &wide, |[a, b]| {
            Bits(g(a, b).into())
        }));
    }
    cases.push(case(
        as_number("setp.eq.b32 %p, %a, %b;"),
        &["b32", "b32"],
        "b32",
        &rows,
        |[a, b]| Bits((a == b).into()),
    ));
    cases
}

/// The ISA's tables of ordered and unordered comparisons.
fn holds(name: &str, a: f64, b: f64) -> bool {
    let nan = a.is_nan() || b.is_nan();
    match name {
        "eq" => a == b,
        "ne" => !nan && a != b,
        "lt" => a < b,
        "le" => a <= b,
        "gt" => a > b,
        "ge" => a >= b,
        "num" => !nan,
        "nan" => nan,
        "equ" => nan || a == b,
        "neu" => nan || a != b,
        "ltu" => nan || a < b,
        "leu" => nan || a <= b,
        "gtu" => nan || a > b,
        "geu" => nan || a >= b,
        _ => unreachable!("{name} is not a comparison"),
    }
}

fn floats() -> Vec<Case> {
    let rows = pairs(&EDGES, M32);
    let names = [
        "eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
    ];
    let mut cases = Vec::new();
    for name in names {
        let body = as_number(&format!("setp.{name}.f32 %p, %a, %b;"));
        cases.push(case(body, &["f32", "f32"], "b32", &rows, |[a, b]| {
            Bits(holds(name, f(a), f(b)).into())
        }));
        let body = as_number(&format!("setp.{name}.ftz.f32 %p, %a, %b;"));
        cases.push(case(body, &["f32", "f32"], "b32", &rows, |[a, b]| {
            Bits(holds(name, f(flush(a)), f(flush(b))).into())
        }));
        let body = as_number(&format!("setp.{name}.f16 %p, %a, %b;"));
        let halves = pairs(
            &[0, 0x8000, 1, 0x3c00, 0xbc00, 0x7c00, 0xfc00, 0x7e00],
            0xffff,
        );
        let h = |x: u64| f64::from(half::f16::from_bits(x as u16));
        cases.push(case(body, &["f16", "f16"], "b32", &halves, |[a, b]| {
            Bits(holds(name, h(a), h(b)).into())
        }));
    }
    cases
}

/// `%b` determines the third operand, `%q`.
fn combined() -> Vec<Case> {
    let rows = triples(&INTS, M32);
    let mut cases = Vec::new();
    let logic: [Named<bool>; 3] = [
        ("and", |a, b| a && b),
        ("or", |a, b| a || b),
        ("xor", |a, b| a != b),
    ];
    for (name, g) in logic {
        for (sign, negated) in [("", false), ("!", true)] {
            let setp = format!("setp.ne.b32 %q, %c, 0; setp.lt.{name}.s32 %p, %a, %b, {sign}%q;");
            cases.push(case(
                as_number(&setp),
                &["b32", "b32", "b32"],
                "b32",
                &rows,
                |[a, b, c]| Bits(g((a as i32) < (b as i32), (c != 0) != negated).into()),
            ));
            // The second destination has the opposite comparison, combined in the same way.
            let setp =
                format!("setp.ne.b32 %q, %c, 0; setp.lt.{name}.s32 %end|%p, %a, %b, {sign}%q;");
            cases.push(case(
                as_number(&setp),
                &["b32", "b32", "b32"],
                "b32",
                &rows,
                |[a, b, c]| Bits(g((a as i32) >= (b as i32), (c != 0) != negated).into()),
            ));
            let body =
                format!("setp.ne.b32 %q, %c, 0; set.lt.{name}.u32.s32 %d, %a, %b, {sign}%q;");
            cases.push(case(
                body,
                &["b32", "b32", "b32"],
                "b32",
                &rows,
                |[a, b, c]| {
                    Bits(if g((a as i32) < (b as i32), (c != 0) != negated) {
                        M32
                    } else {
                        0
                    })
                },
            ));
            let body = as_number(&format!(
                "setp.ne.b32 %q, %c, 0; setp.ne.b32 %p, %a, 0; {name}.pred %p, %p, {sign}%q;"
            ));
            cases.push(case(
                body,
                &["b32", "b32", "b32"],
                "b32",
                &rows,
                |[a, _, c]| Bits(g(a != 0, (c != 0) != negated).into()),
            ));
        }
    }
    let floats = pairs(&EDGES, M32);
    cases.push(case(
        "set.gtu.f32.f32 %d, %a, %b;",
        &["f32", "f32"],
        "f32",
        &floats,
        |[a, b]| {
            Bits(if holds("gtu", f(a), f(b)) {
                0x3f80_0000
            } else {
                0
            })
        },
    ));
    cases
}

fn selections() -> Vec<Case> {
    let rows = triples(&INTS, M32);
    let floats = triples(&EDGES, M32);
    vec![
        case(
            "setp.ne.b32 %p, %c, 0; selp.b32 %d, %a, %b, %p;",
            &["b32", "b32", "b32"],
            "b32",
            &rows,
            |[a, b, c]| Bits(if c != 0 { a } else { b }),
        ),
        case(
            "setp.ne.b32 %p, %c, 0; selp.b64 %d, %a, %b, !%p;",
            &["b64", "b64", "b32"],
            "b64",
            &rows,
            |[a, b, c]| Bits(if c == 0 { a } else { b }),
        ),
        case(
            "slct.b32.s32 %d, %a, %b, %c;",
            &["b32", "b32", "b32"],
            "b32",
            &rows,
            |[a, b, c]| Bits(if c as i32 >= 0 { a } else { b }),
        ),
        // -0 is zero; NaN takes the second operand.
        case(
            "slct.f32.f32 %d, %a, %b, %c;",
            &["f32", "f32", "f32"],
            "f32",
            &floats,
            |[a, b, c]| Bits(if f(c) >= 0.0 { a } else { b }),
        ),
        case(
            "slct.ftz.b32.f32 %d, %a, %b, %c;",
            &["b32", "b32", "f32"],
            "b32",
            &floats,
            |[a, b, c]| Bits(if f(flush(c)) >= 0.0 { a } else { b }),
        ),
    ]
}
