//! Tiles with AVX2, FMA and F16C: six rows by one panel of sixteen columns at a time, in f32.
//!
//! The operand is f32 for weights of any type (with bf16 weights its values are rounded to bf16), so that a value is
//! broadcast by the load itself. Many rows expand a block of weights to f32 once; few rows expand it in registers.

use super::blocks::{Kernel, Strip};
use super::{CpuActs, CpuMatrix, PANEL, TILE};
use crate::cpu::simd::Avx2;

/// Rows of a tile: 6 x 2 accumulators leave four of the sixteen registers for weights and operand.
const TILE_ROWS: usize = 6;

/// Steps of k in a block: 16 KiB of a panel in f32, beside 6 KiB of a tile's rows.
const BLOCK_K: usize = 256;

/// Rows that are worth expanding a block for.
const EXPAND_ROWS: usize = 2 * TILE_ROWS + 1;

pub(super) struct Rows {
    _proof: Avx2,
    /// A block of a panel in f32.
    block: [[f32; PANEL]; BLOCK_K],
}

impl Rows {
    pub(super) fn new(proof: Avx2) -> Self {
        Self {
            _proof: proof,
            block: [[0.0; PANEL]; BLOCK_K],
        }
    }
}

impl Kernel for Rows {
    type Element = f32;

    const ELEMENT_K: usize = 1;

    fn elements(a: &CpuActs) -> &[f32] {
        a.values.f32()
    }

    const BLOCK_ROWS: usize = 32 * TILE_ROWS;

    fn block_lines(rows: usize, w: &CpuMatrix) -> usize {
        match rows {
            0..=TILE_ROWS => w.lines,
            _ => BLOCK_K / w.line_k(),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply(&mut self, strip: &Strip<'_, f32>, sums: &mut [[f32; TILE]], sums_stride: usize) {
        let Rows { _proof, block } = self;
        // SAFETY: the proof says that the features are there.
        unsafe { x86::multiply(strip, block, sums, sums_stride) }
    }

    /// Elsewhere the proof cannot be constructed, so that nobody calls this.
    #[cfg(not(target_arch = "x86_64"))]
    fn multiply(&mut self, _: &Strip<'_, f32>, _: &mut [[f32; TILE]], _: usize) {}
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;
    use crate::DType;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn multiply(
        strip: &Strip<'_, f32>,
        block: &mut [[f32; PANEL]; BLOCK_K],
        sums: &mut [[f32; TILE]],
        sums_stride: usize,
    ) {
        let weights = strip.w.pair(strip.pair);
        for (p, panel) in weights.chunks_exact(weights.len() / 2).enumerate() {
            let lines = &panel[strip.lines.start * 64..strip.lines.end * 64];
            let mut strip_of = |source| panel_tiles(strip, source, p, sums, sums_stride);
            match strip.w.dtype {
                DType::F32 => strip_of(Source::F32(bytemuck::cast_slice(lines))),
                DType::Bf16 if strip.rows < EXPAND_ROWS => {
                    strip_of(Source::Bf16(bytemuck::cast_slice(lines)));
                }
                DType::F16 if strip.rows < EXPAND_ROWS => {
                    strip_of(Source::F16(bytemuck::cast_slice(lines)));
                }
                DType::Bf16 => {
                    let pairs = bytemuck::cast_slice(lines);
                    strip_of(Source::F32(expand_bf16(pairs, block)));
                }
                DType::F16 => {
                    let halves = bytemuck::cast_slice(lines);
                    strip_of(Source::F32(expand_f16(halves, block)));
                }
            }
        }
    }

    /// Lines of a panel.
    #[derive(Clone, Copy)]
    enum Source<'a> {
        F32(&'a [[f32; PANEL]]),
        F16(&'a [[u16; PANEL]]),
        /// Pairs of neighbours in k.
        Bf16(&'a [[u32; PANEL]]),
    }

    /// All row tiles times the lines of panel `p`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn panel_tiles(
        strip: &Strip<'_, f32>,
        source: Source<'_>,
        p: usize,
        sums: &mut [[f32; TILE]],
        sums_stride: usize,
    ) {
        let mut row = 0;
        let mut tiles = strip.rows.div_ceil(TILE_ROWS);
        while row < strip.rows {
            // Tiles of nearly equal height: 7 rows are 4 + 3, not 6 + 1.
            let rows = (strip.rows - row).div_ceil(tiles);
            let tile = Tile {
                a: &strip.a[row * strip.stride..],
                stride: strip.stride,
                source,
                first: strip.lines.start == 0,
                p,
                sums_stride,
            };
            let sums = &mut sums[row * sums_stride..];
            match rows {
                1 => tile.multiply::<1>(sums),
                2 => tile.multiply::<2>(sums),
                3 => tile.multiply::<3>(sums),
                4 => tile.multiply::<4>(sums),
                5 => tile.multiply::<5>(sums),
                _ => tile.multiply::<6>(sums),
            }
            row += rows;
            tiles -= 1;
        }
    }

    struct Tile<'a> {
        a: &'a [f32],
        stride: usize,
        source: Source<'a>,
        /// Whether these are the first lines, so that the sums begin.
        first: bool,
        p: usize,
        sums_stride: usize,
    }

    type Acc<const R: usize> = [[__m256; 2]; R];

    impl Tile<'_> {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn multiply<const R: usize>(&self, sums: &mut [[f32; TILE]]) {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            let rows = sums.iter_mut().step_by(self.sums_stride);
            let mut rows = rows.map(|row| row[self.p * PANEL..].as_chunks_mut::<8>().0);
            let mut out: [&mut [[f32; 8]]; R] =
                std::array::from_fn(|_| rows.next().unwrap_or_default());
            if !self.first {
                for (acc, out) in acc.iter_mut().zip(&out) {
                    *acc = [load(&out[0]), load(&out[1])];
                }
            }
            let acc = match self.source {
                Source::F32(steps) => self.f32(acc, steps),
                Source::F16(steps) => self.f16(acc, steps),
                Source::Bf16(lines) => self.bf16(acc, lines),
            };
            for (acc, out) in acc.iter().zip(&mut out) {
                store(acc[0], &mut out[0]);
                store(acc[1], &mut out[1]);
            }
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        fn f32<const R: usize>(&self, mut acc: Acc<R>, steps: &[[f32; PANEL]]) -> Acc<R> {
            assert!((R - 1) * self.stride + steps.len() <= self.a.len());
            for (k, step) in steps.iter().enumerate() {
                // SAFETY: a step has sixteen floats; the assertion bounds the operand.
                unsafe {
                    let w0 = _mm256_loadu_ps(step.as_ptr());
                    let w1 = _mm256_loadu_ps(step.as_ptr().add(8));
                    self.step(&mut acc, k, w0, w1);
                }
            }
            acc
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        fn f16<const R: usize>(&self, mut acc: Acc<R>, steps: &[[u16; PANEL]]) -> Acc<R> {
            assert!((R - 1) * self.stride + steps.len() <= self.a.len());
            for (k, step) in steps.iter().enumerate() {
                let [w0, w1] = widen_f16(step);
                // SAFETY: the assertion bounds the operand.
                unsafe { self.step(&mut acc, k, w0, w1) };
            }
            acc
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        fn bf16<const R: usize>(&self, mut acc: Acc<R>, lines: &[[u32; PANEL]]) -> Acc<R> {
            assert!((R - 1) * self.stride + 2 * lines.len() <= self.a.len());
            for (g, line) in lines.iter().enumerate() {
                let [even, odd] = widen_bf16(line);
                // SAFETY: the assertion bounds the operand.
                unsafe {
                    self.step(&mut acc, 2 * g, even[0], even[1]);
                    self.step(&mut acc, 2 * g + 1, odd[0], odd[1]);
                }
            }
            acc
        }

        /// One step of k for all rows.
        ///
        /// # Safety
        /// `(R - 1) * stride + k` must be in bounds of the operand.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn step<const R: usize>(&self, acc: &mut Acc<R>, k: usize, w0: __m256, w1: __m256) {
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: in bounds by the caller's promise.
                let x = _mm256_set1_ps(unsafe { *self.a.get_unchecked(r * self.stride + k) });
                acc[0] = _mm256_fmadd_ps(x, w0, acc[0]);
                acc[1] = _mm256_fmadd_ps(x, w1, acc[1]);
            }
        }
    }

    /// Lines of bf16 pairs as steps of k.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn expand_bf16<'a>(
        lines: &[[u32; PANEL]],
        block: &'a mut [[f32; PANEL]; BLOCK_K],
    ) -> &'a [[f32; PANEL]] {
        let steps = &mut block[..2 * lines.len()];
        for (line, steps) in lines.iter().zip(steps.as_chunks_mut::<2>().0) {
            for (wide, step) in widen_bf16(line).into_iter().zip(steps) {
                let [first, second] = step.as_chunks_mut::<8>().0 else {
                    continue;
                };
                store(wide[0], first);
                store(wide[1], second);
            }
        }
        steps
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn expand_f16<'a>(
        halves: &[[u16; PANEL]],
        block: &'a mut [[f32; PANEL]; BLOCK_K],
    ) -> &'a [[f32; PANEL]] {
        let steps = &mut block[..halves.len()];
        for (half, step) in halves.iter().zip(&mut *steps) {
            let [first, second] = step.as_chunks_mut::<8>().0 else {
                continue;
            };
            let wide = widen_f16(half);
            store(wide[0], first);
            store(wide[1], second);
        }
        steps
    }

    /// Even and odd k of sixteen columns: a bf16 becomes an f32 by moving it to the upper half.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn widen_bf16(line: &[u32; PANEL]) -> [[__m256; 2]; 2] {
        let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        // SAFETY: a line has sixteen pairs.
        let (w0, w1) = unsafe {
            (
                _mm256_loadu_si256(line.as_ptr().cast()),
                _mm256_loadu_si256(line.as_ptr().add(8).cast()),
            )
        };
        let even = [_mm256_slli_epi32(w0, 16), _mm256_slli_epi32(w1, 16)];
        let odd = [_mm256_and_si256(w0, high), _mm256_and_si256(w1, high)];
        [
            [_mm256_castsi256_ps(even[0]), _mm256_castsi256_ps(even[1])],
            [_mm256_castsi256_ps(odd[0]), _mm256_castsi256_ps(odd[1])],
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn widen_f16(step: &[u16; PANEL]) -> [__m256; 2] {
        // SAFETY: a step has sixteen halves.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(step.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(step.as_ptr().add(8).cast())),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn load(from: &[f32; 8]) -> __m256 {
        // SAFETY: there are eight floats.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store(value: __m256, to: &mut [f32; 8]) {
        // SAFETY: there is room for eight floats.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }
}
