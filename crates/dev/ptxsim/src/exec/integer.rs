//! Integer arithmetic, logic and bits.

use super::regs::{Lane, Regs, map1, map2, map3};
use crate::ir::{Int1, Int2, Int3, Prmt, Row, Type};

/// The operations on a type that the integer instructions need.
pub(super) trait Int: Lane + Ord + Into<i128> {
    const BITS: u32;
    /// The low bits.
    fn wrap(value: i128) -> Self;
}

macro_rules! int {
    ($($type:ty),*) => {
        $(impl Int for $type {
            const BITS: u32 = <$type>::BITS;
            fn wrap(value: i128) -> Self {
                value as $type
            }
        })*
    };
}

int!(u16, i16, u32, i32, u64, i64);

/// Calls a generic function with the Rust type of an integer type.
macro_rules! by_type {
    ($type:expr, $call:ident ( $($arg:expr),* )) => {
        match $type {
            Type::U16 | Type::B16 => $call::<u16>($($arg),*),
            Type::S16 => $call::<i16>($($arg),*),
            Type::U32 | Type::B32 => $call::<u32>($($arg),*),
            Type::S32 => $call::<i32>($($arg),*),
            Type::U64 | Type::B64 => $call::<u64>($($arg),*),
            Type::S64 => $call::<i64>($($arg),*),
            _ => unreachable!("the decoder gives integer types only"),
        }
    };
}
pub(super) use by_type;

pub(super) fn int1(regs: &mut Regs, mask: u32, f: Int1, ty: Type, d: Row, a: Row) {
    match (f, ty) {
        (Int1::Popc, Type::B64) => map1(regs, mask, d, a, u64::count_ones),
        (Int1::Popc, _) => map1(regs, mask, d, a, u32::count_ones),
        (Int1::Clz, Type::B64) => map1(regs, mask, d, a, u64::leading_zeros),
        (Int1::Clz, _) => map1(regs, mask, d, a, u32::leading_zeros),
        (Int1::Brev, Type::B64) => map1(regs, mask, d, a, u64::reverse_bits),
        (Int1::Brev, _) => map1(regs, mask, d, a, u32::reverse_bits),
        _ => by_type!(ty, unary(regs, mask, f, d, a)),
    }
}

fn unary<T: Int>(regs: &mut Regs, mask: u32, f: Int1, d: Row, a: Row) {
    map1(regs, mask, d, a, |a: T| {
        let a: i128 = a.into();
        T::wrap(match f {
            Int1::Neg => -a,
            Int1::Abs => a.abs(),
            Int1::Not => !a,
            _ => i128::from(a == 0),
        })
    });
}

pub(super) fn int2(regs: &mut Regs, mask: u32, f: Int2, ty: Type, d: Row, (a, b): (Row, Row)) {
    let rows = (a, b);
    // The most frequent forms have loops that the compiler vectorizes.
    match (f, ty) {
        (Int2::Add, Type::U32 | Type::S32) => return map2(regs, mask, d, rows, u32::wrapping_add),
        (Int2::Sub, Type::U32 | Type::S32) => return map2(regs, mask, d, rows, u32::wrapping_sub),
        (Int2::MulLo, Type::U32 | Type::S32) => {
            return map2(regs, mask, d, rows, u32::wrapping_mul);
        }
        (Int2::Add, Type::U64 | Type::S64) => return map2(regs, mask, d, rows, u64::wrapping_add),
        (Int2::Sub, Type::U64 | Type::S64) => return map2(regs, mask, d, rows, u64::wrapping_sub),
        (Int2::And, Type::B32) => return map2(regs, mask, d, rows, |a: u32, b: u32| a & b),
        (Int2::Or, Type::B32) => return map2(regs, mask, d, rows, |a: u32, b: u32| a | b),
        (Int2::Xor, Type::B32) => return map2(regs, mask, d, rows, |a: u32, b: u32| a ^ b),
        (Int2::MulWide, Type::U32) => {
            return map2(regs, mask, d, rows, |a: u32, b: u32| {
                u64::from(a) * u64::from(b)
            });
        }
        (Int2::MulWide, Type::S32) => {
            return map2(regs, mask, d, rows, |a: i32, b: i32| {
                i64::from(a) * i64::from(b)
            });
        }
        (Int2::MulWide, Type::U16) => {
            return map2(regs, mask, d, rows, |a: u16, b: u16| {
                u32::from(a) * u32::from(b)
            });
        }
        (Int2::MulWide, _) => {
            return map2(regs, mask, d, rows, |a: i16, b: i16| {
                i32::from(a) * i32::from(b)
            });
        }
        (Int2::Shl | Int2::Shr, _) => {
            return by_type!(ty, shift(regs, mask, f == Int2::Shl, d, rows));
        }
        _ => {}
    }
    by_type!(ty, binary(regs, mask, f, d, rows));
}

fn binary<T: Int>(regs: &mut Regs, mask: u32, f: Int2, d: Row, rows: (Row, Row)) {
    let wide = |op: fn(i128, i128) -> i128| move |a: T, b: T| T::wrap(op(a.into(), b.into()));
    match f {
        Int2::Add => map2(regs, mask, d, rows, wide(|a, b| a + b)),
        Int2::Sub => map2(regs, mask, d, rows, wide(|a, b| a - b)),
        Int2::AddSat => map2(regs, mask, d, rows, |a: i32, b: i32| a.saturating_add(b)),
        Int2::SubSat => map2(regs, mask, d, rows, |a: i32, b: i32| a.saturating_sub(b)),
        Int2::MulLo => map2(regs, mask, d, rows, wide(i128::wrapping_mul)),
        Int2::MulHi => map2(regs, mask, d, rows, |a: T, b: T| T::wrap(high::<T>(a, b))),
        // Division by zero gives all ones, as on hardware; the ISA leaves it undefined.
        Int2::Div => map2(
            regs,
            mask,
            d,
            rows,
            wide(|a, b| if b == 0 { -1 } else { a / b }),
        ),
        Int2::Rem => map2(
            regs,
            mask,
            d,
            rows,
            wide(|a, b| if b == 0 { a } else { a % b }),
        ),
        Int2::Min => map2(regs, mask, d, rows, |a: T, b: T| a.min(b)),
        Int2::Max => map2(regs, mask, d, rows, |a: T, b: T| a.max(b)),
        Int2::And => map2(regs, mask, d, rows, wide(|a, b| a & b)),
        Int2::Or => map2(regs, mask, d, rows, wide(|a, b| a | b)),
        _ => map2(regs, mask, d, rows, wide(|a, b| a ^ b)),
    }
}

/// The upper half of a product. For 64-bit operands it may need all 128 bits; signed and unsigned values wrap alike
/// there.
fn high<T: Int>(a: T, b: T) -> i128 {
    let (a, b): (i128, i128) = (a.into(), b.into());
    if a >= 0 && b >= 0 {
        ((a as u128 * b as u128) >> T::BITS) as i128
    } else {
        (a * b) >> T::BITS
    }
}

/// An amount beyond the width shifts everything out: the result is zeros, or the sign.
fn shift<T: Int>(regs: &mut Regs, mask: u32, left: bool, d: Row, rows: (Row, Row)) {
    if left {
        map2(regs, mask, d, rows, |a: T, n: u32| {
            T::wrap(if n >= T::BITS {
                0
            } else {
                (a.into() as u128).wrapping_shl(n) as i128
            })
        });
    } else {
        map2(regs, mask, d, rows, |a: T, n: u32| {
            T::wrap(a.into() >> n.min(T::BITS))
        });
    }
}

pub(super) fn int3(regs: &mut Regs, mask: u32, f: Int3, ty: Type, d: Row, rows: (Row, Row, Row)) {
    match (f, ty) {
        (Int3::MadLo, Type::U32 | Type::S32) => {
            map3(regs, mask, d, rows, |a: u32, b: u32, c: u32| {
                a.wrapping_mul(b).wrapping_add(c)
            });
        }
        (Int3::MadWide, Type::U32) => {
            map3(regs, mask, d, rows, |a: u32, b: u32, c: u64| {
                (u64::from(a) * u64::from(b)).wrapping_add(c)
            });
        }
        (Int3::MadWide, Type::S32) => {
            map3(regs, mask, d, rows, |a: i32, b: i32, c: i64| {
                (i64::from(a) * i64::from(b)).wrapping_add(c)
            });
        }
        (Int3::MadWide, Type::U16) => {
            map3(regs, mask, d, rows, |a: u16, b: u16, c: u32| {
                (u32::from(a) * u32::from(b)).wrapping_add(c)
            });
        }
        (Int3::MadWide, _) => {
            map3(regs, mask, d, rows, |a: i16, b: i16, c: i32| {
                (i32::from(a) * i32::from(b)).wrapping_add(c)
            });
        }
        (Int3::Bfe, _) => by_type!(ty, bfe(regs, mask, d, rows)),
        _ => by_type!(ty, ternary(regs, mask, f, d, rows)),
    }
}

fn ternary<T: Int>(regs: &mut Regs, mask: u32, f: Int3, d: Row, rows: (Row, Row, Row)) {
    map3(regs, mask, d, rows, |a: T, b: T, c: T| {
        let added: i128 = c.into();
        match f {
            Int3::MadHi => T::wrap(high(a, b).wrapping_add(added)),
            Int3::MadHiSat => {
                let sum = high(a, b) + added;
                T::wrap(sum.clamp(i32::MIN.into(), i32::MAX.into()))
            }
            Int3::Sad => T::wrap(added + (a.into() - b.into()).abs()),
            _ => T::wrap(a.into().wrapping_mul(b.into()).wrapping_add(added)),
        }
    });
}

/// Position and length are taken modulo 256. Past the top, a signed field is filled with the sign (PTX ISA, "bfe").
fn bfe<T: Int>(regs: &mut Regs, mask: u32, d: Row, rows: (Row, Row, Row)) {
    map3(regs, mask, d, rows, |a: T, position: u32, length: u32| {
        let (position, length) = (position & 255, length & 255);
        let value: i128 = a.into();
        if length == 0 {
            return T::wrap(0);
        }
        let top = (position + length - 1).min(T::BITS - 1);
        // An unsigned value is not negative, so its sign bit is never copied.
        let sign = if T::wrap(-1).into() < 0 && value >> top & 1 == 1 {
            -1
        } else {
            0
        };
        if position >= T::BITS {
            return T::wrap(sign);
        }
        let kept = length.min(T::BITS - position);
        let field = value >> position & ((1 << kept) - 1);
        T::wrap(field | sign << kept)
    });
}

pub(super) fn bfi(
    regs: &mut Regs,
    mask: u32,
    wide: bool,
    d: Row,
    [a, b, position, length]: [Row; 4],
) {
    let insert = |a: u64, b: u64, position: u32, length: u32, bits: u32| {
        let (position, length) = (position & 255, length & 255);
        if position >= bits {
            return b;
        }
        let field = if length >= 64 {
            u64::MAX
        } else {
            (1 << length) - 1
        } << position;
        b & !field | a << position & field
    };
    let positions = regs.b32[position as usize];
    let lengths = regs.b32[length as usize];
    let mut out = [0; 32];
    if wide {
        let (a, b) = (&regs.b64[a as usize], &regs.b64[b as usize]);
        for lane in 0..32 {
            out[lane] = insert(a[lane], b[lane], positions[lane], lengths[lane], 64);
        }
        regs.put_64(d, mask, &out);
    } else {
        let (a, b) = (&regs.b32[a as usize], &regs.b32[b as usize]);
        for lane in 0..32 {
            out[lane] = insert(
                a[lane].into(),
                b[lane].into(),
                positions[lane],
                lengths[lane],
                32,
            );
        }
        regs.put_32(d, mask, &out.map(|x| x as u32));
    }
}

pub(super) fn prmt(regs: &mut Regs, mask: u32, mode: Prmt, d: Row, rows: (Row, Row, Row)) {
    map3(regs, mask, d, rows, |a: u32, b: u32, c: u32| {
        let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
        let n = (c & 3) as usize;
        let pick: [usize; 4] = match mode {
            Prmt::Index => {
                let selected = [0, 4, 8, 12].map(|shift| c >> shift & 15);
                return u32::from_le_bytes(selected.map(|s| {
                    let byte = bytes[(s & 7) as usize];
                    // The selector's top bit requests the byte's sign, eight times.
                    if s & 8 == 0 {
                        byte
                    } else {
                        (byte as i8 >> 7) as u8
                    }
                }));
            }
            Prmt::F4e => [n, n + 1, n + 2, n + 3],
            Prmt::B4e => [n, (n + 7) % 8, (n + 6) % 8, (n + 5) % 8],
            Prmt::Rc8 => [n; 4],
            Prmt::Ecl => [n, n.max(1), n.max(2), 3],
            Prmt::Ecr => [0, n.min(1), n.min(2), n],
            Prmt::Rc16 => {
                let low = 2 * (n & 1);
                [low, low + 1, low, low + 1]
            }
        };
        u32::from_le_bytes(pick.map(|i| bytes[i]))
    });
}

pub(super) fn lop3(regs: &mut Regs, mask: u32, table: u8, d: Row, rows: (Row, Row, Row)) {
    map3(regs, mask, d, rows, |a: u32, b: u32, c: u32| {
        let mut out = 0;
        for i in 0..8 {
            if table >> i & 1 == 1 {
                let a = if i & 4 == 0 { !a } else { a };
                let b = if i & 2 == 0 { !b } else { b };
                let c = if i & 1 == 0 { !c } else { c };
                out |= a & b & c;
            }
        }
        out
    });
}

/// Shifts the 64 bits `b:a`, and returns the upper half for a left shift, the lower half for a right shift.
pub(super) fn shf(
    regs: &mut Regs,
    mask: u32,
    left: bool,
    clamp: bool,
    d: Row,
    rows: (Row, Row, Row),
) {
    map3(regs, mask, d, rows, |a: u32, b: u32, c: u32| {
        let n = if clamp { c.min(32) } else { c & 31 };
        let both = u64::from(b) << 32 | u64::from(a);
        if left {
            ((both << n) >> 32) as u32
        } else {
            (both >> n) as u32
        }
    });
}
