//! Matrix products with packed weights.
//!
//! A task owns pairs of panels (32 output columns) and walks all rows in tiles; a kernel sums one tile over the
//! whole of k, in order. The sum of an element therefore never depends on the number of rows, the tile that it
//! falls in, or the thread.

// Only x86-64 can construct the proof that it asks for.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod amx;
mod avx2;
mod avx512;
mod portable;

use std::ops::Range;

use rayon::prelude::*;

use super::pack::{CpuMatrix, PANEL};
use super::rows::{ActValues, CpuActs};
use super::simd::{Amx, Isa};
use crate::error::check_shape;
use crate::{DType, Result};

/// Columns of a tile: a pair of panels.
pub(super) const TILE: usize = 2 * PANEL;

/// Most rows of a tile that is kept in registers.
pub(super) const MAX_ROWS: usize = 12;

/// Sums of a tile, `[rows, 32]`.
pub(super) type Sums = [[f32; TILE]; MAX_ROWS];

/// Where the sums of a product go.
pub(super) enum Target<'a> {
    /// `out = sums (+ bias)`.
    Set(&'a mut [f32]),
    /// `out += sums (+ bias)`.
    Add(&'a mut [f32]),
}

/// `a · wᵀ (+ bias)` into `[a.len, w.rows]`.
pub(super) fn linear(
    isa: Isa,
    a: &CpuActs,
    w: &CpuMatrix,
    bias: Option<&[f32]>,
    target: Target<'_>,
) -> Result<()> {
    check_operands("linear", a, w)?;
    if let Some(bias) = bias {
        check_shape("linear", "length of the bias", w.rows, bias.len())?;
    }
    let (out, add) = match target {
        Target::Set(out) => (out, false),
        Target::Add(out) => (out, true),
    };
    check_shape("linear", "values of the output", a.len * w.rows, out.len())?;
    let out = Columns::new(out, w.rows);
    let pairs_a_task = w.pairs().div_ceil(4 * rayon::current_num_threads()).max(1);
    let tasks = w.pairs().div_ceil(pairs_a_task);
    (0..tasks).into_par_iter().for_each(|task| {
        let pairs = task * pairs_a_task..w.pairs().min((task + 1) * pairs_a_task);
        for_tiles(isa, a, w, pairs, |row, pair, sums| {
            let column = pair * TILE;
            let n = TILE.min(w.rows - column);
            // SAFETY: each task owns its pairs of panels, so no two write the same columns.
            let out = unsafe { out.slice(row, column, n) };
            let bias = bias.map_or(&[] as &[f32], |b| &b[column..column + n]);
            store(out, &sums[..n], bias, add);
        });
    });
    Ok(())
}

/// Calls `each(row, pair, sums)` with the sums `[32]` of every row of `a` times each pair of panels.
pub(super) fn for_tiles(
    isa: Isa,
    a: &CpuActs,
    w: &CpuMatrix,
    pairs: Range<usize>,
    mut each: impl FnMut(usize, usize, &[f32; TILE]),
) {
    match (isa, &a.values) {
        (Isa::Amx(s), ActValues::Bf16(values)) => amx::for_tiles(s, a, values, w, pairs, each),
        _ => pairs.for_each(|pair| pair_tiles(isa, a, w, pair, |row, sums| each(row, pair, sums))),
    }
}

/// Calls `each(row, sums)` with the sums of every row of `a` times one pair of panels, from kernels that keep a
/// tile in registers over all of k.
fn pair_tiles(
    isa: Isa,
    a: &CpuActs,
    w: &CpuMatrix,
    pair: usize,
    mut each: impl FnMut(usize, &[f32; TILE]),
) {
    let weights = w.pair(pair);
    let max_rows = match isa {
        Isa::Portable(_) => portable::ROWS,
        Isa::Avx2(_) => avx2::ROWS,
        Isa::Avx512(_) | Isa::Amx(_) => avx512::ROWS,
    };
    let mut sums: Sums = [[0.0; TILE]; MAX_ROWS];
    let mut row = 0;
    let mut tiles = a.len.div_ceil(max_rows);
    while row < a.len {
        // Tiles of nearly equal height: 13 rows are 7 + 6, not 12 + 1.
        let rows = (a.len - row).div_ceil(tiles);
        let tile = Tile {
            a: Operand::of(a, row),
            rows,
            stride: a.stride,
            weights,
            lines: w.lines,
            dtype: w.dtype,
        };
        match isa {
            Isa::Portable(_) => portable::tile(&tile, &mut sums),
            Isa::Avx2(s) => avx2::tile(s, &tile, &mut sums),
            Isa::Avx512(s) | Isa::Amx(Amx { avx512: s }) => avx512::tile(s, &tile, &mut sums),
        }
        for (r, sums) in sums[..rows].iter().enumerate() {
            each(row + r, sums);
        }
        row += rows;
        tiles -= 1;
    }
}

/// The operand's dtype must be the one that the weights ask for, and the widths must agree.
pub(super) fn check_operands(op: &'static str, a: &CpuActs, w: &CpuMatrix) -> Result<()> {
    check_shape(op, "width of the operand", w.columns, a.width)?;
    let bf16 = matches!(a.values, ActValues::Bf16(_));
    if bf16 == (w.dtype == DType::Bf16) {
        return Ok(());
    }
    Err(crate::KernelError::Unsupported {
        op,
        reason: format!("{} weights with an operand made for another dtype", w.dtype),
    })
}

/// One tile of work for a kernel: `rows` rows of `a` times a pair of panels.
struct Tile<'a> {
    a: Operand<'a>,
    rows: usize,
    /// Elements from one row of `a` to the next.
    stride: usize,
    /// `[2, lines, 64]` bytes, aligned to 64.
    weights: &'a [u8],
    lines: usize,
    dtype: DType,
}

/// The rows of the operand from the tile's first on.
#[derive(Clone, Copy)]
enum Operand<'a> {
    /// Pairs of neighbours in k, as the packed weights have them.
    Bf16(&'a [u32]),
    F32(&'a [f32]),
}

impl<'a> Operand<'a> {
    fn of(a: &'a CpuActs, row: usize) -> Self {
        match &a.values {
            ActValues::Bf16(v) => Operand::Bf16(&v[row * a.stride / 2..a.len * a.stride / 2]),
            ActValues::F32(v) => Operand::F32(&v[row * a.stride..a.len * a.stride]),
        }
    }
}

fn store(out: &mut [f32], sums: &[f32], bias: &[f32], add: bool) {
    match (add, bias.is_empty()) {
        (false, true) => out.copy_from_slice(sums),
        (true, true) => out.iter_mut().zip(sums).for_each(|(o, s)| *o += s),
        (false, false) => {
            for ((o, s), b) in out.iter_mut().zip(sums).zip(bias) {
                *o = s + b;
            }
        }
        (true, false) => {
            for ((o, s), b) in out.iter_mut().zip(sums).zip(bias) {
                *o += s + b;
            }
        }
    }
}

/// A row-major output whose columns are shared out among tasks.
struct Columns<'a> {
    out: *mut f32,
    len: usize,
    width: usize,
    owner: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `slice` is the only access, and its callers promise that slices do not overlap.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    fn new(out: &'a mut [f32], width: usize) -> Self {
        Self {
            out: out.as_mut_ptr(),
            len: out.len(),
            width,
            owner: std::marker::PhantomData,
        }
    }

    /// Columns `column..column + n` of `row`.
    ///
    /// # Safety
    /// No other slice that is alive may overlap it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, row: usize, column: usize, n: usize) -> &mut [f32] {
        let start = row * self.width + column;
        assert!(start + n <= self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(start), n) }
    }
}
