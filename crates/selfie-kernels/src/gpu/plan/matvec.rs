//! `matvec.ptx`

use crate::gpu::{Arg, File, Gemm, Launch, Module, WeightOrder};
use crate::{Activation, DType};

/// The most rows of a batch.
const MAX_ROWS: usize = 16;
/// Rows of the weight, or of the batch, in a tensor core's tile.
const TILE: u32 = 16;
/// The most bytes of the batch, which each block reads again: an L1 cache must hold them (A100, H100: 256 KiB with
/// shared memory). On an H200, 16 rows of 11008 are slower than cuBLASLt's product, and 8 are faster.
const MOST_BATCH_BYTES: usize = 200 << 10;
/// Elements in 16 bytes: one load of a lane.
const LOAD: usize = 8;
/// Warps that share k.
const WARPS: u32 = 8;
/// Blocks of [`WARPS`] for up to 8 rows that fit a multiprocessor at a time.
const RESIDENT: u32 = 4;

/// A product of few rows with a 16-bit weight.
#[derive(Clone, Copy, Debug)]
pub struct Matvec {
    /// The product; `out` is `[m, n]`.
    pub gemm: Gemm,
    /// `[n]`, f32, added to each row; 0 for none.
    pub bias: u64,
    /// The device's multiprocessors.
    pub multiprocessors: u32,
}

impl Matvec {
    /// The rows of a weight are a multiple of this if a gated unit follows its product.
    pub const GATED_STEP: usize = 2 * TILE as usize;

    /// Whether the kernel takes this product. The operands are 16-bit, and it adds to f32 only. The batch has at most
    /// 16 rows, which fit an L1 cache together. The weight has a row for each of at least 16 outputs. Rows are aligned
    /// to 16 bytes.
    pub fn takes(gemm: &Gemm) -> bool {
        let sizes = [gemm.n, gemm.k].map(u32::try_from);
        gemm.m <= MAX_ROWS
            && gemm.dtype != DType::F32
            && (gemm.out_dtype == DType::F32 || !gemm.accumulate)
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
        // Two tiles of a warp share the batch's fragments; one tile, if two would leave multiprocessors without work.
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

    /// The product followed by a gated unit. The first half of the `n` columns is the gate, and `out` is `[m, n / 2]`
    /// of the product's dtype. `n` is a multiple of [`GATED_STEP`](Self::GATED_STEP). Nothing is accumulated.
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

    /// The launch of blocks that take `tiles` tiles of the weight each.
    fn of(&self, tiles: u32, blocks: u32) -> Launch {
        let Gemm { a, w, out, .. } = self.gemm;
        let [m, n, k] = [self.gemm.m, self.gemm.n, self.gemm.k].map(|size| size as u32);
        let groups = m.div_ceil(8);
        // If all blocks would take half of the device, twice as many warps request the weight. For 16 rows, two such
        // blocks do not fit a multiprocessor.
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
                Arg::U32(u32::from(self.gemm.out_dtype != DType::F32)),
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
            out_dtype: DType::F32,
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

    /// The products of a model of 7 billion parameters. 132 multiprocessors have room for 528 blocks of 8 warps.
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
        assert_eq!(launch.args[9..], [Arg::U32(11_008), Arg::U32(2)]);
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
                "a sum with 16-bit rows",
                Gemm {
                    out_dtype: DType::Bf16,
                    accumulate: true,
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
