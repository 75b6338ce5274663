//! Tiles with AVX-512: twelve rows by a pair of panels. Pairs of bf16 use the dot-product instruction.

use std::ops::Range;

use super::{CpuActs, PlainPanels, TILE};
use crate::DType;
use crate::cpu::pack::LINE;
use crate::cpu::rows::ActValues;
use crate::cpu::simd::Avx512;

/// Rows of a tile: 12 x 2 accumulators, two registers of weights, the operand broadcast from memory.
const ROWS: usize = 12;

/// Sums of a tile, `[rows, 32]`.
type Sums = [[f32; TILE]; ROWS];

/// Calls `each(row, pair, sums)` for every row of `a` and each pair of panels; `sums` is `[32]`. A tile stays in
/// registers over all of k.
pub(super) fn for_tiles(
    proof: Avx512,
    a: &CpuActs,
    w: &PlainPanels,
    pairs: Range<usize>,
    mut each: impl FnMut(usize, usize, &[f32; TILE]),
) {
    let mut sums: Sums = [[0.0; TILE]; ROWS];
    for pair in pairs {
        let mut row = 0;
        let mut tiles = a.len.div_ceil(ROWS);
        // The first tile brings the weights into the L2 cache. The two after it fetch those of the next pair, so that
        // the memory is not idle until then.
        let mut next = w.next_pair(pair).chunks((w.lines * LINE).max(1));
        while row < a.len {
            // Tiles of nearly equal height: 13 rows are 7 + 6, not 12 + 1.
            let rows = (a.len - row).div_ceil(tiles);
            let tile = Tile {
                a: Operand::of(a, row),
                rows,
                stride: a.stride,
                weights: w.pair(pair),
                lines: w.lines,
                dtype: w.dtype,
                next: if row > 0 {
                    next.next().unwrap_or_default()
                } else {
                    &[]
                },
            };
            multiply(proof, &tile, &mut sums);
            for (r, sums) in sums[..rows].iter().enumerate() {
                each(row + r, pair, sums);
            }
            row += rows;
            tiles -= 1;
        }
    }
}

/// One tile of work: `rows` rows of `a` times a pair of panels.
struct Tile<'a> {
    a: Operand<'a>,
    rows: usize,
    /// Elements from one row of `a` to the next.
    stride: usize,
    /// `[2, lines, 64]` bytes, aligned to 64.
    weights: &'a [u8],
    lines: usize,
    dtype: DType,
    /// Lines to prefetch meanwhile, at most as many as a panel has.
    next: &'a [u8],
}

/// The operand, from the tile's first row on.
#[derive(Clone, Copy)]
enum Operand<'a> {
    /// Pairs of adjacent steps of k, in the layout of the packed weights.
    Bf16(&'a [u32]),
    F32(&'a [f32]),
}

impl<'a> Operand<'a> {
    fn of(a: &'a CpuActs, row: usize) -> Self {
        match &a.values {
            ActValues::Bf16(v) => Operand::Bf16(&v[row * a.stride / 2..a.len * a.stride / 2]),
            values => Operand::F32(&values.f32()[row * a.stride..a.len * a.stride]),
        }
    }
}

/// On other targets the proof cannot be constructed, so nothing calls this.
#[cfg(not(target_arch = "x86_64"))]
fn multiply(_proof: Avx512, _tile: &Tile<'_>, _sums: &mut Sums) {}

#[cfg(target_arch = "x86_64")]
fn multiply(_proof: Avx512, tile: &Tile<'_>, sums: &mut Sums) {
    // SAFETY: the proof shows that the features are present.
    unsafe { x86::tile(tile, sums) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::PANEL;
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) fn tile(tile: &Tile<'_>, sums: &mut Sums) {
        match tile.rows {
            1 => rows::<1>(tile, sums),
            2 => rows::<2>(tile, sums),
            3 => rows::<3>(tile, sums),
            4 => rows::<4>(tile, sums),
            5 => rows::<5>(tile, sums),
            6 => rows::<6>(tile, sums),
            7 => rows::<7>(tile, sums),
            8 => rows::<8>(tile, sums),
            9 => rows::<9>(tile, sums),
            10 => rows::<10>(tile, sums),
            11 => rows::<11>(tile, sums),
            _ => rows::<12>(tile, sums),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn rows<const R: usize>(tile: &Tile<'_>, sums: &mut Sums) {
        let panels = tile.weights.split_at(tile.lines * LINE);
        let acc = match (tile.a, tile.dtype) {
            (Operand::Bf16(a), _) => bf16::<R>(a, tile.stride / 2, panels, tile.next),
            (Operand::F32(a), DType::F16) => f16::<R>(a, tile.stride, panels, tile.next),
            (Operand::F32(a), _) => f32::<R>(a, tile.stride, panels, tile.next),
        };
        for (sums, acc) in sums.iter_mut().zip(acc) {
            // SAFETY: a row of sums has thirty-two floats.
            unsafe {
                _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
                _mm512_storeu_ps(sums.as_mut_ptr().add(PANEL), acc[1]);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn bf16<const R: usize>(
        a: &[u32],
        stride: usize,
        (first, second): (&[u8], &[u8]),
        next: &[u8],
    ) -> [[__m512; 2]; R] {
        let first: &[[u32; PANEL]] = bytemuck::cast_slice(first);
        let second: &[[u32; PANEL]] = bytemuck::cast_slice(second);
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        assert!((R - 1) * stride + first.len() <= a.len());
        for (g, (w0, w1)) in first.iter().zip(second).enumerate() {
            prefetch(next, g * LINE);
            // SAFETY: a line has sixteen pairs; the assertion bounds the operand.
            unsafe {
                let w0 = pairs(_mm512_loadu_si512(w0.as_ptr().cast()));
                let w1 = pairs(_mm512_loadu_si512(w1.as_ptr().cast()));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = pairs(_mm512_set1_epi32(*a.get_unchecked(r * stride + g) as i32));
                    acc[0] = _mm512_dpbf16_ps(acc[0], x, w0);
                    acc[1] = _mm512_dpbf16_ps(acc[1], x, w1);
                }
            }
        }
        acc
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn f16<const R: usize>(
        a: &[f32],
        stride: usize,
        (first, second): (&[u8], &[u8]),
        next: &[u8],
    ) -> [[__m512; 2]; R] {
        let first: &[[u16; PANEL]] = bytemuck::cast_slice(first);
        let second: &[[u16; PANEL]] = bytemuck::cast_slice(second);
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        assert!((R - 1) * stride + first.len() <= a.len());
        for (k, (w0, w1)) in first.iter().zip(second).enumerate() {
            prefetch(next, k * LINE / 2);
            // SAFETY: a step has sixteen halves; the assertion bounds the operand.
            unsafe {
                let w0 = _mm512_cvtph_ps(_mm256_loadu_si256(w0.as_ptr().cast()));
                let w1 = _mm512_cvtph_ps(_mm256_loadu_si256(w1.as_ptr().cast()));
                multiply(&mut acc, a, stride, k, w0, w1);
            }
        }
        acc
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn f32<const R: usize>(
        a: &[f32],
        stride: usize,
        (first, second): (&[u8], &[u8]),
        next: &[u8],
    ) -> [[__m512; 2]; R] {
        let first: &[[f32; PANEL]] = bytemuck::cast_slice(first);
        let second: &[[f32; PANEL]] = bytemuck::cast_slice(second);
        let mut acc = [[_mm512_setzero_ps(); 2]; R];
        assert!((R - 1) * stride + first.len() <= a.len());
        for (k, (w0, w1)) in first.iter().zip(second).enumerate() {
            prefetch(next, k * LINE);
            // SAFETY: a step has sixteen floats; the assertion bounds the operand.
            unsafe {
                let w0 = _mm512_loadu_ps(w0.as_ptr());
                let w1 = _mm512_loadu_ps(w1.as_ptr());
                multiply(&mut acc, a, stride, k, w0, w1);
            }
        }
        acc
    }

    /// One step of k, for all rows.
    ///
    /// # Safety
    /// `(R - 1) * stride + k` must be in bounds of `a`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn multiply<const R: usize>(
        acc: &mut [[__m512; 2]; R],
        a: &[f32],
        stride: usize,
        k: usize,
        w0: __m512,
        w1: __m512,
    ) {
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: in bounds, by the caller's promise.
            let x = _mm512_set1_ps(unsafe { *a.get_unchecked(r * stride + k) });
            acc[0] = _mm512_fmadd_ps(x, w0, acc[0]);
            acc[1] = _mm512_fmadd_ps(x, w1, acc[1]);
        }
    }

    /// Fetches the line at a byte of some lines into the L2 cache.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn prefetch(lines: &[u8], at: usize) {
        if let Some(byte) = lines.get(at) {
            _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(byte).cast());
        }
    }

    /// Sixteen pairs of bf16 as an operand of the dot-product instruction.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs(bits: __m512i) -> __m512bh {
        // SAFETY: both types have 64 bytes, and every bit pattern is a value.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
    }
}
