//! `matvec.ptx`

use crate::gpu::{Arg, File, Gemm, Launch, Module, WeightOrder};
use crate::{Activation, DType};

/// Most rows of the batch.
const MAX_ROWS: usize = 16;
/// Rows of the weight, or of the batch, that a tensor core's tile has.
const TILE: u32 = 16;
/// Elements of 16 bytes: what a lane loads at once.
const LOAD: usize = 8;
/// Warps that share k, at least.
const WARPS: u32 = 8;
/// Blocks of [`WARPS`] that a multiprocessor has room for.
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

    /// Whether the kernel takes this product: at most 16 rows, 16 bits, a row of the weight for each output, and rows aligned
    /// to 16 bytes.
    pub fn takes(gemm: &Gemm) -> bool {
        let sizes = [gemm.n, gemm.k].map(u32::try_from);
        gemm.m <= MAX_ROWS
            && gemm.dtype != DType::F32
            && gemm.order == WeightOrder::Outputs
            && gemm.k.is_multiple_of(LOAD)
            && sizes.iter().all(|size| size.is_ok_and(|n| n < 1 << 30))
            && gemm.n >= TILE as usize
            && gemm.a.is_multiple_of(16)
            && gemm.w.is_multiple_of(16)
    }

    /// The launch of a product that the kernel [takes](Self::takes). How sums are cut depends on `n`, `k` and the device.
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

    /// The same with a gated unit behind it: of the `n` columns the first half are the gate, and `out` is
    /// `[m, n / 2]` of the product's type; `n` is a multiple of [`GATED_STEP`](Self::GATED_STEP). Nothing is accumulated.
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
        // Where there are few blocks, more warps ask for what there is of the weight.
        let warps = if blocks <= RESIDENT / 2 * self.multiprocessors {
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
