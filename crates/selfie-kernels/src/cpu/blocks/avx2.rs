//! Tiles with AVX2: four rows by a panel. Byte products are summed in 16 bits for as long as they fit (`maddubs`).

use super::{AHEAD, Sums, Tile};
use crate::cpu::simd::Avx2;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

/// On other targets the proof cannot be constructed, so nothing calls this.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn multiply(_proof: Avx2, _tile: &Tile<'_>, _sums: &mut Sums, _at: usize) {}

#[cfg(target_arch = "x86_64")]
pub(super) fn multiply(_proof: Avx2, tile: &Tile<'_>, sums: &mut Sums, at: usize) {
    // SAFETY: the proof shows that the features are present.
    unsafe { x86::tile(tile, sums, at) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::OperandBlock;
    use super::super::decode::STEPS;
    use super::super::pack::{LINE, PARTS, unit_scales};
    use super::*;
    use crate::cpu::pack::PANEL;
    use crate::format::Scales;

    /// Columns of a register.
    const LANES: usize = PANEL / 2;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn tile(tile: &Tile<'_>, sums: &mut Sums, at: usize) {
        match tile.rows {
            1 => each_format::<1>(tile, sums, at),
            2 => each_format::<2>(tile, sums, at),
            3 => each_format::<3>(tile, sums, at),
            _ => each_format::<4>(tile, sums, at),
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn each_format<const R: usize>(tile: &Tile<'_>, sums: &mut Sums, at: usize) {
        let layout = tile.w.layout();
        match (layout.bits, layout.scales) {
            (4, Scales::Scale) => rows::<R, 4, 1, false>(tile, sums, at),
            (4, Scales::ScaleMin) => rows::<R, 4, 1, true>(tile, sums, at),
            (4, _) => rows::<R, 4, PARTS, true>(tile, sums, at),
            (5, Scales::Scale) => rows::<R, 5, 1, false>(tile, sums, at),
            (5, Scales::ScaleMin) => rows::<R, 5, 1, true>(tile, sums, at),
            (5, _) => rows::<R, 5, PARTS, true>(tile, sums, at),
            (6, _) => rows::<R, 6, PARTS, false>(tile, sums, at),
            _ => rows::<R, 8, 1, false>(tile, sums, at),
        }
    }

    /// One row takes both halves of a line as it comes from memory. More rows would not fit the registers, so they go
    /// through the panel twice, for eight columns each time.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn rows<const R: usize, const BITS: usize, const PARTS: usize, const MIN: bool>(
        tile: &Tile<'_>,
        sums: &mut Sums,
        at: usize,
    ) {
        if R == 1 {
            sides::<R, 2, BITS, PARTS, MIN>(tile, 0, sums, at);
        } else {
            sides::<R, 1, BITS, PARTS, MIN>(tile, 0, sums, at);
            sides::<R, 1, BITS, PARTS, MIN>(tile, 1, sums, at);
        }
    }

    /// The sums of `SIDES` times eight columns, from those of side `from` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn sides<
        const R: usize,
        const SIDES: usize,
        const BITS: usize,
        const PARTS: usize,
        const MIN: bool,
    >(
        tile: &Tile<'_>,
        from: usize,
        sums: &mut Sums,
        at: usize,
    ) {
        let (scales, codes) = tile.w.panel(tile.panel);
        let block_codes = BITS * STEPS / 8 * LINE;
        assert!(codes.len() == tile.stride * block_codes);
        assert!(R * tile.stride <= tile.a.len() && at + PANEL <= sums[0].len());
        let mut acc = [[_mm256_setzero_ps(); SIDES]; R];
        let units = codes.chunks_exact(PARTS * block_codes);
        for (unit, (codes, scales)) in units
            .zip(scales.chunks_exact(unit_scales(PARTS, MIN)))
            .enumerate()
        {
            for (part, codes) in codes.chunks_exact(block_codes).enumerate() {
                if from == 0 {
                    for line in 0..BITS {
                        let ahead = codes.as_ptr().wrapping_add(AHEAD + LINE * line);
                        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    }
                }
                let block = unit * PARTS + part;
                // SAFETY: there are `stride` blocks, and the assertions keep those of each row in bounds.
                let a: [&OperandBlock; R] = std::array::from_fn(|r| unsafe {
                    tile.a.get_unchecked(r * tile.stride + block)
                });
                for side in 0..SIDES {
                    let lines = lines::<BITS>(codes, from + side);
                    let [scale, second_scale, min] =
                        scaling::<PARTS, MIN>(scales, part, from + side);
                    if PARTS > 1 && !MIN {
                        let (first, second) = lines.split_at(STEPS / 2);
                        let first = dots::<R, BITS, MIN>(first, &a, 0);
                        let second = dots::<R, BITS, MIN>(second, &a, STEPS / 2);
                        for r in 0..R {
                            let acc = &mut acc[r][side];
                            let a_scale = _mm256_set1_ps(a[r].scale);
                            *acc = fold(*acc, first[r], _mm256_mul_ps(scale, a_scale));
                            *acc = fold(*acc, second[r], _mm256_mul_ps(second_scale, a_scale));
                        }
                        continue;
                    }
                    let dots = dots::<R, BITS, MIN>(&lines, &a, 0);
                    for r in 0..R {
                        let acc = &mut acc[r][side];
                        let a_scale = _mm256_set1_ps(a[r].scale);
                        *acc = fold(*acc, dots[r], _mm256_mul_ps(scale, a_scale));
                        if MIN {
                            let min = _mm256_mul_ps(min, _mm256_set1_ps(a[r].sum));
                            *acc = _mm256_add_ps(*acc, min);
                        }
                    }
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            for (side, acc) in acc.into_iter().enumerate() {
                let at = at + (from + side) * LANES;
                // SAFETY: from `at` on, a row of sums holds a panel's floats.
                unsafe { _mm256_storeu_ps(sums.as_mut_ptr().add(at), acc) };
            }
        }
    }

    /// The sums over all steps of a block from `first` on, or half of them, for eight columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dots<const R: usize, const BITS: usize, const MIN: bool>(
        lines: &[__m256i],
        a: &[&OperandBlock; R],
        first: usize,
    ) -> [__m256i; R] {
        let ones = _mm256_set1_epi16(1);
        let word = |r: usize, step: usize| {
            let words: &[i32; STEPS] = bytemuck::cast_ref(&a[r].codes);
            _mm256_set1_epi32(words[first + step])
        };
        let mut dots = [_mm256_setzero_si256(); R];
        if BITS == 8 {
            // Multiply without the offset: magnitudes of weights times signed operands. Two products of at most 128
            // times 127 fit 16 bits.
            for (step, line) in lines.iter().enumerate() {
                let w = _mm256_xor_si256(*line, _mm256_set1_epi8(-128));
                let size = _mm256_abs_epi8(w);
                for (r, dots) in dots.iter_mut().enumerate() {
                    let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(word(r, step), w));
                    *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(pairs, ones));
                }
            }
            return dots;
        }
        // Codes with a minimum have no offset.
        if !MIN {
            let halves = 2 * first / STEPS..2 * (first + lines.len()) / STEPS;
            for (r, dots) in dots.iter_mut().enumerate() {
                for start in &a[r].starts[halves.clone()] {
                    *dots = _mm256_add_epi32(*dots, _mm256_set1_epi32(*start));
                }
            }
        }
        // Steps whose sums fit 16 bits: each adds 2 products of 127 and the largest code.
        let steps = match BITS {
            4 => 8,
            5 => 4,
            _ => 2,
        };
        for (group, lines) in lines.chunks_exact(steps).enumerate() {
            let mut pairs = [_mm256_setzero_si256(); R];
            for (step, line) in lines.iter().enumerate() {
                for (r, pairs) in pairs.iter_mut().enumerate() {
                    let products = _mm256_maddubs_epi16(*line, word(r, group * steps + step));
                    *pairs = _mm256_add_epi16(*pairs, products);
                }
            }
            for (dots, pairs) in dots.iter_mut().zip(pairs) {
                *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(pairs, ones));
            }
        }
        dots
    }

    /// Not fused, so that plain Rust gets the same bits.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fold(acc: __m256, dots: __m256i, scale: __m256) -> __m256 {
        _mm256_add_ps(acc, _mm256_mul_ps(_mm256_cvtepi32_ps(dots), scale))
    }

    /// [`decode::lines`](super::super::decode::lines), for eight columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn lines<const BITS: usize>(codes: &[u8], side: usize) -> [__m256i; STEPS] {
        // SAFETY: a half of a line has 32 bytes.
        let load = |line: usize| unsafe {
            _mm256_loadu_si256(
                codes[LINE * line + LINE / 2 * side..][..LINE / 2]
                    .as_ptr()
                    .cast(),
            )
        };
        if BITS == 8 {
            return std::array::from_fn(load);
        }
        let nibble = _mm256_set1_epi8(0xf);
        let mut lines = [_mm256_setzero_si256(); STEPS];
        for step in 0..STEPS / 2 {
            let both = load(step);
            lines[step] = _mm256_and_si256(both, nibble);
            lines[step + STEPS / 2] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), nibble);
        }
        if BITS == 5 {
            let high = load(4);
            let shifted = [
                _mm256_slli_epi16::<4>(high),
                _mm256_slli_epi16::<3>(high),
                _mm256_slli_epi16::<2>(high),
                _mm256_slli_epi16::<1>(high),
                high,
                _mm256_srli_epi16::<1>(high),
                _mm256_srli_epi16::<2>(high),
                _mm256_srli_epi16::<3>(high),
            ];
            let bit = _mm256_set1_epi8(0x10);
            for (line, high) in lines.iter_mut().zip(shifted) {
                *line = _mm256_or_si256(*line, _mm256_and_si256(high, bit));
            }
        }
        if BITS == 6 {
            let pair = _mm256_set1_epi8(0x30);
            for (half, lines) in lines.chunks_exact_mut(STEPS / 2).enumerate() {
                let high = load(4 + half);
                let shifted = [
                    _mm256_slli_epi16::<4>(high),
                    _mm256_slli_epi16::<2>(high),
                    high,
                    _mm256_srli_epi16::<2>(high),
                ];
                for (line, high) in lines.iter_mut().zip(shifted) {
                    *line = _mm256_or_si256(*line, _mm256_and_si256(high, pair));
                }
            }
        }
        lines
    }

    /// [`decode::scaling`](super::super::decode::scaling), for eight columns: the scales of both halves, and the
    /// minimum.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn scaling<const PARTS: usize, const MIN: bool>(
        unit: &[u8],
        part: usize,
        side: usize,
    ) -> [__m256; 3] {
        let (halves, subs) = unit.split_at(unit_scales(1, MIN));
        let halves = halves.as_chunks::<{ 2 * LANES }>().0;
        let scale = widen(&halves[side]);
        let min = if MIN {
            widen(&halves[2 + side])
        } else {
            _mm256_setzero_ps()
        };
        if PARTS == 1 {
            return [scale, scale, min];
        }
        let subs = &subs.as_chunks::<LANES>().0[4 * part..][..4];
        if MIN {
            let scale = _mm256_mul_ps(scale, unsigned(&subs[side]));
            let min = _mm256_mul_ps(min, unsigned(&subs[2 + side]));
            return [scale, scale, _mm256_sub_ps(_mm256_set1_ps(-0.0), min)];
        }
        [
            _mm256_mul_ps(scale, signed(&subs[side])),
            _mm256_mul_ps(scale, signed(&subs[2 + side])),
            min,
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn widen(halves: &[u8; 2 * LANES]) -> __m256 {
        // SAFETY: there are eight halves.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(halves.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn unsigned(bytes: &[u8; LANES]) -> __m256 {
        // SAFETY: there are eight bytes.
        let bytes = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn signed(bytes: &[u8; LANES]) -> __m256 {
        // SAFETY: there are eight bytes.
        let bytes = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
    }
}
