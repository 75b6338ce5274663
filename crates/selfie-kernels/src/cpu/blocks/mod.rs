//! Products with weights in blocks.
//!
//! The operand is rounded too: each 32 values of a row become 8-bit codes with an f32 scale (`operand.rs`). A block's
//! product is then a sum of small integers, which is exact in any order, times two scales. Every path adds these
//! products in order of k with the same f32 operations, so all paths give the same bits.
//!
//! One arithmetic serves passes of any width. Widening blocks to bf16 for wide passes would round differently from the
//! integer sums for few rows, and a row would then depend on its batch. It would not be faster either: an integer
//! instruction does twice the work of a bf16 one, and the rows of a tile share the unpacking of the codes.

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod amx;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod avx2;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod avx512;
mod decode;
mod operand;
mod pack;
mod portable;

use std::ops::Range;

use super::gemm::TILE;
use super::pack::PANEL;
use super::simd::{Amx, Isa};
pub(super) use operand::{OperandBlock, quantize_rows};
pub(super) use pack::BlockPanels;

/// Rows of a block operand, `[n, blocks]`.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) blocks: &'a [OperandBlock],
    pub(super) rows: usize,
}

/// Most rows of a tile.
const MOST_ROWS: usize = 12;

/// How far ahead, in bytes, to prefetch codes into the L2 cache. The L1 cache can wait for too few lines at a time, and
/// a block's work is too long for the hardware to look ahead by itself. Past the end a prefetch does nothing, or
/// fetches lines that are not needed.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
const AHEAD: usize = 4096;

/// Sums of a tile, `[rows, 32]`.
type Sums = [[f32; TILE]; MOST_ROWS];

/// Some rows and one panel of the weights.
struct Tile<'a> {
    w: &'a BlockPanels,
    panel: usize,
    /// `[rows, stride]`
    a: &'a [OperandBlock],
    rows: usize,
    /// Blocks of a row.
    stride: usize,
}

/// Calls `each(row, pair, sums)` with the sums `[32]` of every row times each pair of panels.
pub(super) fn for_tiles(
    isa: Isa,
    a: Operand<'_>,
    w: &BlockPanels,
    pairs: Range<usize>,
    mut each: impl FnMut(usize, usize, &[f32; TILE]),
) {
    if let Isa::Amx(Amx {
        int8: Some(int8), ..
    }) = isa
        && a.rows >= amx::FEWEST_ROWS
    {
        return amx::for_tiles(isa, int8, a, w, pairs, each);
    }
    let most = match isa {
        Isa::Avx512(_) | Isa::Amx(_) => avx512::ROWS,
        Isa::Avx2(_) => avx2::ROWS,
        Isa::Portable(_) => portable::ROWS,
    };
    let stride = w.blocks();
    let mut sums: Sums = [[0.0; TILE]; MOST_ROWS];
    for pair in pairs {
        let mut row = 0;
        let mut tiles = a.rows.div_ceil(most);
        while row < a.rows {
            // Tiles of nearly equal height.
            let rows = (a.rows - row).div_ceil(tiles);
            for half in 0..2 {
                let tile = Tile {
                    w,
                    panel: 2 * pair + half,
                    a: &a.blocks[row * stride..][..rows * stride],
                    rows,
                    stride,
                };
                multiply(isa, &tile, &mut sums, half * PANEL);
            }
            for (r, sums) in sums[..rows].iter().enumerate() {
                each(row + r, pair, sums);
            }
            row += rows;
            tiles -= 1;
        }
    }
}

/// Writes the tile's sums, from column `at` on.
fn multiply(isa: Isa, tile: &Tile<'_>, sums: &mut Sums, at: usize) {
    match isa {
        Isa::Avx512(s) | Isa::Amx(Amx { avx512: s, .. }) => avx512::multiply(s, tile, sums, at),
        Isa::Avx2(s) => avx2::multiply(s, tile, sums, at),
        Isa::Portable(_) => portable::multiply(tile, sums, at),
    }
}
