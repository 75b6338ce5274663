//! Matrix products with packed weights.
//!
//! A task owns pairs of panels (32 output columns) and walks all rows in tiles. A kernel sums each element over all of
//! k, in order. So the sum of an element never depends on the number of rows, on its tile, or on the thread.

// Only x86-64 can construct the proofs that these modules need.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod amx;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod avx2;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod avx512;
mod blocks;
mod portable;

use std::ops::Range;

use super::CpuMatrix;
use super::blocks::{self as blocks_of_weights, BlockPanels, OperandBlock, quantize_rows};
use super::cast::recast;
use super::matrix::{Part, Weights};
use super::pack::{PANEL, PlainPanels};
use super::rows::{ActValues, CpuActs};
use super::scratch::FreeList;
use super::simd::{Amx, Isa};
use super::threads::Threads;
use crate::error::check_shape;
use crate::{DType, Result};

/// Columns of a tile: a pair of panels.
pub(super) const TILE: usize = 2 * PANEL;

/// Products that take as long as processing a value does elsewhere.
pub(super) const PRODUCTS_A_VALUE: usize = 8;

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
    threads: &Threads,
    free: &FreeList<OperandBlock>,
    a: &CpuActs,
    w: &CpuMatrix,
    bias: Option<&[f32]>,
    target: Target<'_>,
) -> Result<()> {
    check_shape("linear", "width of the operand", w.columns, a.width)?;
    if let Some(bias) = bias {
        check_shape("linear", "length of the bias", w.rows, bias.len())?;
    }
    let (out, add) = match target {
        Target::Set(out) => (out, false),
        Target::Add(out) => (out, true),
    };
    check_shape("linear", "values of the output", a.len * w.rows, out.len())?;
    let out = Columns::new(out, w.rows);
    for part in w.parts() {
        with_product(isa, threads, "linear", free, a, part, |product| {
            let pairs_a_task = part.pairs().div_ceil(4 * threads.count()).max(1);
            let tasks = part.pairs().div_ceil(pairs_a_task);
            let work = a.len * w.columns * pairs_a_task * TILE / PRODUCTS_A_VALUE;
            threads.spans(tasks, work, |task| {
                let pairs = task * pairs_a_task..part.pairs().min((task + 1) * pairs_a_task);
                for_tiles(isa, product, pairs, |row, pair, sums| {
                    let n = TILE.min(part.rows - pair * TILE);
                    let column = part.first + pair * TILE;
                    // SAFETY: each task owns its pairs of panels, so no two tasks write the same columns.
                    let out = unsafe { out.slice(row, column, n) };
                    let bias = bias.map_or(&[] as &[f32], |b| &b[column..column + n]);
                    store(out, &sums[..n], bias, add);
                });
            });
        })?;
    }
    Ok(())
}

/// A part of a matrix, with the operand in the form it takes.
#[derive(Clone, Copy)]
pub(super) enum Product<'a> {
    Plain(&'a CpuActs, &'a PlainPanels),
    Blocks(blocks_of_weights::Operand<'a>, &'a BlockPanels),
}

/// Calls `f` with `part` and the operand in the form it takes: unchanged, or rounded once more if it is f32. An error
/// if the operand has a different form.
pub(super) fn with_product<R>(
    isa: Isa,
    threads: &Threads,
    op: &'static str,
    free: &FreeList<OperandBlock>,
    a: &CpuActs,
    part: &Part,
    f: impl FnOnce(Product<'_>) -> R,
) -> Result<R> {
    let is_f32 = a.values.fit(isa, DType::F32);
    match &part.weights {
        Weights::Plain(w) if a.values.fit(isa, w.dtype) => Ok(f(Product::Plain(a, w))),
        Weights::Plain(w) if is_f32 => Ok(f(Product::Plain(&recast(isa, a, w.dtype), w))),
        Weights::Blocks(w) if is_f32 => Ok(free.with(a.len * w.blocks(), |blocks| {
            let values = &a.values.f32()[..a.len * a.stride];
            quantize_rows(
                isa,
                threads,
                values,
                a.stride,
                a.width,
                w.layout().offset,
                blocks,
            );
            let rows = a.len;
            f(Product::Blocks(
                blocks_of_weights::Operand { blocks, rows },
                w,
            ))
        })),
        _ => Err(crate::KernelError::Unsupported {
            op,
            reason: format!(
                "{} weights with an operand made for another dtype or path",
                part.format()
            ),
        }),
    }
}

/// Calls `each(row, pair, sums)` for every row of `a` and each pair of panels; `sums` is `[32]`.
pub(super) fn for_tiles(
    isa: Isa,
    product: Product<'_>,
    pairs: Range<usize>,
    each: impl FnMut(usize, usize, &[f32; TILE]),
) {
    match product {
        Product::Plain(a, w) => plain_tiles(isa, a, w, pairs, each),
        Product::Blocks(a, w) => blocks_of_weights::for_tiles(isa, a, w, pairs, each),
    }
}

fn plain_tiles(
    isa: Isa,
    a: &CpuActs,
    w: &PlainPanels,
    pairs: Range<usize>,
    each: impl FnMut(usize, usize, &[f32; TILE]),
) {
    match (isa, &a.values) {
        (Isa::Amx(s), ActValues::Bf16(_)) => {
            let mut kernel = amx::Registers::new(s.bf16);
            blocks::for_tiles(&mut kernel, a, w, pairs, each);
        }
        (Isa::Avx512(s) | Isa::Amx(Amx { avx512: s, .. }), _) => {
            avx512::for_tiles(s, a, w, pairs, each);
        }
        (Isa::Avx2(s), _) => {
            let mut kernel = avx2::Rows::new(s);
            blocks::for_tiles(&mut kernel, a, w, pairs, each);
        }
        (Isa::Portable(_), _) => {
            blocks::for_tiles(&mut portable::Rows, a, w, pairs, each);
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

/// A row-major output whose columns are divided among tasks.
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
    /// No other live slice may overlap this one.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, row: usize, column: usize, n: usize) -> &mut [f32] {
        let start = row * self.width + column;
        assert!(start + n <= self.len);
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(start), n) }
    }
}
