//! Tiles with AMX: 32 rows by a pair of panels, bf16 in, f32 sums.
//!
//! A tile register holds 16 rows of 64 bytes. `tdpbf16ps` multiplies a `[16, 32]` operand tile with a `[32, 16]` weight
//! tile and adds the product to `[16, 16]` sums. Sixteen packed lines of a panel are a weight tile as they lie. Two
//! operand tiles and two weight tiles feed four tiles of sums, so that each load is used twice (Intel's optimization
//! manual, chapter 20).

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

use super::blocks::{Kernel, Strip};
use super::{CpuActs, PlainPanels, TILE};
use crate::cpu::simd::AmxBf16;
use crate::cpu::tiles::{self, Shape, Tiles};

/// Rows of a tile register.
const HALF: usize = tiles::ROWS;

/// Rows of a tile.
const TILE_ROWS: usize = 2 * HALF;

/// Lines of a block: 2 x 8 KiB of weights. They stay in an L1 cache of 48 KiB beside the 16 KiB of a tile's rows that
/// stream through it.
const BLOCK_LINES: usize = 8 * HALF;

impl Kernel for Registers {
    type Element = u32;

    const ELEMENT_K: usize = 2;

    fn elements(a: &CpuActs) -> &[u32] {
        a.values.pairs()
    }

    const BLOCK_ROWS: usize = 512;

    fn block_lines(rows: usize, w: &PlainPanels) -> usize {
        match rows {
            0..=TILE_ROWS => w.lines,
            _ => BLOCK_LINES,
        }
    }

    fn multiply(&mut self, strip: &Strip<'_, u32>, sums: &mut [[f32; TILE]], sums_stride: usize) {
        let tiles = strip.rows.div_ceil(TILE_ROWS);
        for (i, row) in (0..strip.rows).step_by(TILE_ROWS).enumerate() {
            // A single tile takes all lines in one go; the hardware prefetches them.
            if tiles > 1 {
                strip.next.iter().for_each(|panel| fetch(panel, i, tiles));
            }
            self.tile(Tile {
                a: &strip.a[row * strip.stride..],
                stride: strip.stride,
                rows: TILE_ROWS.min(strip.rows - row),
                panels: strip.panels,
                first: strip.first,
                sums: &mut sums[row * sums_stride..],
                sums_stride,
            });
        }
    }
}

/// Up to 32 rows times a block of a pair of panels.
struct Tile<'a> {
    /// The operand, from the tile's first value on.
    a: &'a [u32],
    stride: usize,
    rows: usize,
    /// A multiple of 16 lines of each panel.
    panels: [&'a [u8]; 2],
    /// Whether the sums begin here; otherwise the tile adds to them.
    first: bool,
    /// Row `i` is at `i * sums_stride`.
    sums: &'a mut [[f32; TILE]],
    sums_stride: usize,
}

/// The tile registers, and what they are configured for.
pub(super) struct Registers {
    tiles: Tiles,
    /// The number of rows they are configured for; 0 before the first tile.
    rows: usize,
}

impl Registers {
    pub(super) fn new(proof: AmxBf16) -> Self {
        Self {
            tiles: Tiles::new(proof),
            rows: 0,
        }
    }

    /// Registers 0 and 1 (the first rows), 2 and 3 hold sums; 4 and 5 the operand; 6 and 7 the weights.
    fn configure(&mut self, rows: usize) {
        if self.rows == rows {
            return;
        }
        let first = rows.min(HALF);
        // A register cannot have 0 rows. With up to 16 rows, nothing uses those of the second half.
        let second = rows.saturating_sub(HALF).max(1);
        let heights = [first, first, second, second, first, second, HALF, HALF];
        let bytes = tiles::BYTES;
        self.tiles
            .configure(heights.map(|rows| Shape { rows, bytes }));
        self.rows = rows;
    }
}

#[cfg(target_arch = "x86_64")]
impl Registers {
    fn tile(&mut self, tile: Tile<'_>) {
        let Tile { rows, panels, .. } = tile;
        let steps = panels[0].len() / (HALF * 64);
        assert!((1..=TILE_ROWS).contains(&rows) && steps > 0);
        assert!((rows - 1) * tile.stride + steps * HALF <= tile.a.len());
        assert!((rows - 1) * tile.sums_stride < tile.sums.len());
        assert!(panels[0].len() == panels[1].len());
        self.configure(rows);
        let second = rows.min(HALF);
        let sums = tile.sums.as_mut_ptr();
        let strides = (
            tile.stride * size_of::<u32>(),
            tile.sums_stride * size_of::<[f32; TILE]>(),
        );
        let add = u64::from(!tile.first);
        // SAFETY: the proof shows that tiles are present and allowed. The assertions bound the rows of the operand and
        // of the sums, and the lines of both panels. Addresses of the second half are used only if it has rows.
        unsafe {
            let a = tile.a.as_ptr().cast::<u8>();
            let [b0, b1] = panels.map(<[u8]>::as_ptr);
            if rows > HALF {
                asm!(
                    "test {add}, {add}",
                    "jnz 3f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "jmp 2f",
                    "3:",
                    "tileloadd tmm0, [{c0} + {cs}]",
                    "tileloadd tmm1, [{c0} + {cs} + 64]",
                    "tileloadd tmm2, [{c1} + {cs}]",
                    "tileloadd tmm3, [{c1} + {cs} + 64]",
                    "2:",
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tileloadd tmm4, [{a0} + {stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b1} + {line}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {stride}]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a0}, 64",
                    "add {a1}, 64",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c0} + {cs}], tmm0",
                    "tilestored [{c0} + {cs} + 64], tmm1",
                    "tilestored [{c1} + {cs}], tmm2",
                    "tilestored [{c1} + {cs} + 64], tmm3",
                    a0 = inout(reg) a => _,
                    a1 = inout(reg) a.add(second * strides.0) => _,
                    b0 = inout(reg) b0 => _,
                    b1 = inout(reg) b1 => _,
                    steps = inout(reg) steps => _,
                    c0 = in(reg) sums,
                    c1 = in(reg) sums.add(second * tile.sums_stride),
                    stride = in(reg) strides.0,
                    cs = in(reg) strides.1,
                    line = in(reg) 64usize,
                    add = in(reg) add,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            } else {
                asm!(
                    "test {add}, {add}",
                    "jnz 3f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "jmp 2f",
                    "3:",
                    "tileloadd tmm0, [{c0} + {cs}]",
                    "tileloadd tmm1, [{c0} + {cs} + 64]",
                    "2:",
                    "tileloadd tmm4, [{a0} + {stride}]",
                    "tileloadd tmm6, [{b0} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b1} + {line}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "add {a0}, 64",
                    "add {b0}, 1024",
                    "add {b1}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c0} + {cs}], tmm0",
                    "tilestored [{c0} + {cs} + 64], tmm1",
                    a0 = inout(reg) a => _,
                    b0 = inout(reg) b0 => _,
                    b1 = inout(reg) b1 => _,
                    steps = inout(reg) steps => _,
                    c0 = in(reg) sums,
                    stride = in(reg) strides.0,
                    cs = in(reg) strides.1,
                    line = in(reg) 64usize,
                    add = in(reg) add,
                    out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}

/// Prefetches one of `parts` parts of some lines into the L2 cache.
#[cfg(target_arch = "x86_64")]
fn fetch(lines: &[u8], part: usize, parts: usize) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    let lines = lines.as_chunks::<64>().0;
    for line in &lines[lines.len() * part / parts..lines.len() * (part + 1) / parts] {
        // SAFETY: every x86-64 CPU has this instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_lines: &[u8], _part: usize, _parts: usize) {}

/// On other targets the proof cannot be constructed, so nothing calls this.
#[cfg(not(target_arch = "x86_64"))]
impl Registers {
    fn tile(&mut self, _tile: Tile<'_>) {}
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod tests {
    use half::bf16;

    use super::*;
    use crate::DType;
    use crate::cpu::gemm::blocks;
    use crate::cpu::pages::Pages;
    use crate::cpu::rows::ActValues;
    use crate::cpu::simd::{AmxInt8, Isa};
    use crate::reference::Matrix;

    /// Small integers, whose sums are exact in any order.
    fn integers(seed: usize, n: usize) -> Vec<i16> {
        (0..n)
            .map(|i| ((i + seed) * (i + 7) % 17) as i16 - 8)
            .collect()
    }

    /// Rows `[rows, k]` as pairs of bf16.
    fn operand(a: &[i16], rows: usize, k: usize) -> CpuActs {
        let mut acts = CpuActs::new(Isa::PORTABLE, rows, k, DType::Bf16);
        let mut values = vec![bf16::ZERO; rows * acts.stride];
        for (row, a) in values.chunks_exact_mut(acts.stride).zip(a.chunks_exact(k)) {
            for (value, &a) in row.iter_mut().zip(a) {
                *value = bf16::from_f32(f32::from(a));
            }
        }
        acts.values = ActValues::Bf16(bytemuck::pod_collect_to_vec(&values));
        acts.len = rows;
        acts
    }

    #[test]
    fn products_of_integers_are_exact() {
        let proof = AmxInt8::new_or_emulated().bf16();
        // Tiles of all heights, padding, several blocks of k, several strips of rows.
        let heights = (1..=33).map(|rows| (rows, 40, 33));
        for (rows, k, out) in heights.chain([(64, 32, 1), (70, 1000, 70), (520, 300, 16)]) {
            let (a, w) = (integers(1, rows * k), integers(5, out * k));
            let floats: Vec<f32> = w.iter().map(|&w| f32::from(w)).collect();
            let packed = Matrix::new(DType::Bf16, k, &floats);
            let packed = PlainPanels::pack(&Pages::default(), &[&packed], DType::Bf16).unwrap();
            let acts = operand(&a, rows, k);
            let pairs = out.div_ceil(TILE);
            let mut calls = 0;
            blocks::for_tiles(
                &mut Registers::new(proof),
                &acts,
                &packed,
                0..pairs,
                |row, pair, sums| {
                    calls += 1;
                    let a = &a[row * k..][..k];
                    let columns = w.chunks_exact(k).map(Some).chain(std::iter::repeat(None));
                    for (w, sum) in columns.skip(pair * TILE).zip(sums) {
                        let products = w
                            .into_iter()
                            .flatten()
                            .zip(a)
                            .map(|(w, a)| i32::from(w * a));
                        assert_eq!(
                            *sum,
                            products.sum::<i32>() as f32,
                            "{rows} rows, [{out}, {k}]"
                        );
                    }
                },
            );
            assert_eq!(calls, rows * pairs);
        }
    }
}
