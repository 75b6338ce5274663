//! Tiles with AVX2, FMA and F16C: six rows by one panel of sixteen columns at a time, in f32.
//!
//! The operand is f32 for weights of any type, so that the load itself broadcasts a value; for bf16 weights its values
//! are rounded to bf16. Few rows widen weights in registers, once a tile. With more rows, each block of weights is
//! widened once, for all tiles. Meanwhile the next block is prefetched, because the hardware's own prefetching stops
//! between blocks.

use super::blocks::{Kernel, Strip};
use super::{CpuActs, PANEL, PlainPanels, TILE};
use crate::cpu::simd::Avx2;

/// Rows of a tile: 6 x 2 accumulators leave four of the sixteen registers for weights and the operand.
const TILE_ROWS: usize = 6;

/// Steps of k in a block: 16 KiB of a panel in f32, beside 6 KiB of a tile's rows.
const BLOCK_K: usize = 256;

/// Rows of a tile that widens weights in registers: widening needs some of them.
const WIDENING_TILE_ROWS: usize = 5;

/// The most rows for which weights are widened in registers. With a fourth tile, widening each block once is faster.
const WIDENING_ROWS: usize = 3 * WIDENING_TILE_ROWS;

/// Steps of k after which a tile prefetches one more line of the next block.
const FETCH_STEPS: usize = 4;

/// A block of a panel in f32.
type PanelBlock = [[f32; PANEL]; BLOCK_K];

pub(super) struct Rows {
    _proof: Avx2,
    block: PanelBlock,
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

    fn block_lines(rows: usize, w: &PlainPanels) -> usize {
        if rows <= WIDENING_TILE_ROWS {
            w.lines
        } else {
            BLOCK_K / w.line_k()
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply(&mut self, strip: &Strip<'_, f32>, sums: &mut [[f32; TILE]], sums_stride: usize) {
        let Rows { _proof, block } = self;
        // SAFETY: the proof shows that the features are present.
        unsafe { x86::multiply(strip, block, sums, sums_stride) }
    }

    /// On other targets the proof cannot be constructed, so nothing calls this.
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
        block: &mut PanelBlock,
        sums: &mut [[f32; TILE]],
        sums_stride: usize,
    ) {
        for (p, lines) in strip.panels.into_iter().enumerate() {
            let few = strip.rows <= WIDENING_ROWS;
            let source = match strip.dtype {
                DType::F32 => Source::F32(bytemuck::cast_slice(lines)),
                DType::Bf16 if few => Source::Bf16(bytemuck::cast_slice(lines)),
                DType::F16 if few => Source::F16(bytemuck::cast_slice(lines)),
                DType::Bf16 => Source::F32(expand_bf16(bytemuck::cast_slice(lines), block)),
                DType::F16 => Source::F32(expand_f16(bytemuck::cast_slice(lines), block)),
            };
            panel_tiles(strip, source, p, sums, sums_stride);
        }
    }

    /// The lines of a panel.
    #[derive(Clone, Copy)]
    enum Source<'a> {
        F32(&'a [[f32; PANEL]]),
        F16(&'a [[u16; PANEL]]),
        /// Pairs of adjacent steps of k.
        Bf16(&'a [[u32; PANEL]]),
    }

    /// Multiplies all row tiles with the lines of panel `p`.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn panel_tiles(
        strip: &Strip<'_, f32>,
        source: Source<'_>,
        p: usize,
        sums: &mut [[f32; TILE]],
        sums_stride: usize,
    ) {
        let mut row = 0;
        let most = match source {
            Source::F32(_) => TILE_ROWS,
            Source::F16(_) | Source::Bf16(_) => WIDENING_TILE_ROWS,
        };
        let mut tiles = strip.rows.div_ceil(most);
        let mut next = strip.next[p];
        while row < strip.rows {
            // Tiles of nearly equal height: 7 rows are 4 + 3, not 6 + 1.
            let rows = (strip.rows - row).div_ceil(tiles);
            let tile = Tile {
                a: &strip.a[row * strip.stride..],
                stride: strip.stride,
                source,
                first: strip.first,
                p,
                sums_stride,
                next,
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
            next = &next[next.len().min(BLOCK_K / FETCH_STEPS * 64)..];
        }
    }

    struct Tile<'a> {
        a: &'a [f32],
        stride: usize,
        source: Source<'a>,
        first: bool,
        p: usize,
        sums_stride: usize,
        /// The lines to prefetch meanwhile.
        next: &'a [u8],
    }

    type Acc<const R: usize> = [[__m256; 2]; R];

    impl Tile<'_> {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn multiply<const R: usize>(&self, sums: &mut [[f32; TILE]]) {
            match self.source {
                Source::F32(steps) => self.f32::<R>(sums, steps),
                Source::F16(steps) => self.f16::<R>(sums, steps),
                Source::Bf16(lines) => self.bf16::<R>(sums, lines),
            }
        }

        /// The sums so far.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn begin<const R: usize>(&self, sums: &mut [[f32; TILE]]) -> Acc<R> {
            let mut acc = [[_mm256_setzero_ps(); 2]; R];
            if !self.first {
                for (acc, row) in acc.iter_mut().zip(self.rows::<R>(sums)) {
                    // SAFETY: a row has sixteen floats.
                    *acc = unsafe { [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))] };
                }
            }
            acc
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn end<const R: usize>(&self, acc: Acc<R>, sums: &mut [[f32; TILE]]) {
            for (acc, row) in acc.into_iter().zip(self.rows::<R>(sums)) {
                // SAFETY: a row has sixteen floats.
                unsafe {
                    _mm256_storeu_ps(row, acc[0]);
                    _mm256_storeu_ps(row.add(8), acc[1]);
                }
            }
        }

        /// Where each row of the tile keeps its sums for this panel: sixteen floats.
        #[inline]
        fn rows<const R: usize>(&self, sums: &mut [[f32; TILE]]) -> [*mut f32; R] {
            assert!((R - 1) * self.sums_stride < sums.len());
            let first = sums.as_flattened_mut()[self.p * PANEL..].as_mut_ptr();
            std::array::from_fn(|r| first.wrapping_add(r * self.sums_stride * TILE))
        }

        // Not inlined: together these functions are too much for the compiler to keep the sums in registers.
        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn f32<const R: usize>(&self, sums: &mut [[f32; TILE]], steps: &[[f32; PANEL]]) {
            assert!((R - 1) * self.stride + steps.len() <= self.a.len());
            let mut acc = self.begin::<R>(sums);
            let (groups, rest) = steps.as_chunks::<FETCH_STEPS>();
            for (g, group) in groups.iter().enumerate() {
                self.fetch(g);
                for (k, step) in group.iter().enumerate() {
                    // SAFETY: the assertion bounds the operand.
                    unsafe { self.step(&mut acc, FETCH_STEPS * g + k, halves(step)) };
                }
            }
            for (k, step) in rest.iter().enumerate() {
                // SAFETY: the assertion bounds the operand.
                unsafe { self.step(&mut acc, FETCH_STEPS * groups.len() + k, halves(step)) };
            }
            self.end(acc, sums);
        }

        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn f16<const R: usize>(&self, sums: &mut [[f32; TILE]], steps: &[[u16; PANEL]]) {
            assert!((R - 1) * self.stride + steps.len() <= self.a.len());
            let mut acc = self.begin::<R>(sums);
            for (k, step) in steps.iter().enumerate() {
                if k % FETCH_STEPS == 0 {
                    self.fetch(k / FETCH_STEPS);
                }
                // SAFETY: the assertion bounds the operand.
                unsafe { self.step(&mut acc, k, widen_f16(step)) };
            }
            self.end(acc, sums);
        }

        #[inline(never)]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn bf16<const R: usize>(&self, sums: &mut [[f32; TILE]], lines: &[[u32; PANEL]]) {
            assert!((R - 1) * self.stride + 2 * lines.len() <= self.a.len());
            let mut acc = self.begin::<R>(sums);
            for (g, line) in lines.iter().enumerate() {
                if 2 * g % FETCH_STEPS == 0 {
                    self.fetch(2 * g / FETCH_STEPS);
                }
                let [even, odd] = widen_bf16(line);
                // SAFETY: the assertion bounds the operand.
                unsafe {
                    self.step(&mut acc, 2 * g, even);
                    self.step(&mut acc, 2 * g + 1, odd);
                }
            }
            self.end(acc, sums);
        }

        /// Prefetches a line of the next block. Past the end this does nothing, or fetches a line that is not needed.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn fetch(&self, line: usize) {
            _mm_prefetch::<_MM_HINT_T0>(self.next.as_ptr().wrapping_add(line * 64).cast());
        }

        /// One step of k, for all rows.
        ///
        /// # Safety
        /// `(R - 1) * stride + k` must be in bounds of the operand.
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn step<const R: usize>(&self, sums: &mut Acc<R>, k: usize, w: [__m256; 2]) {
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: in bounds, by the caller's promise.
                let x = _mm256_set1_ps(unsafe { *self.a.get_unchecked(r * self.stride + k) });
                sums[0] = _mm256_fmadd_ps(x, w[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(x, w[1], sums[1]);
            }
        }
    }

    /// Lines of bf16 pairs as steps of k.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn expand_bf16<'a>(lines: &[[u32; PANEL]], block: &'a mut PanelBlock) -> &'a [[f32; PANEL]] {
        let steps = &mut block[..2 * lines.len()];
        for (line, steps) in lines.iter().zip(steps.as_chunks_mut::<2>().0) {
            for (wide, step) in widen_bf16(line).into_iter().zip(steps) {
                store(wide, step);
            }
        }
        steps
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn expand_f16<'a>(halves: &[[u16; PANEL]], block: &'a mut PanelBlock) -> &'a [[f32; PANEL]] {
        let steps = &mut block[..halves.len()];
        for (half, step) in halves.iter().zip(&mut *steps) {
            store(widen_f16(half), step);
        }
        steps
    }

    /// Even and odd k of sixteen columns. Moving a bf16 to the upper half makes it an f32.
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
    fn halves(step: &[f32; PANEL]) -> [__m256; 2] {
        // SAFETY: a step has sixteen floats.
        unsafe {
            [
                _mm256_loadu_ps(step.as_ptr()),
                _mm256_loadu_ps(step.as_ptr().add(8)),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn store(wide: [__m256; 2], step: &mut [f32; PANEL]) {
        // SAFETY: a step has room for sixteen floats.
        unsafe {
            _mm256_storeu_ps(step.as_mut_ptr(), wide[0]);
            _mm256_storeu_ps(step.as_mut_ptr().add(8), wide[1]);
        }
    }
}
