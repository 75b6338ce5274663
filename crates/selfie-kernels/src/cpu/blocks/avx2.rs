//! Tiles with AVX2: four rows by a panel. Byte products are summed in 16 bits for as long as they fit (`maddubs`).

use super::{Sums, Tile};
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
    use super::super::decode::{Line, STEPS, Scaling, lines, scaling};
    use super::*;
    use crate::cpu::pack::PANEL;

    /// Columns of a register.
    const LANES: usize = PANEL / 2;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn tile(tile: &Tile<'_>, sums: &mut Sums, at: usize) {
        match tile.rows {
            1 => each_width::<1>(tile, sums, at),
            2 => each_width::<2>(tile, sums, at),
            3 => each_width::<3>(tile, sums, at),
            _ => each_width::<4>(tile, sums, at),
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn each_width<const R: usize>(tile: &Tile<'_>, sums: &mut Sums, at: usize) {
        match tile.w.layout().bits {
            4 => rows::<R, 4>(tile, sums, at),
            5 => rows::<R, 5>(tile, sums, at),
            6 => rows::<R, 6>(tile, sums, at),
            _ => rows::<R, 8>(tile, sums, at),
        }
    }

    type Acc<const R: usize> = [[__m256; 2]; R];

    #[target_feature(enable = "avx2,fma,f16c")]
    fn rows<const R: usize, const BITS: usize>(tile: &Tile<'_>, sums: &mut Sums, at: usize) {
        assert!(R * tile.stride <= tile.a.len() && at + PANEL <= sums[0].len());
        let layout = tile.w.layout();
        let mut acc: Acc<R> = [[_mm256_setzero_ps(); 2]; R];
        for block in 0..tile.stride {
            let lines = lines(BITS, tile.w.codes(tile.panel, block));
            let scaling = scaling(tile.w, tile.panel, block);
            // SAFETY: the assertion keeps the index in bounds.
            let a: [&OperandBlock; R] =
                std::array::from_fn(|r| unsafe { tile.a.get_unchecked(r * tile.stride + block) });
            for side in 0..2 {
                let first = dots::<R, BITS>(&lines[..STEPS / 2], side, &a, 0);
                let second = dots::<R, BITS>(&lines[STEPS / 2..], side, &a, 1);
                let Scaling { halves, min } = &scaling;
                let [scale, second_scale] = [&halves[0], &halves[1]].map(|s| load(s, side));
                let min = load(min, side);
                for r in 0..R {
                    let acc = &mut acc[r][side];
                    let a_scale = _mm256_set1_ps(a[r].scale);
                    if layout.has_halves() {
                        *acc = fold(*acc, first[r], _mm256_mul_ps(scale, a_scale));
                        *acc = fold(*acc, second[r], _mm256_mul_ps(second_scale, a_scale));
                    } else {
                        let dots = _mm256_add_epi32(first[r], second[r]);
                        *acc = fold(*acc, dots, _mm256_mul_ps(scale, a_scale));
                    }
                    if layout.has_min() {
                        *acc = _mm256_add_ps(*acc, _mm256_mul_ps(min, _mm256_set1_ps(a[r].sum)));
                    }
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            // SAFETY: from `at` on, a row of sums holds a panel's floats.
            unsafe {
                _mm256_storeu_ps(sums.as_mut_ptr().add(at), acc[0]);
                _mm256_storeu_ps(sums.as_mut_ptr().add(at + LANES), acc[1]);
            }
        }
    }

    /// The sums of one half of a block, for eight columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dots<const R: usize, const BITS: usize>(
        lines: &[Line],
        side: usize,
        a: &[&OperandBlock; R],
        half: usize,
    ) -> [__m256i; R] {
        let ones = _mm256_set1_epi16(1);
        let word = |r: usize, step: usize| {
            let words: &[i32; STEPS] = bytemuck::cast_ref(&a[r].codes);
            _mm256_set1_epi32(words[half * STEPS / 2 + step])
        };
        if BITS == 8 {
            // Multiply without the offset: magnitudes of weights times signed operands. Two products of at most 128
            // times 127 fit 16 bits.
            let mut dots = [_mm256_setzero_si256(); R];
            for (step, line) in lines.iter().enumerate() {
                let w = _mm256_xor_si256(side_of(line, side), _mm256_set1_epi8(-128));
                let size = _mm256_abs_epi8(w);
                for (r, dots) in dots.iter_mut().enumerate() {
                    let pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(word(r, step), w));
                    *dots = _mm256_add_epi32(*dots, _mm256_madd_epi16(pairs, ones));
                }
            }
            return dots;
        }
        // Steps whose sums fit 16 bits: each adds 2 products of 127 and the largest code.
        let steps = if BITS == 6 { 2 } else { 4 };
        let mut dots = [_mm256_setzero_si256(); R];
        for (r, dots) in dots.iter_mut().enumerate() {
            *dots = _mm256_set1_epi32(a[r].starts[half]);
        }
        for (group, lines) in lines.chunks_exact(steps).enumerate() {
            let mut pairs = [_mm256_setzero_si256(); R];
            for (step, line) in lines.iter().enumerate() {
                let w = side_of(line, side);
                for (r, pairs) in pairs.iter_mut().enumerate() {
                    let products = _mm256_maddubs_epi16(w, word(r, group * steps + step));
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

    #[inline]
    #[target_feature(enable = "avx2")]
    fn side_of(line: &Line, side: usize) -> __m256i {
        let halves = line.as_chunks::<32>().0;
        // SAFETY: a half has 32 bytes.
        unsafe { _mm256_loadu_si256(halves[side].as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(columns: &[f32; PANEL], side: usize) -> __m256 {
        let sides = columns.as_chunks::<LANES>().0;
        // SAFETY: a side has eight floats.
        unsafe { _mm256_loadu_ps(sides[side].as_ptr()) }
    }
}
