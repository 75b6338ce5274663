//! exp, tanh and conversions of 16-bit values, in forms that compilers vectorize.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};

use super::simd::{LANES, Simd};

/// `e^x` to within 2 units in the last place; 0 below -87.3, saturated above 88.
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.0);
    let shifted = s.mul_add(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = s.mul_add(n, -LN2_LOW, s.mul_add(n, -LN2_HIGH, clamped));
    // Taylor series to the 7th power: |r| <= ln 2 / 2 leaves an error of 5e-9.
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = s.mul_add(p, r, c);
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { p * scale }
}

/// `tanh x` to within 4 units in the last place.
#[inline(always)]
pub(super) fn tanh<S: Simd>(s: S, x: f32) -> f32 {
    let e = exp(s, -2.0 * x.abs());
    let large = ((1.0 - e) / (1.0 + e)).copysign(x);
    // Near 0 the difference above would lose digits. The Taylor series to the 9th power is off by 5e-9 at 0.25.
    let square = x * x;
    let mut p = 62.0 / 2835.0;
    for c in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        p = s.mul_add(p, square, c);
    }
    if x.abs() < 0.25 { x * p } else { large }
}

/// `1 + e^-x`; the logistic function is its reciprocal.
#[inline(always)]
pub(super) fn one_plus_exp<S: Simd>(s: S, x: f32) -> f32 {
    1.0 + exp(s, -x)
}

/// The argument `u` for which `x / (1 + e^-u)` is the approximated GELU, since `tanh(z) = 2 / (1 + e^-2z) - 1`.
#[inline(always)]
pub(super) fn gelu_argument<S: Simd>(s: S, x: f32) -> f32 {
    GELU_SLOPE * s.mul_add(GELU_CUBE * x * x, x, x)
}

/// `2 sqrt(2 / pi)`
pub(super) const GELU_SLOPE: f32 = 1.595_769_2;
pub(super) const GELU_CUBE: f32 = 0.044_715;

/// The sum of `f(x)` in a fixed order: lane by lane, then the lanes from first to last.
#[inline(always)]
pub(super) fn lane_sum(values: &[f32], mut f: impl FnMut(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = f(x, *lane);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = f(x, *lane);
    }
    lanes.iter().sum()
}

/// The largest value; `-inf` for an empty slice.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for &x in chunks.remainder() {
        lanes[0] = if x > lanes[0] { x } else { lanes[0] };
    }
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// A value that a GEMM reads or the cache keeps: an f32, or one rounded to 16 bits.
pub(super) trait Operand: Copy + Send + Sync {
    fn round(x: f32) -> Self;
}

impl Operand for f32 {
    #[inline(always)]
    fn round(x: f32) -> Self {
        x
    }
}

impl Operand for bf16 {
    #[inline(always)]
    fn round(x: f32) -> Self {
        bf16::from_bits((round_bits(x) >> 16) as u16)
    }
}

impl Operand for f16 {
    /// NaN for values past the largest f16, 65504. An infinite key could hide: with a score of -inf, nobody sees it.
    #[inline(always)]
    fn round(x: f32) -> Self {
        let rounded = f16::from_f32(x);
        if rounded.is_finite() {
            rounded
        } else {
            f16::NAN
        }
    }
}

/// An element of the cache of keys and values.
pub(super) trait Stored: Operand + Zeroable {
    /// The exact values. `W` is a multiple of [`LANES`].
    fn widen<S: Simd, const W: usize>(s: S, values: &[Self; W]) -> [f32; W];
}

impl Stored for f32 {
    #[inline(always)]
    fn widen<S: Simd, const W: usize>(_: S, values: &[Self; W]) -> [f32; W] {
        *values
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn widen<S: Simd, const W: usize>(s: S, values: &[Self; W]) -> [f32; W] {
        s.widen_bf16(values)
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn widen<S: Simd, const W: usize>(s: S, values: &[Self; W]) -> [f32; W] {
        s.widen_f16(values)
    }
}

/// The exact value. Unlike [`bf16::to_f32`], this has no branch.
#[inline(always)]
pub(super) fn widen_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// The exact value. Unlike [`f16::to_f32`], this has no branch.
#[inline(always)]
pub(super) fn widen_f16(x: f16) -> f32 {
    /// 2^112: the exponents of f32 have a bias of 127, those of f16 one of 15.
    const BIAS: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(x.to_bits());
    let shifted = (bits & 0x7fff) << 13;
    let magnitude = if bits & 0x7c00 == 0x7c00 {
        // Infinity or NaN.
        shifted | 0x7f80_0000
    } else {
        (f32::from_bits(shifted) * BIAS).to_bits()
    };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// A bf16 stored as an f32.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct RoundedF32(f32);

impl Operand for RoundedF32 {
    #[inline(always)]
    fn round(x: f32) -> Self {
        Self(f32::from_bits(round_bits(x) & 0xffff_0000))
    }
}

/// The nearest bf16, ties to even, in the upper half. Unlike [`bf16::from_f32`], this has no branch.
#[inline(always)]
fn round_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let bias = 0x7fff + ((bits >> 16) & 1);
    bits.wrapping_add(bias)
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Isa, Loop, Portable};
    use super::*;
    use crate::CpuPath;

    #[test]
    fn exp_agrees_with_f64() {
        let mut worst = 0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).exp();
            let got = f64::from(exp(Portable, x));
            worst = worst.max(((got - want) / want).abs());
        }
        assert!(worst < 2.4e-7, "worst relative error {worst:e}");
        assert_eq!(exp(Portable, f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(Portable, 0.0), 1.0);
    }

    #[test]
    fn tanh_agrees_with_f64() {
        let mut worst = 0f64;
        for i in -12_000..=12_000 {
            let x = i as f32 * 1e-3;
            let want = f64::from(x).tanh();
            let got = f64::from(tanh(Portable, x));
            if x != 0.0 {
                worst = worst.max(((got - want) / want).abs());
            }
        }
        assert!(
            worst < 4.0 * f64::from(f32::EPSILON),
            "worst relative error {worst:e}"
        );
        assert_eq!(tanh(Portable, 0.0), 0.0);
        assert_eq!(tanh(Portable, 100.0), 1.0);
        assert_eq!(tanh(Portable, -100.0), -1.0);
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for bits in (0..0x7f7f_0000u32).step_by(997) {
            let x = f32::from_bits(bits);
            assert_eq!(bf16::round(x), bf16::from_f32(x), "{x:e}");
            assert_eq!(bf16::round(-x), bf16::from_f32(-x), "{x:e}");
            assert_eq!(RoundedF32::round(x).0, bf16::from_f32(x).to_f32());
        }
        assert!(bf16::round(f32::NAN).is_nan());
    }

    #[test]
    fn f16_rounds_to_nearest_even_and_shows_an_overflow() {
        // Halfway between neighbours, and one f32 to either side.
        for bits in 0..0x7bffu16 {
            let (low, high) = (f16::from_bits(bits), f16::from_bits(bits + 1));
            let middle = (low.to_f32() + high.to_f32()) / 2.0;
            let even = if bits % 2 == 0 { low } else { high };
            let up = f32::from_bits(middle.to_bits() + 1);
            let down = f32::from_bits(middle.to_bits() - 1);
            for (x, want) in [(middle, even), (up, high), (down, low)] {
                assert_eq!(f16::round(x), want, "{x:e}");
                assert_eq!(f16::round(-x), -want, "{x:e}");
            }
        }
        // 65520 is halfway to the next power of two, which f16 does not have.
        assert_eq!(f16::round(65519.0), f16::MAX);
        for x in [65520.0, -65520.0, f32::MAX, f32::INFINITY, f32::NAN] {
            assert!(f16::round(x).is_nan(), "{x:e}");
        }
    }

    /// All values of a 16-bit type, widened with each instruction set of this machine.
    struct Widen<'a, E>(&'a [E]);

    impl<E: Stored> Loop for Widen<'_, E> {
        type Out = Vec<f32>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let chunks = self.0.as_chunks::<LANES>().0.iter();
            chunks.flat_map(|chunk| E::widen(s, chunk)).collect()
        }
    }

    #[test]
    fn widening_is_exact_on_every_path() {
        for path in CpuPath::available() {
            let isa = Isa::new(path).unwrap_or(Isa::PORTABLE);
            let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
            let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
            let got = isa.run(Widen(&halves));
            for (got, want) in got.iter().zip(halves.iter().map(|x| x.to_f32())) {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same, "{path}: {got:e} instead of {want:e}");
            }
            let got = isa.run(Widen(&brains));
            for (got, want) in got.iter().zip(brains.iter().map(|x| x.to_f32())) {
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same, "{path}: {got:e} instead of {want:e}");
            }
        }
    }
}
