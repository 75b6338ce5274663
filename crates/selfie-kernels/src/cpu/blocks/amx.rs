//! Tiles with AMX and its integer dot product: sixteen rows by a pair of panels, for passes of many rows.
//!
//! A line of a panel holds four steps of k for sixteen columns. That is one row of a weight tile, so the eight lines of
//! 32 values are a tile as soon as their codes are bytes. Codes are unpacked into a buffer once for many rows. The
//! operand's codes are a tile as they lie.
//!
//! The integers leave the tiles after each scale, that is, after 32 values, or 16 in Q6_K. Adding them up, in the order
//! of the other paths, is plain Rust: the tile instructions are all that this file needs beyond it.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::ops::Range;

use super::decode::{Line, STEPS, lines, scaling};
use super::{BlockPanels, Operand, OperandBlock};
use crate::cpu::gemm::TILE;
use crate::cpu::pack::PANEL;
use crate::cpu::simd::{AmxInt8, Isa, Loop, Simd};
use crate::cpu::tiles::{self, Shape, Tiles};

/// From this many rows on, tiles are used. Not measured: two full tiles of rows should pay for the buffer.
pub(super) const FEWEST_ROWS: usize = 2 * tiles::ROWS;

/// Rows that share unpacked codes.
const STRIP_ROWS: usize = 256;

/// Groups that are unpacked at a time. Their 22 KiB stay in an L1 cache of 48 KiB, beside the 12 KiB of a tile's rows.
const GROUPS: usize = 16;

/// 32 values of k for a pair of panels.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Group {
    /// The codes of each panel.
    lines: [[Line; STEPS]; 2],
    /// The factors of both halves.
    scales: [[f32; TILE]; 2],
    min: [f32; TILE],
}

/// Sums of integers for a tile of rows.
type Dots = Aligned<[[i32; TILE]; tiles::ROWS]>;

/// Values that begin a cache line.
#[repr(C, align(64))]
struct Aligned<T>(T);

/// [`for_tiles`](super::for_tiles) with tiles. Not inlined, because passes of few rows do not need its buffers.
#[inline(never)]
pub(super) fn for_tiles(
    isa: Isa,
    proof: AmxInt8,
    a: Operand<'_>,
    w: &BlockPanels,
    pairs: Range<usize>,
    mut each: impl FnMut(usize, usize, &[f32; TILE]),
) {
    let stride = w.blocks();
    let mut registers = Registers::new(proof);
    let mut groups = [Group::ZERO; GROUPS];
    let mut sums = Aligned([[0.0; TILE]; STRIP_ROWS]);
    for pair in pairs {
        for row in (0..a.rows).step_by(STRIP_ROWS) {
            let sums = &mut sums.0[..STRIP_ROWS.min(a.rows - row)];
            sums.fill([0.0; TILE]);
            for first in (0..stride).step_by(GROUPS) {
                isa.run(Strip {
                    registers: &mut registers,
                    w,
                    pair,
                    first,
                    groups: &mut groups[..GROUPS.min(stride - first)],
                    a: &a.blocks[row * stride + first..],
                    sums,
                });
            }
            for (r, sums) in sums.iter().enumerate() {
                each(row + r, pair, sums);
            }
        }
    }
}

/// Some rows times some groups of a pair of panels.
struct Strip<'a> {
    registers: &'a mut Registers,
    w: &'a BlockPanels,
    pair: usize,
    /// The first group.
    first: usize,
    /// Where groups are unpacked.
    groups: &'a mut [Group],
    /// The operand, from the first row's first group on.
    a: &'a [OperandBlock],
    /// One for each row; the products are added.
    sums: &'a mut [[f32; TILE]],
}

impl Loop for Strip<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let stride = self.w.blocks();
        let layout = self.w.layout();
        for (i, group) in self.groups.iter_mut().enumerate() {
            group.unpack(self.w, self.pair, self.first + i);
        }
        let mut dots = Aligned([[0; TILE]; tiles::ROWS]);
        for (tile, sums) in self.sums.chunks_mut(tiles::ROWS).enumerate() {
            let a = &self.a[tile * tiles::ROWS * stride..];
            for (i, group) in self.groups.iter().enumerate() {
                let rows = Rows {
                    blocks: &a[i..],
                    stride,
                    n: sums.len(),
                };
                if layout.has_halves() {
                    for half in 0..2 {
                        let steps = half * STEPS / 2..(half + 1) * STEPS / 2;
                        self.registers
                            .multiply(rows, &group.lines, steps, &mut dots);
                        for ((sums, dots), a) in sums.iter_mut().zip(&dots.0).zip(rows.iter()) {
                            *sums = fold(*sums, dots, a.starts[half], &group.scales[half], a.scale);
                        }
                    }
                } else {
                    self.registers
                        .multiply(rows, &group.lines, 0..STEPS, &mut dots);
                    for ((sums, dots), a) in sums.iter_mut().zip(&dots.0).zip(rows.iter()) {
                        let start = a.starts[0] + a.starts[1];
                        let mut new = fold(*sums, dots, start, &group.scales[0], a.scale);
                        if layout.has_min() {
                            for (sum, min) in new.iter_mut().zip(&group.min) {
                                *sum += min * a.sum;
                            }
                        }
                        *sums = new;
                    }
                }
            }
        }
    }
}

/// Adds the products of 16 or 32 values of a row. By value, so that the compiler need not look for overlaps.
#[inline(always)]
fn fold(
    mut sums: [f32; TILE],
    dots: &[i32; TILE],
    start: i32,
    scales: &[f32; TILE],
    a: f32,
) -> [f32; TILE] {
    for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scales) {
        *sum += (start + dot) as f32 * (scale * a);
    }
    sums
}

impl Group {
    const ZERO: Self = Self {
        lines: [[[0; 4 * PANEL]; STEPS]; 2],
        scales: [[0.0; TILE]; 2],
        min: [0.0; TILE],
    };

    #[inline(always)]
    fn unpack(&mut self, w: &BlockPanels, pair: usize, block: usize) {
        for half in 0..2 {
            let panel = 2 * pair + half;
            let columns = half * PANEL..(half + 1) * PANEL;
            self.lines[half] = lines(w.layout().bits, w.codes(panel, block));
            let scaling = scaling(w, panel, block);
            for (scales, of_panel) in self.scales.iter_mut().zip(&scaling.halves) {
                scales[columns.clone()].copy_from_slice(of_panel);
            }
            self.min[columns].copy_from_slice(&scaling.min);
        }
    }
}

/// One group of the rows of a tile.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// From the first row's block on.
    blocks: &'a [OperandBlock],
    /// Blocks from one row to the next.
    stride: usize,
    n: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn iter(self) -> impl Iterator<Item = &'a OperandBlock> {
        self.blocks.iter().step_by(self.stride).take(self.n)
    }
}

/// The tile registers, and what they are configured for.
struct Registers {
    _proof: AmxInt8,
    tiles: Tiles,
    /// Rows, and steps of four values; 0 before the first tile.
    size: (usize, usize),
}

impl Registers {
    fn new(proof: AmxInt8) -> Self {
        Self {
            _proof: proof,
            tiles: Tiles::new(proof.bf16()),
            size: (0, 0),
        }
    }

    /// Registers 0 and 1 hold sums, 2 the operand, 3 and 4 the weights.
    fn configure(&mut self, rows: usize, steps: usize) {
        if self.size == (rows, steps) {
            return;
        }
        let sums = Shape {
            rows,
            bytes: 4 * PANEL,
        };
        let operand = Shape {
            rows,
            bytes: 4 * steps,
        };
        let weights = Shape {
            rows: steps,
            bytes: 4 * PANEL,
        };
        self.tiles
            .configure([sums, sums, operand, weights, weights]);
        self.size = (rows, steps);
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    /// Sums the products of some steps of a group.
    #[inline(always)]
    fn multiply(
        &mut self,
        rows: Rows<'_>,
        lines: &[[Line; STEPS]; 2],
        steps: Range<usize>,
        dots: &mut Dots,
    ) {
        const PANEL_BYTES: usize = size_of::<[Line; STEPS]>();
        assert!(
            (1..=tiles::ROWS).contains(&rows.n) && (rows.n - 1) * rows.stride < rows.blocks.len()
        );
        assert!(steps.start < steps.end && steps.end <= STEPS);
        self.configure(rows.n, steps.len());
        // SAFETY: the proof shows that tiles of bytes are present and allowed. The assertions bound the blocks of the
        // rows, whose codes come first, and the steps of both panels. There are 16 rows of sums, 128 bytes each.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm2, [{a} + {stride}]",
                "tileloadd tmm3, [{w} + {line}]",
                "tdpbsud tmm0, tmm2, tmm3",
                "tileloadd tmm4, [{w} + {line} + {panel}]",
                "tdpbsud tmm1, tmm2, tmm4",
                "tilestored [{dots} + {row}], tmm0",
                "tilestored [{dots} + {row} + 64], tmm1",
                a = in(reg) rows.blocks.as_ptr().cast::<u8>().add(4 * steps.start),
                stride = in(reg) rows.stride * size_of::<OperandBlock>(),
                w = in(reg) lines.as_ptr().cast::<Line>().add(steps.start),
                line = in(reg) size_of::<Line>(),
                panel = const PANEL_BYTES,
                dots = in(reg) dots.0.as_mut_ptr(),
                row = in(reg) size_of::<[i32; TILE]>(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
                options(nostack),
            );
        }
    }
}

/// On other targets the proof cannot be constructed, so nothing calls this.
#[cfg(not(target_arch = "x86_64"))]
impl Registers {
    fn multiply(&mut self, _: Rows<'_>, _: &[[Line; STEPS]; 2], _: Range<usize>, _: &mut Dots) {}
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests {
    use super::*;
    use crate::cpu::blocks::{self, quantize_rows};
    use crate::cpu::pages::Pages;
    use crate::cpu::threads::Threads;
    use crate::reference::BlockMatrix;
    use crate::{BlockFormat, CpuPath};

    fn values(seed: u32, n: usize) -> Vec<f32> {
        let mut state = seed;
        let value = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(value).collect()
    }

    /// The operand `[rows, k]`. Some rows are not finite, some are zeros.
    fn operand(rows: usize, k: usize) -> Vec<f32> {
        let mut a = values(1, rows * k);
        for (i, row) in a.chunks_exact_mut(k).enumerate() {
            match i % 9 {
                3 => row[i % k] = f32::NAN,
                5 => row[i % k] = f32::NEG_INFINITY,
                7 => row.fill(0.0),
                _ => {}
            }
        }
        a
    }

    /// The bits of all sums. `run` must call the closure once for each row and pair.
    fn bits(
        rows: usize,
        pairs: usize,
        run: impl FnOnce(&mut dyn FnMut(usize, usize, &[f32; TILE])),
    ) -> Vec<[u32; TILE]> {
        let mut all = vec![None; rows * pairs];
        run(&mut |row, pair, sums| {
            let before = all[row * pairs + pair].replace(sums.map(f32::to_bits));
            assert!(before.is_none(), "row {row} came twice");
        });
        all.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn the_bits_are_those_of_plain_rust() {
        let proof = AmxInt8::new_or_emulated();
        let threads = Threads::new(1).unwrap();
        let isas: Vec<_> = CpuPath::available()
            .into_iter()
            .filter_map(Isa::new)
            .collect();
        // Rows, k and columns: tiles of all heights, padding, several blocks of k, several strips.
        let mut shapes: Vec<_> = (1..=33).map(|rows| (rows, 256, 40)).collect();
        shapes.extend([(33, 1000, 16), (40, 32, 1), (70, 4352, 70), (300, 608, 33)]);
        for format in BlockFormat::ALL {
            for &(rows, k, out) in &shapes {
                let w = BlockMatrix::quantize(format, k, &values(2, out * k));
                let w = BlockPanels::pack(&Pages::default(), &[&w], format).unwrap();
                let mut blocks = vec![OperandBlock::default(); rows * w.blocks()];
                let (a, offset) = (operand(rows, k), w.layout().offset);
                quantize_rows(Isa::PORTABLE, &threads, &a, k, k, offset, &mut blocks);
                let a = Operand {
                    blocks: &blocks,
                    rows,
                };
                let pairs = out.div_ceil(TILE);
                let want = bits(rows, pairs, |each| {
                    blocks::for_tiles(Isa::PORTABLE, a, &w, 0..pairs, each);
                });
                for &isa in &isas {
                    let got = bits(rows, pairs, |each| {
                        for_tiles(isa, proof, a, &w, 0..pairs, each)
                    });
                    assert!(
                        got == want,
                        "{format} on {isa:?}: {rows} rows, [{out}, {k}]"
                    );
                }
            }
        }
    }
}
