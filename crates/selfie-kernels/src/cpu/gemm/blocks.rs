//! Products of many rows, blocked along k.
//!
//! A block of a pair of panels stays in the L1 cache while all row tiles pass it. The sums of a few pairs wait in L2
//! between blocks (Goto and van de Geijn 2008, Anatomy of high-performance matrix multiplication). Blocking changes no
//! bit: sums grow in order of k, and an f32 leaves a register and returns unchanged.

use std::cell::RefCell;
use std::ops::Range;

use super::{CpuActs, PlainPanels, TILE};
use crate::DType;

/// Pairs of panels whose sums wait between blocks; 1 KiB a row.
const BLOCK_PAIRS: usize = 8;

thread_local! {
    /// Sums `[rows, BLOCK_PAIRS]` of the blocks in progress.
    static SUMS: RefCell<Vec<[f32; TILE]>> = const { RefCell::new(Vec::new()) };
}

/// Multiplies rows with a block of one pair of panels.
pub(super) trait Kernel {
    /// An element of the operand: an f32, or a pair of bf16.
    type Element;

    /// Steps of k in an element.
    const ELEMENT_K: usize;

    /// The elements of an operand, in this path's form.
    fn elements(a: &CpuActs) -> &[Self::Element];

    /// Rows that pass a block together.
    const BLOCK_ROWS: usize;

    /// Lines of a block for `rows` rows. A single tile of rows reads the weights once and is best left in its
    /// registers.
    fn block_lines(rows: usize, w: &PlainPanels) -> usize;

    /// Adds the strip's products to `sums`; row `i` is at `i * sums_stride`. The first lines set the sums.
    fn multiply(
        &mut self,
        strip: &Strip<'_, Self::Element>,
        sums: &mut [[f32; TILE]],
        sums_stride: usize,
    );
}

/// Some rows, and the lines of a pair of panels to multiply them with.
pub(super) struct Strip<'a, T> {
    /// The operand, from the first row's element at the first line on.
    pub(super) a: &'a [T],
    /// Elements from one row to the next.
    pub(super) stride: usize,
    pub(super) rows: usize,
    /// The lines of both panels.
    pub(super) panels: [&'a [u8]; 2],
    pub(super) dtype: DType,
    /// Whether these are the first lines, which set the sums.
    pub(super) first: bool,
    /// The next lines, to prefetch meanwhile.
    pub(super) next: [&'a [u8]; 2],
}

/// Calls `each(row, pair, sums)` for every row of `a` and each pair of panels; `sums` is `[32]`.
pub(super) fn for_tiles<K: Kernel>(
    kernel: &mut K,
    a: &CpuActs,
    w: &PlainPanels,
    pairs: Range<usize>,
    mut each: impl FnMut(usize, usize, &[f32; TILE]),
) {
    let elements = K::elements(a);
    let stride = a.stride / K::ELEMENT_K;
    SUMS.with_borrow_mut(|sums| {
        for first_row in (0..a.len).step_by(K::BLOCK_ROWS) {
            let rows = K::BLOCK_ROWS.min(a.len - first_row);
            for first_pair in pairs.clone().step_by(BLOCK_PAIRS) {
                let pairs = first_pair..pairs.end.min(first_pair + BLOCK_PAIRS);
                if sums.len() < rows * pairs.len() {
                    sums.resize(rows * pairs.len(), [0.0; TILE]);
                }
                let block = Block {
                    a: &elements[first_row * stride..],
                    stride,
                    rows,
                    w,
                    pairs: pairs.clone(),
                };
                block.multiply(kernel, sums);
                for (i, sums) in sums[..rows * pairs.len()].iter().enumerate() {
                    let (row, pair) = (i / pairs.len(), i % pairs.len());
                    each(first_row + row, first_pair + pair, sums);
                }
            }
        }
    });
}

/// Some rows times some pairs of panels.
struct Block<'a, T> {
    a: &'a [T],
    stride: usize,
    rows: usize,
    w: &'a PlainPanels,
    pairs: Range<usize>,
}

impl<T> Block<'_, T> {
    /// Fills `sums` (`[rows, pairs]`).
    fn multiply<K: Kernel<Element = T>>(&self, kernel: &mut K, sums: &mut [[f32; TILE]]) {
        let w = self.w;
        if w.lines == 0 {
            sums.fill([0.0; TILE]);
        }
        let lines = K::block_lines(self.rows, w).max(1);
        for first in (0..w.lines).step_by(lines) {
            for (at, pair) in self.pairs.clone().enumerate() {
                let next = if at + 1 < self.pairs.len() {
                    w.panels(pair + 1, first, lines)
                } else {
                    w.panels(self.pairs.start, first + lines, lines)
                };
                let strip = Strip {
                    a: &self.a[first * w.line_k() / K::ELEMENT_K..],
                    stride: self.stride,
                    rows: self.rows,
                    panels: w.panels(pair, first, lines),
                    dtype: w.dtype,
                    first: first == 0,
                    next,
                };
                kernel.multiply(&strip, &mut sums[at..], self.pairs.len());
            }
        }
    }
}
