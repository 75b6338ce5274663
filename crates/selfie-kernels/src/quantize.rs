//! Quantizes f32 values into blocks, by ggml's rules: `quantize_row_*_ref` of `ggml-quants.c`.
//!
//! Q8_0 and the other blocks of 32 take their scale (and minimum) from the extremes of the block. Q4_K, Q5_K and Q6_K
//! search: for each sub-block they try some twenty scales around that one, fit scale and minimum to the codes of each
//! by least squares, and keep the one with the least weighted error.

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
    let larger = |best: f32, &x: &f32| if x.abs() > best.abs() { x } else { best };
    x.iter().fold(0.0, larger)
}

fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let scale = extreme(x).abs() / 127.0;
    let inverse = inverse(scale);
    out.extend(half(scale));
    out.extend(x.iter().map(|x| (x * inverse).round() as i8 as u8));
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
    let mut fits = [Fit::default(); 8];
    for (fit, x) in fits.iter_mut().zip(x.chunks_exact(32)) {
        *fit = fit_shifted(x, MOST);
    }
    let most = |of: fn(&Fit) -> f32| fits.iter().map(of).fold(0.0, f32::max);
    let (most_scale, most_min) = (most(|fit| fit.scale), most(|fit| fit.min));
    let six_bits = |x: f32, most: f32| {
        let inverse = if most > 0.0 { 63.0 / most } else { 0.0 };
        ((x * inverse).round_ties_even() as u8).min(63)
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
            *code = (quotient(x + m, d).round_ties_even() as u8).min(MOST);
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

/// `make_qkx2_quants`: scale and minimum (not negative) for codes `0..=most`. The error of a value is weighted by its
/// magnitude plus the block's root mean square.
fn fit_shifted(x: &[f32], most: u8) -> Fit {
    let mean = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    let weight = |x: f32| mean + x.abs();
    let low = x.iter().copied().fold(0.0, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= low {
        return Fit {
            scale: 0.0,
            min: -low,
        };
    }
    // The inverse of the scale at which `high - low` spans this many codes.
    let inverse = |codes: f32, low: f32| codes / (high - low);
    let code = |x: f32, inverse: f32, low: f32| {
        let code = ((x - low) * inverse).round_ties_even();
        code.clamp(0.0, f32::from(most))
    };
    let error = |fit: Fit, inverse: f32, low: f32| -> f32 {
        let off = |x: f32| fit.scale * code(x, inverse, low) - fit.min - x;
        x.iter().map(|&x| weight(x) * (off(x) * off(x))).sum()
    };
    let plain = inverse(f32::from(most), low);
    let mut best = Fit {
        scale: 1.0 / plain,
        min: -low,
    };
    let mut least = error(best, plain, low);
    let (first, steps) = if most == 15 { (-1.0, 20) } else { (-0.5, 15) };
    let sum_w: f32 = x.iter().map(|&x| weight(x)).sum();
    let sum_x: f32 = x.iter().map(|&x| weight(x) * x).sum();
    for step in 0..=steps {
        // Like ggml, start from the best minimum so far.
        let low = -best.min;
        let inverse = inverse(first + 0.1 * step as f32 + f32::from(most), low);
        let (mut sum_l, mut sum_ll, mut sum_xl) = (0.0, 0.0, 0.0);
        for &x in x {
            let (w, l) = (weight(x), code(x, inverse, low));
            sum_l += w * l;
            sum_ll += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_ll - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut fit = Fit {
            scale: (sum_w * sum_xl - sum_x * sum_l) / determinant,
            min: (sum_l * sum_xl - sum_ll * sum_x) / determinant,
        };
        if fit.min < 0.0 {
            fit = Fit {
                scale: sum_xl / sum_ll,
                min: 0.0,
            };
        }
        let off = error(fit, inverse, low);
        if off < least {
            (best, least) = (fit, off);
        }
    }
    best
}

fn q6_k(x: &[f32], out: &mut Vec<u8>) {
    let mut fits = [0.0; 16];
    for (fit, x) in fits.iter_mut().zip(x.chunks_exact(16)) {
        *fit = fit_scaled(x);
    }
    let largest = extreme(&fits);
    let inverse_unit = if largest.abs() < TINY {
        0.0
    } else {
        -128.0 / largest
    };
    let unit = f16::from_f32(inverse(inverse_unit));
    let scales = fits.map(|fit| (fit * inverse_unit).round_ties_even().min(127.0) as i8);
    let mut codes = [0u8; 256];
    for ((codes, x), &scale) in codes
        .chunks_exact_mut(16)
        .zip(x.chunks_exact(16))
        .zip(&scales)
    {
        let scale = unit.to_f32() * f32::from(scale);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (quotient(*x, scale).round_ties_even().clamp(-32.0, 31.0) + 32.0) as u8;
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

/// `make_qx_quants`: the scale for codes `-32..32`. The error of a value is weighted by its square.
fn fit_scaled(x: &[f32]) -> f32 {
    let largest = extreme(x);
    if largest.abs() < TINY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut xl, mut ll) = (0.0, 0.0);
        for &x in x {
            let l = (x * inverse).round_ties_even().clamp(-32.0, 31.0);
            xl += x * x * x * l;
            ll += x * x * l * l;
        }
        (xl, ll)
    };
    let (xl, ll) = sums(-32.0 / largest);
    let mut scale = if ll > 0.0 { xl / ll } else { 0.0 };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|&step| step != 0) {
        let (xl, ll) = sums(-(32.0 + 0.1 * step as f32) / largest);
        if ll > 0.0 && xl * xl > best * ll {
            scale = xl / ll;
            best = scale * xl;
        }
    }
    scale
}
