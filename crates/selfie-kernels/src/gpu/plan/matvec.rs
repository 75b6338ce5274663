//! `matvec.ptx`

use crate::gpu::{Arg, File, Gemm, Launch, Module, WeightOrder};
use crate::{Activation, DType};

/// Most rows of the batch.
const MAX_ROWS: usize = 16;
/// Rows of the weight, or of the batch, that a tensor core's tile has.
const TILE: u32 = 16;
/// Bytes of the batch, which each block reads again: what a first-level cache holds (A100, H100: 256 KiB with shared
/// memory). On an H200 16 rows of 11008 are slower than cuBLASLt's, 8 are faster.
const MOST_BATCH_BYTES: usize = 200 << 10;
/// Elements of 16 bytes: what a lane loads at once.
const LOAD: usize = 8;
/// Warps that share k.
const WARPS: u32 = 8;
/// Blocks of [`WARPS`] for up to 8 rows that a multiprocessor has room for.
const RESIDENT: u32 = 4;

/// A product of few rows with a weight in 16 bits.
#[derive(Clone, Copy, Debug)]
pub struct Matvec {
    /// The product; `out` is `[m, n]` f32.
    pub gemm: Gemm,
    /// `[n]`, f32, added to each row; 0 for none.
    pub bias: u64,
    /// The device's multiprocessors.
    pub multiprocessors: u32,
}

impl Matvec {
    /// What the rows of a weight are a multiple of where a gated unit is behind its product.
    pub const GATED_STEP: usize = 2 * TILE as usize;

    /// Whether the kernel takes this product: at most 16 rows, which fit a first-level cache together, 16 bits, a row of
    /// the weight for each of at least 16 outputs, and rows aligned to 16 bytes.
    pub fn takes(gemm: &Gemm) -> bool {
        let sizes = [gemm.n, gemm.k].map(u32::try_from);
        gemm.m <= MAX_ROWS
            && gemm.dtype != DType::F32
            && gemm.order == WeightOrder::Outputs
            && 2 * gemm.m * gemm.k <= MOST_BATCH_BYTES
            && gemm.k.is_multiple_of(LOAD)
            && sizes.iter().all(|size| size.is_ok_and(|n| n < 1 << 30))
            && gemm.n >= TILE as usize
            && gemm.a.is_multiple_of(16)
            && gemm.w.is_multiple_of(16)
    }

    /// The launch of a product that the kernel [takes](Self::takes).
    pub fn launch(&self) -> Launch {
        let n = self.gemm.n as u32;
        // Two tiles a warp share the batch's fragments; one, where two would leave multiprocessors without work.
        let tiles = if n.div_ceil(2 * TILE) < RESIDENT * self.multiprocessors {
            1
        } else {
            2
        };
        let mut launch = self.of(tiles, n.div_ceil(tiles * TILE));
        if tiles == 2 {
            launch.args.extend([Arg::U32(TILE), Arg::U32(0)]);
        }
        launch
    }

    /// The same with a gated unit behind it: of the `n` columns the first half are the gate, and `out` is `[m, n /
    /// 2]` of the product's type; `n` is a multiple of [`GATED_STEP`](Self::GATED_STEP). Nothing is accumulated.
    pub fn gated(&self, activation: Activation) -> Launch {
        let half = self.gemm.n as u32 / 2;
        let mut launch = self.of(2, half / TILE);
        let gate = match activation {
            Activation::Silu => 1,
            Activation::GeluTanh => 2,
        };
        launch.args.extend([Arg::U32(half), Arg::U32(gate)]);
        launch
    }

    /// Blocks of `tiles` tiles of the weight.
    fn of(&self, tiles: u32, blocks: u32) -> Launch {
        let Gemm { a, w, out, .. } = self.gemm;
        let [m, n, k] = [self.gemm.m, self.gemm.n, self.gemm.k].map(|size| size as u32);
        let groups = m.div_ceil(8);
        // Where all blocks would take half of the device, twice the warps ask for the weight. Two blocks of so many
        // for 16 rows have no room on a multiprocessor.
        let warps = if groups == 1 && blocks <= RESIDENT / 2 * self.multiprocessors {
            2 * WARPS
        } else {
            WARPS
        };
        let entry = match (tiles, groups) {
            (1, 1) => "matvec_1_8",
            (1, _) => "matvec_1_16",
            (_, 1) => "matvec_2_8",
            _ => "matvec_2_16",
        };
        Launch {
            module: Module::of(File::Matvec, self.gemm.dtype),
            entry,
            grid: [blocks, 1, 1],
            block: [warps * super::WARP, 1, 1],
            shared_bytes: warps * tiles * groups * 512,
            args: vec![
                Arg::Ptr(a),
                Arg::Ptr(w),
                Arg::Ptr(self.bias),
                Arg::Ptr(out),
                Arg::U32(m),
                Arg::U32(n),
                Arg::U32(k),
                Arg::U32(self.gemm.accumulate.into()),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A product on 132 multiprocessors.
    fn plan(m: usize, n: usize, k: usize) -> Matvec {
        let gemm = Gemm {
            a: 1 << 20,
            w: 1 << 24,
            out: 1 << 22,
            m,
            n,
            k,
            dtype: DType::Bf16,
            order: WeightOrder::Outputs,
            accumulate: false,
        };
        assert!(Matvec::takes(&gemm), "{gemm:?}");
        Matvec {
            gemm,
            bias: 0,
            multiprocessors: 132,
        }
    }

    /// The products of a model of 7 billion parameters: 132 multiprocessors have room for 528 blocks of 8 warps.
    #[test]
    fn large_weights_take_two_tiles_a_warp_and_small_ones_more_warps() {
        for (m, n, k, entry, blocks, threads, shared) in [
            (1, 12_288, 4096, "matvec_1_8", 768, 256, 4 << 10),
            (8, 4096, 11_008, "matvec_1_8", 256, 512, 8 << 10),
            (9, 4096, 11_008, "matvec_1_16", 256, 256, 8 << 10),
            (8, 32_000, 4096, "matvec_2_8", 1000, 256, 8 << 10),
            (16, 32_001, 4096, "matvec_2_16", 1001, 256, 16 << 10),
        ] {
            let launch = plan(m, n, k).launch();
            assert_eq!(launch.entry, entry, "{m} x {n}");
            assert_eq!(launch.grid, [blocks, 1, 1], "{m} x {n}");
            assert_eq!(launch.block, [threads, 1, 1], "{m} x {n}");
            assert_eq!(launch.shared_bytes, shared, "{m} x {n}");
        }
    }

    #[test]
    fn a_block_of_a_gated_unit_has_a_tile_of_each_half() {
        let launch = plan(8, 22_016, 4096).gated(Activation::GeluTanh);
        assert_eq!((launch.entry, launch.grid[0]), ("matvec_2_8", 688));
        assert_eq!(launch.args[8..], [Arg::U32(11_008), Arg::U32(2)]);
    }

    #[test]
    fn what_is_not_for_the_kernel_is_left_to_the_driver() {
        let fits = plan(16, 16, 8).gemm;
        for (what, gemm) in [
            ("17 rows", Gemm { m: 17, ..fits }),
            ("15 outputs", Gemm { n: 15, ..fits }),
            ("rows of 24 bytes", Gemm { k: 12, ..fits }),
            (
                "an operand that begins within 16 bytes",
                Gemm { a: 8, ..fits },
            ),
            ("a weight that does", Gemm { w: 8, ..fits }),
            (
                "f32",
                Gemm {
                    dtype: DType::F32,
                    ..fits
                },
            ),
            (
                "a weight that lies across",
                Gemm {
                    order: WeightOrder::Terms,
                    ..fits
                },
            ),
        ] {
            assert!(!Matvec::takes(&gemm), "{what}");
        }
    }
}
