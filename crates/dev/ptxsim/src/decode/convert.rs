//! `cvt`.

use super::cursor::Cursor;
use crate::error::Result;
use crate::ir::{Convert, Op, Round, Type};

const SCALARS: [Type; 13] = [
    Type::U8,
    Type::U16,
    Type::U32,
    Type::U64,
    Type::S8,
    Type::S16,
    Type::S32,
    Type::S64,
    Type::F16,
    Type::Bf16,
    Type::Tf32,
    Type::F32,
    Type::F64,
];
const PAIRS: [Type; 2] = [Type::F16x2, Type::Bf16x2];
const ROUNDS: [(&str, Round); 5] = [
    ("rn", Round::Nearest),
    ("rna", Round::NearestAway),
    ("rz", Round::Zero),
    ("rm", Round::Down),
    ("rp", Round::Up),
];
const INTEGRAL: [(&str, Round); 4] = [
    ("rni", Round::Nearest),
    ("rzi", Round::Zero),
    ("rmi", Round::Down),
    ("rpi", Round::Up),
];

pub(super) fn cvt(c: &mut Cursor<'_, '_>) -> Result<Op> {
    let integral = c.choose(&INTEGRAL);
    let float = if integral.is_none() {
        c.choose(&ROUNDS)
    } else {
        None
    };
    // `.ftz` and `.sat` precede the types. `.relu` precedes `.satfinite`, which is not supported.
    let relu = c.flag("relu");
    let ftz = c.flag("ftz");
    let sat = c.flag("sat");
    let to = c.ty(&[&SCALARS[..], &PAIRS[..]].concat())?;
    let from = c.ty(&SCALARS)?;
    let round = integral.or(float).unwrap_or(Round::Nearest);
    let how = Convert {
        to,
        from,
        round,
        integral: integral.is_some(),
        ftz,
        sat,
        relu,
    };
    check(c, how, integral.is_some(), float)?;
    if PAIRS.contains(&to) {
        c.operands(3..=3)?;
        let (high, low) = (c.row(1, Type::F32)?, c.row(2, Type::F32)?);
        return Ok(Op::CvtPair {
            how,
            d: c.destination_row(0, Type::B32)?,
            high,
            low,
        });
    }
    c.operands(2..=2)?;
    let a = c.wide_source(1, register_type(from))?;
    let (operand, at) = c.operand(0);
    Ok(Op::Cvt {
        how,
        d: c.destination_of(operand, at, register_type(to), true)?,
        a,
    })
}

fn register_type(ty: Type) -> Type {
    match ty {
        Type::Bf16 => Type::B16,
        Type::Tf32 => Type::B32,
        _ => ty,
    }
}

/// Checks the rounding that a pair of types needs or allows (PTX ISA, "cvt": rounding modifiers).
fn check(c: &Cursor<'_, '_>, how: Convert, integral: bool, float: Option<Round>) -> Result<()> {
    let Convert { to, from, .. } = how;
    let narrow = matches!(to, Type::Bf16 | Type::Bf16x2 | Type::Tf32 | Type::F16x2);
    if narrow {
        if from != Type::F32 {
            return match to {
                Type::Bf16 => c.bad("only .f32 can be converted to .bf16 here"),
                _ => c.bad(format!("only .f32 can be converted to {to}")),
            };
        }
        let allowed: &[Round] = match to {
            Type::Tf32 if how.relu => &[Round::Nearest, Round::Zero],
            Type::Tf32 => &[Round::NearestAway, Round::Nearest, Round::Zero],
            _ => &[Round::Nearest, Round::Zero],
        };
        if integral || !float.is_some_and(|round| allowed.contains(&round)) {
            return c.bad("this conversion needs a rounding such as .rn");
        }
        if to == Type::Tf32 && float != Some(Round::NearestAway) {
            c.need_target(90)?;
        }
        if how.ftz || how.sat {
            return c.bad(".ftz and .sat do not fit this conversion");
        }
        return Ok(());
    }
    let relu_fits = to == Type::F16 && from == Type::F32;
    if how.relu && !relu_fits {
        return c.bad(".relu does not fit this conversion");
    }
    if float == Some(Round::NearestAway) {
        return c.bad(".rna is for .tf32 only");
    }
    if from == Type::Tf32 {
        return c.bad("a .tf32 cannot be converted");
    }
    if from == Type::Bf16 {
        c.need_target(90)?;
        if !matches!(to, Type::F32) {
            return c.bad("a .bf16 is converted to .f32 only");
        }
    }
    if how.ftz && to != Type::F32 && from != Type::F32 {
        return c.bad(".ftz needs .f32");
    }
    match (from.is_float(), to.is_float()) {
        (false, false) if integral || float.is_some() => {
            c.bad("between integers nothing is rounded")
        }
        (true, false) if !integral => {
            c.bad("a float becomes an integer with .rni, .rzi, .rmi or .rpi")
        }
        (false, true) if float.is_none() => {
            c.bad("an integer becomes a float with .rn, .rz, .rm or .rp")
        }
        (true, true) if to.bytes() < from.bytes() && float.is_none() => {
            c.bad("a narrower float needs .rn, .rz, .rm or .rp")
        }
        (true, true) if to.bytes() > from.bytes() && (integral || float.is_some()) => {
            c.bad("a wider float holds the value exactly, and takes no rounding")
        }
        (true, true) if to == from && float.is_some() => {
            c.bad("the same type takes .rni, .rzi, .rmi or .rpi only")
        }
        _ => Ok(()),
    }
}
