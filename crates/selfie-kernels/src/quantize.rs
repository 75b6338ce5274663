//! Quantizes f32 values into blocks, by ggml's rules: `quantize_row_*_ref` of `ggml-quants.c`.
//!
//! Q8_0 and the other blocks of 32 take their scale (and minimum) from the extremes of the block. Q4_K, Q5_K and Q6_K
//! search: for each sub-block they try some twenty scales around that one, fit scale and minimum to the codes of each
//! by least squares, and keep the one with the least weighted error. The sub-blocks of a block are searched side by
//! side: a sum over one of them has to keep ggml's order, so only sums over several fill a vector.

use std::array::from_fn;

use half::f16;

use crate::BlockFormat;

/// Appends the blocks of a row of values; zeros fill the last block. The values must be finite. If a block's scale
/// exceeds f16, the block comes out not finite, and a matrix refuses it.
pub fn quantize(format: BlockFormat, row: &[f32], blocks: &mut Vec<u8>) {
    let (whole, rest) = row.split_at(row.len() / format.values() * format.values());
    for values in whole.chunks_exact(format.values()) {
        one(format, values, blocks);
    }
    if !rest.is_empty() {
        let mut values = rest.to_vec();
        values.resize(format.values(), 0.0);
        one(format, &values, blocks);
    }
}

fn one(format: BlockFormat, x: &[f32], out: &mut Vec<u8>) {
    match format {
        BlockFormat::Q8_0 => q8_0(x, out),
        BlockFormat::Q4_0 => scaled::<8>(x, out),
        BlockFormat::Q5_0 => scaled::<16>(x, out),
        BlockFormat::Q4_1 => shifted::<15>(x, out),
        BlockFormat::Q5_1 => shifted::<31>(x, out),
        BlockFormat::Q4K => k_shifted::<15>(x, out),
        BlockFormat::Q5K => k_shifted::<31>(x, out),
        BlockFormat::Q6K => q6_k(x, out),
    }
}

fn half(x: f32) -> [u8; 2] {
    f16::from_f32(x).to_le_bytes()
}

/// `1 / x`, or 0 if `x` is 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// `x / y`, or 0 if `y` is 0: every code then stands for 0.
fn quotient(x: f32, y: f32) -> f32 {
    if y == 0.0 { 0.0 } else { x / y }
}

/// The value with the largest magnitude, with its sign.
fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |best, &x| larger(best, x))
}

/// The one with the larger magnitude, the first if they are equal.
fn larger(best: f32, x: f32) -> f32 {
    if x.abs() > best.abs() { x } else { best }
}

/// The nearest integer, ties to even, for magnitudes below 2^22. A larger number stays as large as it is, about. Unlike
/// [`f32::round_ties_even`], this needs no call on CPUs of before 2008.
fn nearest(x: f32) -> f32 {
    // 1.5 * 2^23: the sum has no bits for a fraction.
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND) - ROUND
}

/// [`f32::round`], that is ties away from zero, for magnitudes below 2^22, without a call.
fn nearest_away(x: f32) -> f32 {
    let even = nearest(x);
    if (x - even).abs() == 0.5 {
        x + 0.5f32.copysign(x)
    } else {
        even
    }
}

/// Values of sub-blocks, `[values, N]`.
fn side_by_side<const N: usize, const V: usize>(x: &[f32]) -> [[f32; N]; V] {
    from_fn(|at| from_fn(|part| x[part * V + at]))
}

fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let scale = extreme(x).abs() / 127.0;
    let inverse = inverse(scale);
    out.extend(half(scale));
    out.extend(x.iter().map(|x| nearest_away(x * inverse) as i8 as u8));
}

/// Q4_0 and Q5_0: codes of `0..2 * OFFSET`; the extreme gets code 0.
fn scaled<const OFFSET: u8>(x: &[f32], out: &mut Vec<u8>) {
    let scale = extreme(x) / -f32::from(OFFSET);
    let middle = f32::from(OFFSET) + 0.5;
    let inverse = inverse(scale);
    out.extend(half(scale));
    let code = |x: &f32| ((x * inverse + middle) as u8).min(2 * OFFSET - 1);
    let codes: Vec<u8> = x.iter().map(code).collect();
    pack_32(&codes, OFFSET == 16, out);
}

/// Q4_1 and Q5_1: codes of `0..=MOST`, from the smallest value to the largest.
fn shifted<const MOST: u8>(x: &[f32], out: &mut Vec<u8>) {
    let min = x.iter().copied().fold(f32::INFINITY, f32::min);
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (max - min) / f32::from(MOST);
    let inverse = inverse(scale);
    out.extend(half(scale));
    out.extend(half(min));
    let code = |x: &f32| (((x - min) * inverse + 0.5) as u8).min(MOST);
    let codes: Vec<u8> = x.iter().map(code).collect();
    pack_32(&codes, MOST == 31, out);
}

/// A block's codes of 4 or 5 bits. The fifth bits come first.
fn pack_32(codes: &[u8], five: bool, out: &mut Vec<u8>) {
    if five {
        for codes in codes.chunks_exact(8) {
            let bits = codes.iter().enumerate().map(|(i, code)| (code >> 4) << i);
            out.push(bits.fold(0, |all, bit| all | bit));
        }
    }
    pack_nibbles(codes, out);
}

/// The low four bits of the first half of the codes, with those of the second half above them.
fn pack_nibbles(codes: &[u8], out: &mut Vec<u8>) {
    let (low, high) = codes.split_at(codes.len() / 2);
    let pairs = low.iter().zip(high);
    out.extend(pairs.map(|(low, high)| (low & 0xf) | (high & 0xf) << 4));
}

/// Q4_K and Q5_K.
fn k_shifted<const MOST: u8>(x: &[f32], out: &mut Vec<u8>) {
    let fits: [Fit; 8] = fit_shifted(&side_by_side(x), MOST);
    let most = |of: fn(&Fit) -> f32| fits.iter().map(of).fold(0.0, f32::max);
    let (most_scale, most_min) = (most(|fit| fit.scale), most(|fit| fit.min));
    let six_bits = |x: f32, most: f32| {
        let inverse = if most > 0.0 { 63.0 / most } else { 0.0 };
        (nearest(x * inverse) as u8).min(63)
    };
    let scales = fits.map(|fit| six_bits(fit.scale, most_scale));
    let mins = fits.map(|fit| six_bits(fit.min, most_min));
    let (scale, min) = (most_scale / 63.0, most_min / 63.0);
    out.extend(half(scale));
    out.extend(half(min));
    // The inverse of `scale_and_min`.
    let mut packed = [0; 12];
    for at in 0..4 {
        packed[at] = scales[at] | scales[at + 4] >> 4 << 6;
        packed[at + 4] = mins[at] | mins[at + 4] >> 4 << 6;
        packed[at + 8] = (scales[at + 4] & 0xf) | (mins[at + 4] & 0xf) << 4;
    }
    out.extend(packed);
    // The codes, computed from the scales as they are stored.
    let (scale, min) = (f16::from_f32(scale).to_f32(), f16::from_f32(min).to_f32());
    let mut codes = [0u8; 256];
    for (part, (codes, x)) in codes
        .chunks_exact_mut(32)
        .zip(x.chunks_exact(32))
        .enumerate()
    {
        let (d, m) = (scale * f32::from(scales[part]), min * f32::from(mins[part]));
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (nearest(quotient(x + m, d)) as u8).min(MOST);
        }
    }
    if MOST == 31 {
        for at in 0..32 {
            let bits = (0..8).map(|part| (codes[32 * part + at] >> 4) << part);
            out.push(bits.fold(0, |all, bit| all | bit));
        }
    }
    for codes in codes.chunks_exact(64) {
        pack_nibbles(codes, out);
    }
}

/// `scale * code - min`.
#[derive(Clone, Copy, Default)]
struct Fit {
    scale: f32,
    min: f32,
}

/// `make_qkx2_quants`: scale and minimum (not negative) of each sub-block for codes `0..=most`. The error of a value is
/// weighted by its magnitude plus the sub-block's root mean square.
fn fit_shifted<const N: usize>(x: &[[f32; N]; 32], most: u8) -> [Fit; N] {
    let mut squares = [0.0; N];
    let mut lowest = [0f32; N];
    let mut high = [f32::NEG_INFINITY; N];
    for x in x {
        for part in 0..N {
            squares[part] += x[part] * x[part];
            lowest[part] = lowest[part].min(x[part]);
            high[part] = high[part].max(x[part]);
        }
    }
    let mean = squares.map(|squares| (squares / x.len() as f32).sqrt());
    let weights = x.map(|x| from_fn(|part| mean[part] + x[part].abs()));
    let (mut sum_w, mut sum_x) = ([0.0; N], [0.0; N]);
    for (x, w) in x.iter().zip(&weights) {
        for part in 0..N {
            sum_w[part] += w[part];
            sum_x[part] += w[part] * x[part];
        }
    }
    // The inverse of the scale at which `high - low` spans this many codes.
    let inverse = |codes: f32, low: &[f32; N]| from_fn(|part| codes / (high[part] - low[part]));
    let most = f32::from(most);
    let plain = inverse(most, &lowest);
    let mut best: [Fit; N] = from_fn(|part| Fit {
        scale: 1.0 / plain[part],
        min: -lowest[part],
    });
    let mut least = Codes::new(x, &weights, &plain, &lowest, most).errors(&best);
    let (first, steps) = if most == 15.0 { (-1.0, 20) } else { (-0.5, 15) };
    for step in 0..=steps {
        // Like ggml, start from the best minimum so far.
        let low = best.map(|fit| -fit.min);
        let inverse = inverse(first + 0.1 * step as f32 + most, &low);
        let codes = Codes::new(x, &weights, &inverse, &low, most);
        let (sum_l, sum_ll, sum_xl) = codes.sums();
        let mut fits = [Fit::default(); N];
        let mut determinants = [0.0; N];
        for part in 0..N {
            let (w, x) = (sum_w[part], sum_x[part]);
            let (l, ll, xl) = (sum_l[part], sum_ll[part], sum_xl[part]);
            determinants[part] = w * ll - l * l;
            let fit = Fit {
                scale: (w * xl - x * l) / determinants[part],
                min: (l * xl - ll * x) / determinants[part],
            };
            fits[part] = if fit.min < 0.0 {
                Fit {
                    scale: xl / ll,
                    min: 0.0,
                }
            } else {
                fit
            };
        }
        let errors = codes.errors(&fits);
        for part in 0..N {
            let is_singular = determinants[part] <= 0.0;
            if !is_singular && errors[part] < least[part] {
                (best[part], least[part]) = (fits[part], errors[part]);
            }
        }
    }
    from_fn(|part| {
        if high[part] > lowest[part] {
            best[part]
        } else {
            Fit {
                scale: 0.0,
                min: -lowest[part],
            }
        }
    })
}

/// The codes of sub-blocks for one choice of scales and minima.
struct Codes<'a, const N: usize> {
    x: &'a [[f32; N]; 32],
    weights: &'a [[f32; N]; 32],
    codes: [[f32; N]; 32],
}

impl<'a, const N: usize> Codes<'a, N> {
    fn new(
        x: &'a [[f32; N]; 32],
        weights: &'a [[f32; N]; 32],
        inverse: &[f32; N],
        low: &[f32; N],
        most: f32,
    ) -> Self {
        let code = |x: f32, part: usize| nearest((x - low[part]) * inverse[part]).clamp(0.0, most);
        Self {
            x,
            weights,
            codes: x.map(|x| from_fn(|part| code(x[part], part))),
        }
    }

    /// The weighted sums of the codes, of their squares, and of their products with the values.
    fn sums(&self) -> ([f32; N], [f32; N], [f32; N]) {
        let (mut sum_l, mut sum_ll, mut sum_xl) = ([0.0; N], [0.0; N], [0.0; N]);
        for ((x, w), l) in self.x.iter().zip(self.weights).zip(&self.codes) {
            for part in 0..N {
                sum_l[part] += w[part] * l[part];
                sum_ll[part] += w[part] * l[part] * l[part];
                sum_xl[part] += w[part] * l[part] * x[part];
            }
        }
        (sum_l, sum_ll, sum_xl)
    }

    /// The weighted squared errors, if the codes stand for these values.
    fn errors(&self, fits: &[Fit; N]) -> [f32; N] {
        let mut errors = [0.0; N];
        for ((x, w), l) in self.x.iter().zip(self.weights).zip(&self.codes) {
            for part in 0..N {
                let off = fits[part].scale * l[part] - fits[part].min - x[part];
                errors[part] += w[part] * (off * off);
            }
        }
        errors
    }
}

fn q6_k(x: &[f32], out: &mut Vec<u8>) {
    let fits: [f32; 16] = fit_scaled(&side_by_side(x));
    let largest = extreme(&fits);
    let inverse_unit = if largest.abs() < TINY {
        0.0
    } else {
        -128.0 / largest
    };
    let unit = f16::from_f32(inverse(inverse_unit));
    let scales = fits.map(|fit| nearest(fit * inverse_unit).min(127.0) as i8);
    let mut codes = [0u8; 256];
    for ((codes, x), &scale) in codes
        .chunks_exact_mut(16)
        .zip(x.chunks_exact(16))
        .zip(&scales)
    {
        let scale = unit.to_f32() * f32::from(scale);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (nearest(quotient(*x, scale)).clamp(-32.0, 31.0) + 32.0) as u8;
        }
    }
    for codes in codes.chunks_exact(128) {
        pack_nibbles(codes, out);
    }
    for codes in codes.chunks_exact(128) {
        for at in 0..32 {
            let bits = (0..4).map(|part| (codes[32 * part + at] >> 4) << (2 * part));
            out.push(bits.fold(0, |all, bits| all | bits));
        }
    }
    out.extend(scales.map(|scale| scale as u8));
    out.extend(unit.to_le_bytes());
}

/// Below this a block is 0: ggml's `GROUP_MAX_EPS`.
const TINY: f32 = 1e-15;

/// `make_qx_quants`: the scale of each sub-block for codes `-32..32`. The error of a value is weighted by its square.
fn fit_scaled<const N: usize>(x: &[[f32; N]; 16]) -> [f32; N] {
    let mut largest = [0.0; N];
    for x in x {
        largest = from_fn(|part| larger(largest[part], x[part]));
    }
    let sums = |codes: f32| {
        let inverse = largest.map(|largest| -codes / largest);
        let (mut sum_xl, mut sum_ll) = ([0.0; N], [0.0; N]);
        for x in x {
            for part in 0..N {
                let (x, inverse) = (x[part], inverse[part]);
                let l = nearest(x * inverse).clamp(-32.0, 31.0);
                sum_xl[part] += x * x * x * l;
                sum_ll[part] += x * x * l * l;
            }
        }
        (sum_xl, sum_ll)
    };
    let (xl, ll) = sums(32.0);
    let mut scales: [f32; N] = from_fn(|part| {
        if ll[part] > 0.0 {
            xl[part] / ll[part]
        } else {
            0.0
        }
    });
    let mut best: [f32; N] = from_fn(|part| scales[part] * xl[part]);
    for step in (-9..=9).filter(|&step| step != 0) {
        let (xl, ll) = sums(32.0 + 0.1 * step as f32);
        for part in 0..N {
            let (xl, ll) = (xl[part], ll[part]);
            if ll > 0.0 && xl * xl > best[part] * ll {
                scales[part] = xl / ll;
                best[part] = scales[part] * xl;
            }
        }
    }
    from_fn(|part| {
        if largest[part].abs() < TINY {
            0.0
        } else {
            scales[part]
        }
    })
}
