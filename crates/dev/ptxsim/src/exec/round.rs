//! Rounding to a floating-point format, in every mode.

use crate::ir::Round;

/// A binary floating-point format with a sign, an exponent and a fraction.
#[derive(Clone, Copy)]
pub(super) struct Format {
    fraction: u32,
    exponent: u32,
}

pub(super) const F16: Format = Format {
    fraction: 10,
    exponent: 5,
};
pub(super) const BF16: Format = Format {
    fraction: 7,
    exponent: 8,
};
pub(super) const TF32: Format = Format {
    fraction: 10,
    exponent: 8,
};
pub(super) const F32: Format = Format {
    fraction: 23,
    exponent: 8,
};
pub(super) const F64: Format = Format {
    fraction: 52,
    exponent: 11,
};

impl Format {
    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    fn sign(self, negative: bool) -> u64 {
        u64::from(negative) << (self.fraction + self.exponent)
    }

    fn infinity(self, negative: bool) -> u64 {
        self.sign(negative) | ((1 << self.exponent) - 1) << self.fraction
    }

    /// The NaN that instructions produce: all ones except the sign; for f64 the quiet NaN.
    fn nan(self) -> u64 {
        if self.fraction == 52 {
            f64::NAN.to_bits()
        } else {
            self.sign(true) - 1
        }
    }
}

/// The bits of `magnitude * 2^scale` in a format.
pub(super) fn round_parts(
    negative: bool,
    magnitude: u128,
    scale: i32,
    format: Format,
    round: Round,
) -> u64 {
    let sign = format.sign(negative);
    if magnitude == 0 {
        return sign;
    }
    let length = 128 - magnitude.leading_zeros() as i32;
    let exponent = length - 1 + scale;
    let least = 1 - format.bias();
    let precision = format.fraction as i32 + 1;
    let kept = if exponent >= least {
        precision
    } else {
        precision - (least - exponent)
    };
    let drop = length - kept;
    let mut value = match drop {
        ..=0 => (magnitude << -drop) as u64,
        1..=127 => (magnitude >> drop) as u64,
        _ => 0,
    };
    if drop > 0 {
        let rest = if drop > 127 {
            magnitude
        } else {
            magnitude & ((1 << drop) - 1)
        };
        let half = if drop > 128 {
            u128::MAX
        } else {
            1 << (drop - 1)
        };
        let up = match round {
            Round::Nearest => rest > half || rest == half && value & 1 == 1,
            Round::NearestAway => rest >= half,
            Round::Zero => false,
            Round::Down => negative && rest > 0,
            Round::Up => !negative && rest > 0,
        };
        value += u64::from(up);
    }
    // A carry out of the fraction goes into the exponent, which is correct.
    let bits = if exponent >= least {
        (((exponent + format.bias()) as u64) << format.fraction) + value - (1 << format.fraction)
    } else {
        value
    };
    let infinity = format.infinity(false);
    if bits < infinity {
        return sign | bits;
    }
    let to_infinity = match round {
        Round::Nearest | Round::NearestAway => true,
        Round::Zero => false,
        Round::Down => negative,
        Round::Up => !negative,
    };
    sign | if to_infinity { infinity } else { infinity - 1 }
}

/// The bits of `x` in a format; NaN becomes the format's own.
pub(super) fn round_f64(x: f64, format: Format, round: Round) -> u64 {
    if x.is_nan() {
        return format.nan();
    }
    let negative = x.is_sign_negative();
    if x.is_infinite() {
        return format.infinity(negative);
    }
    let bits = x.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let (magnitude, scale) = if exponent == 0 {
        (fraction, -1074)
    } else {
        (fraction | 1 << 52, exponent - 1075)
    };
    round_parts(negative, magnitude.into(), scale, format, round)
}

/// `x` with its last bit set unless `error`, the difference to the exact value, is zero: rounding to odd. A later
/// rounding to at least two bits fewer then equals the rounding of the exact value (Boldo and Melquiond, 2008).
fn odd(x: f64, error: f64) -> f64 {
    if error == 0.0 || error.is_nan() || !x.is_finite() || x.to_bits() & 1 == 1 {
        return x;
    }
    let grows = (error > 0.0) == (x > 0.0);
    f64::from_bits(if grows {
        x.to_bits() + 1
    } else {
        x.to_bits() - 1
    })
}

/// `a + b`, rounded to odd. No operand may be close to the limits of f64's range.
pub(super) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    odd(sum, error)
}

/// `a / b` of f32 or smaller operands, rounded to odd.
pub(super) fn div_odd(a: f64, b: f64) -> f64 {
    let quotient = a / b;
    let remainder = (-quotient).mul_add(b, a);
    odd(quotient, if b < 0.0 { -remainder } else { remainder })
}

/// The square root of an f32 or smaller operand, rounded to odd.
pub(super) fn sqrt_odd(a: f64) -> f64 {
    let root = a.sqrt();
    odd(root, (-root).mul_add(root, a))
}
