//! Tiles with AVX2, FMA and F16C: six rows by one panel of sixteen columns at a time.

use super::{PANEL, Sums, Tile};
use crate::cpu::simd::Avx2;

/// Rows of a tile: 6 x 2 accumulators leave four of the sixteen registers for weights and operand.
pub(super) const ROWS: usize = 6;

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn tile(_proof: Avx2, tile: &Tile<'_>, sums: &mut Sums) {
    super::portable::tile(tile, sums);
}

#[cfg(target_arch = "x86_64")]
pub(super) fn tile(_proof: Avx2, tile: &Tile<'_>, sums: &mut Sums) {
    // SAFETY: the proof says that the features are there.
    unsafe { x86::tile(tile, sums) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::Operand;
    use super::*;
    use crate::DType;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn tile(tile: &Tile<'_>, sums: &mut Sums) {
        match tile.rows {
            1 => rows::<1>(tile, sums),
            2 => rows::<2>(tile, sums),
            3 => rows::<3>(tile, sums),
            4 => rows::<4>(tile, sums),
            5 => rows::<5>(tile, sums),
            _ => rows::<6>(tile, sums),
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn rows<const R: usize>(tile: &Tile<'_>, sums: &mut Sums) {
        for panel in 0..2 {
            let weights = &tile.weights[panel * tile.lines * 64..][..tile.lines * 64];
            let acc = match (tile.a, tile.dtype) {
                (Operand::Bf16(a), _) => bf16::<R>(a, tile.stride / 2, weights),
                (Operand::F32(a), DType::F16) => f16::<R>(a, tile.stride, weights),
                (Operand::F32(a), _) => f32::<R>(a, tile.stride, weights),
            };
            for (r, acc) in acc.into_iter().enumerate() {
                let out = &mut sums[r][panel * PANEL..][..PANEL];
                // SAFETY: `out` has sixteen floats.
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr(), acc[0]);
                    _mm256_storeu_ps(out.as_mut_ptr().add(8), acc[1]);
                }
            }
        }
    }

    /// A bf16 becomes an f32 by moving it to the upper half; even and odd k take turns.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn bf16<const R: usize>(a: &[u32], stride: usize, weights: &[u8]) -> [[__m256; 2]; R] {
        let lines: &[[u32; PANEL]] = bytemuck::cast_slice(weights);
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        assert!((R - 1) * stride + lines.len() <= a.len());
        for (g, line) in lines.iter().enumerate() {
            // SAFETY: a line has sixteen pairs; the assertion bounds the operand.
            unsafe {
                let w0 = _mm256_loadu_si256(line.as_ptr().cast());
                let w1 = _mm256_loadu_si256(line.as_ptr().add(8).cast());
                let even0 = _mm256_castsi256_ps(_mm256_slli_epi32(w0, 16));
                let even1 = _mm256_castsi256_ps(_mm256_slli_epi32(w1, 16));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let pair = *a.get_unchecked(r * stride + g);
                    let x = _mm256_set1_ps(f32::from_bits(pair << 16));
                    acc[0] = _mm256_fmadd_ps(x, even0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(x, even1, acc[1]);
                }
                let odd0 = _mm256_castsi256_ps(_mm256_and_si256(w0, high));
                let odd1 = _mm256_castsi256_ps(_mm256_and_si256(w1, high));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let pair = *a.get_unchecked(r * stride + g);
                    let x = _mm256_set1_ps(f32::from_bits(pair & 0xffff_0000));
                    acc[0] = _mm256_fmadd_ps(x, odd0, acc[0]);
                    acc[1] = _mm256_fmadd_ps(x, odd1, acc[1]);
                }
            }
        }
        acc
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn f16<const R: usize>(a: &[f32], stride: usize, weights: &[u8]) -> [[__m256; 2]; R] {
        let steps: &[[u16; PANEL]] = bytemuck::cast_slice(weights);
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        assert!((R - 1) * stride + steps.len() <= a.len());
        for (k, step) in steps.iter().enumerate() {
            // SAFETY: a step has sixteen halves; the assertion bounds the operand.
            unsafe {
                let w0 = _mm256_cvtph_ps(_mm_loadu_si128(step.as_ptr().cast()));
                let w1 = _mm256_cvtph_ps(_mm_loadu_si128(step.as_ptr().add(8).cast()));
                multiply(&mut acc, a, stride, k, w0, w1);
            }
        }
        acc
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn f32<const R: usize>(a: &[f32], stride: usize, weights: &[u8]) -> [[__m256; 2]; R] {
        let steps: &[[f32; PANEL]] = bytemuck::cast_slice(weights);
        let mut acc = [[_mm256_setzero_ps(); 2]; R];
        assert!((R - 1) * stride + steps.len() <= a.len());
        for (k, step) in steps.iter().enumerate() {
            // SAFETY: a step has sixteen floats; the assertion bounds the operand.
            unsafe {
                let w0 = _mm256_loadu_ps(step.as_ptr());
                let w1 = _mm256_loadu_ps(step.as_ptr().add(8));
                multiply(&mut acc, a, stride, k, w0, w1);
            }
        }
        acc
    }

    /// One step of k for all rows.
    ///
    /// # Safety
    /// `(R - 1) * stride + k` must be in bounds of `a`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply<const R: usize>(
        acc: &mut [[__m256; 2]; R],
        a: &[f32],
        stride: usize,
        k: usize,
        w0: __m256,
        w1: __m256,
    ) {
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: in bounds by the caller's promise.
            let x = _mm256_set1_ps(unsafe { *a.get_unchecked(r * stride + k) });
            acc[0] = _mm256_fmadd_ps(x, w0, acc[0]);
            acc[1] = _mm256_fmadd_ps(x, w1, acc[1]);
        }
    }
}
