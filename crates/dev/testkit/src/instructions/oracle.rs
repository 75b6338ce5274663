//! Rounding by search: lists a format's values in order and finds the place of an exact value among them.

/// A floating-point format: fraction bits, exponent bits.
#[derive(Clone, Copy)]
pub(super) struct Format(pub(super) u32, pub(super) u32);

pub(super) const F32: Format = Format(23, 8);
pub(super) const F16: Format = Format(10, 5);
pub(super) const BF16: Format = Format(7, 8);
pub(super) const TF32: Format = Format(10, 8);

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Mode {
    Nearest,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// The rounding modifiers of f32 arithmetic.
pub(super) const MODES: [(&str, Mode); 4] = [
    ("rn", Mode::Nearest),
    ("rz", Mode::Zero),
    ("rm", Mode::Down),
    ("rp", Mode::Up),
];

impl Format {
    fn infinity(self) -> i64 {
        ((1 << self.1) - 1) << self.0
    }

    /// The value of the `n`-th number from zero. The number after the largest stands for the next power of two.
    fn value(self, n: i64) -> f64 {
        let size = n.unsigned_abs();
        let (exponent, fraction) = ((size >> self.0) as i32, (size & ((1 << self.0) - 1)) as f64);
        let bias = (1 << (self.1 - 1)) - 1;
        let unit = 2f64.powi(1 - bias - self.0 as i32);
        let magnitude = match exponent {
            0 => fraction * unit,
            _ => (fraction + 2f64.powi(self.0 as i32)) * unit * 2f64.powi(exponent - 1),
        };
        if n < 0 { -magnitude } else { magnitude }
    }

    /// The bits of the value to which `exact` is rounded. `exact` must not be NaN.
    pub(super) fn round(self, exact: f64, mode: Mode) -> u64 {
        let infinity = self.infinity();
        let sign = u64::from(exact.is_sign_negative()) << (self.0 + self.1);
        if exact == 0.0 || exact.is_infinite() {
            return sign | if exact == 0.0 { 0 } else { infinity as u64 };
        }
        if exact.abs() >= self.value(infinity) {
            // Beyond the largest number, only the mode decides.
            let stays = mode == Mode::Zero
                || mode == Mode::Down && exact > 0.0
                || mode == Mode::Up && exact < 0.0;
            return sign | (infinity - i64::from(stays)) as u64;
        }
        // The largest number that does not exceed the exact value.
        let (mut low, mut high) = (-infinity, infinity);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.value(middle) <= exact {
                low = middle
            } else {
                high = middle
            }
        }
        let n = match exact - self.value(low) {
            0.0 => low,
            below => {
                let above = self.value(low + 1) - exact;
                let up = match mode {
                    Mode::Down => false,
                    Mode::Up => true,
                    Mode::Zero => exact < 0.0,
                    Mode::Nearest => above < below || above == below && (low + 1) % 2 == 0,
                    Mode::NearestAway => above < below || above == below && exact > 0.0,
                };
                if up { low + 1 } else { low }
            }
        };
        sign | n.unsigned_abs()
    }
}

/// `a + b`, if f64 holds it exactly.
pub(super) fn exact_sum(a: f64, b: f64) -> Option<f64> {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    (error == 0.0).then_some(sum)
}

#[test]
fn the_oracle_agrees_with_known_roundings() {
    assert_eq!(F32.round(1.0, Mode::Nearest), 0x3f80_0000);
    assert_eq!(F32.round(1.0 + 2f64.powi(-24), Mode::Nearest), 0x3f80_0000);
    assert_eq!(
        F32.round(1.0 + 3.0 * 2f64.powi(-24), Mode::Nearest),
        0x3f80_0002
    );
    assert_eq!(F32.round(-1.0 - 2f64.powi(-30), Mode::Down), 0xbf80_0001);
    assert_eq!(F32.round(-(2f64.powi(-151)), Mode::Zero), 0x8000_0000);
    assert_eq!(F16.round(65519.0, Mode::Nearest), 0x7bff);
    assert_eq!(F16.round(65520.0, Mode::Nearest), 0x7c00);
    assert_eq!(F16.round(1e9, Mode::Zero), 0x7bff);
    assert_eq!(F16.round(-1e9, Mode::Up), 0xfbff);
    assert_eq!(F16.round(-1e9, Mode::Down), 0xfc00);
    assert_eq!(BF16.round(1.00390625, Mode::Nearest), 0x3f80);
    assert_eq!(
        TF32.round(1.0 + 2f64.powi(-11), Mode::NearestAway),
        0x3f80_2000 >> 13
    );
}
