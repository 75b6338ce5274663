//! Tiles with AVX-512 and its integer dot product (VNNI): twelve rows by a panel. The AMX path uses these tiles too,
//! for passes of few rows.

use super::{AHEAD, MOST_ROWS, Sums, Tile};
use crate::cpu::simd::Avx512;

/// Rows of a tile. Registers hold 12 sums and 8 lines of codes.
pub(super) const ROWS: usize = MOST_ROWS;

/// On other targets the proof cannot be constructed, so nothing calls this.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn multiply(_proof: Avx512, _tile: &Tile<'_>, _sums: &mut Sums, _at: usize) {}

#[cfg(target_arch = "x86_64")]
pub(super) fn multiply(_proof: Avx512, tile: &Tile<'_>, sums: &mut Sums, at: usize) {
    // SAFETY: the proof shows that the features are present.
    unsafe { x86::tile(tile, sums, at) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::decode::STEPS;
    use super::super::pack::{LINE, PARTS, unit_scales};
    use super::*;
    use crate::cpu::pack::PANEL;
    use crate::format::Scales;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn tile(tile: &Tile<'_>, sums: &mut Sums, at: usize) {
        let layout = tile.w.layout();
        match (layout.bits, layout.scales) {
            (4, Scales::Scale) => each_height::<4, 1, false>(tile, sums, at),
            (4, Scales::ScaleMin) => each_height::<4, 1, true>(tile, sums, at),
            (4, _) => each_height::<4, PARTS, true>(tile, sums, at),
            (5, Scales::Scale) => each_height::<5, 1, false>(tile, sums, at),
            (5, Scales::ScaleMin) => each_height::<5, 1, true>(tile, sums, at),
            (5, _) => each_height::<5, PARTS, true>(tile, sums, at),
            (6, _) => each_height::<6, PARTS, false>(tile, sums, at),
            _ => each_height::<8, 1, false>(tile, sums, at),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn each_height<const BITS: usize, const PARTS: usize, const MIN: bool>(
        tile: &Tile<'_>,
        sums: &mut Sums,
        at: usize,
    ) {
        match tile.rows {
            1 => rows::<1, BITS, PARTS, MIN>(tile, sums, at),
            2 => rows::<2, BITS, PARTS, MIN>(tile, sums, at),
            3 => rows::<3, BITS, PARTS, MIN>(tile, sums, at),
            4 => rows::<4, BITS, PARTS, MIN>(tile, sums, at),
            5 => rows::<5, BITS, PARTS, MIN>(tile, sums, at),
            6 => rows::<6, BITS, PARTS, MIN>(tile, sums, at),
            7 => rows::<7, BITS, PARTS, MIN>(tile, sums, at),
            8 => rows::<8, BITS, PARTS, MIN>(tile, sums, at),
            9 => rows::<9, BITS, PARTS, MIN>(tile, sums, at),
            10 => rows::<10, BITS, PARTS, MIN>(tile, sums, at),
            11 => rows::<11, BITS, PARTS, MIN>(tile, sums, at),
            _ => rows::<12, BITS, PARTS, MIN>(tile, sums, at),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn rows<const R: usize, const BITS: usize, const PARTS: usize, const MIN: bool>(
        tile: &Tile<'_>,
        sums: &mut Sums,
        at: usize,
    ) {
        let (scales, codes) = tile.w.panel(tile.panel);
        let block_codes = BITS * STEPS / 8 * LINE;
        assert!(codes.len() == tile.stride * block_codes);
        assert!(R * tile.stride <= tile.a.len() && at + PANEL <= sums[0].len());
        let mut acc = [_mm512_setzero_ps(); R];
        let units = codes.chunks_exact(PARTS * block_codes);
        for (unit, (codes, scales)) in units
            .zip(scales.chunks_exact(unit_scales(PARTS, MIN)))
            .enumerate()
        {
            for (part, codes) in codes.chunks_exact(block_codes).enumerate() {
                for line in 0..BITS {
                    let ahead = codes.as_ptr().wrapping_add(AHEAD + LINE * line);
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                }
                let [scale, second_scale, min] = scaling::<PARTS, MIN>(scales, part);
                let lines = lines::<BITS>(codes);
                for (r, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: there are `stride` blocks, and the assertions keep those of each row in bounds.
                    let a = unsafe { tile.a.get_unchecked(r * tile.stride + unit * PARTS + part) };
                    let words: &[i32; STEPS] = bytemuck::cast_ref(&a.codes);
                    let mut dots = a.starts.map(|start| _mm512_set1_epi32(start));
                    for step in 0..STEPS / 2 {
                        let (x, y) = (words[step], words[step + STEPS / 2]);
                        dots[0] = _mm512_dpbusd_epi32(dots[0], lines[step], _mm512_set1_epi32(x));
                        let second = lines[step + STEPS / 2];
                        dots[1] = _mm512_dpbusd_epi32(dots[1], second, _mm512_set1_epi32(y));
                    }
                    let a_scale = _mm512_set1_ps(a.scale);
                    if PARTS > 1 && !MIN {
                        *acc = fold(*acc, dots[0], _mm512_mul_ps(scale, a_scale));
                        *acc = fold(*acc, dots[1], _mm512_mul_ps(second_scale, a_scale));
                    } else {
                        let dots = _mm512_add_epi32(dots[0], dots[1]);
                        *acc = fold(*acc, dots, _mm512_mul_ps(scale, a_scale));
                    }
                    if MIN {
                        *acc = _mm512_add_ps(*acc, _mm512_mul_ps(min, _mm512_set1_ps(a.sum)));
                    }
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            // SAFETY: from `at` on, a row of sums holds a panel's floats.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(at), acc) };
        }
    }

    /// Not fused, so that plain Rust gets the same bits.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn fold(acc: __m512, dots: __m512i, scale: __m512) -> __m512 {
        _mm512_add_ps(acc, _mm512_mul_ps(_mm512_cvtepi32_ps(dots), scale))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(codes: &[[u8; 64]], line: usize) -> __m512i {
        // SAFETY: a line has 64 bytes.
        unsafe { _mm512_loadu_si512(codes[line].as_ptr().cast()) }
    }

    /// [`decode::lines`](super::super::decode::lines).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn lines<const BITS: usize>(codes: &[u8]) -> [__m512i; STEPS] {
        let codes = codes.as_chunks::<64>().0;
        if BITS == 8 {
            return std::array::from_fn(|step| load(codes, step));
        }
        let nibble = _mm512_set1_epi8(0xf);
        let mut lines = [_mm512_setzero_si512(); STEPS];
        for step in 0..STEPS / 2 {
            let both = load(codes, step);
            lines[step] = _mm512_and_si512(both, nibble);
            let high = _mm512_srli_epi16::<4>(both);
            lines[step + STEPS / 2] = _mm512_and_si512(high, nibble);
        }
        if BITS == 5 {
            let high = load(codes, 4);
            let shifted = [
                _mm512_slli_epi16::<4>(high),
                _mm512_slli_epi16::<3>(high),
                _mm512_slli_epi16::<2>(high),
                _mm512_slli_epi16::<1>(high),
                high,
                _mm512_srli_epi16::<1>(high),
                _mm512_srli_epi16::<2>(high),
                _mm512_srli_epi16::<3>(high),
            ];
            let bit = _mm512_set1_epi8(0x10);
            for (line, high) in lines.iter_mut().zip(shifted) {
                *line = _mm512_or_si512(*line, _mm512_and_si512(high, bit));
            }
        }
        if BITS == 6 {
            let pair = _mm512_set1_epi8(0x30);
            for (half, lines) in lines.chunks_exact_mut(STEPS / 2).enumerate() {
                let high = load(codes, 4 + half);
                let shifted = [
                    _mm512_slli_epi16::<4>(high),
                    _mm512_slli_epi16::<2>(high),
                    high,
                    _mm512_srli_epi16::<2>(high),
                ];
                for (line, high) in lines.iter_mut().zip(shifted) {
                    *line = _mm512_or_si512(*line, _mm512_and_si512(high, pair));
                }
            }
        }
        lines
    }

    /// [`decode::scaling`](super::super::decode::scaling): the scales of both halves, and the minimum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn scaling<const PARTS: usize, const MIN: bool>(unit: &[u8], part: usize) -> [__m512; 3] {
        let (halves, subs) = unit.split_at(unit_scales(1, MIN));
        let halves = halves.as_chunks::<{ 2 * PANEL }>().0;
        let scale = widen(&halves[0]);
        let min = if MIN {
            widen(&halves[1])
        } else {
            _mm512_setzero_ps()
        };
        if PARTS == 1 {
            return [scale, scale, min];
        }
        let subs = &subs.as_chunks::<PANEL>().0[2 * part..][..2];
        if MIN {
            let scale = _mm512_mul_ps(scale, unsigned(&subs[0]));
            let min = _mm512_mul_ps(min, unsigned(&subs[1]));
            return [scale, scale, _mm512_sub_ps(_mm512_set1_ps(-0.0), min)];
        }
        [
            _mm512_mul_ps(scale, signed(&subs[0])),
            _mm512_mul_ps(scale, signed(&subs[1])),
            min,
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn widen(halves: &[u8; 2 * PANEL]) -> __m512 {
        // SAFETY: there are sixteen halves.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn unsigned(bytes: &[u8; PANEL]) -> __m512 {
        // SAFETY: there are sixteen bytes.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn signed(bytes: &[u8; PANEL]) -> __m512 {
        // SAFETY: there are sixteen bytes.
        let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
    }
}
