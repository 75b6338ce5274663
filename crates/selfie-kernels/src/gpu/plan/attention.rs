//! `attention_f32.ptx`, `attention_prompt.ptx` and `attention_decode.ptx`

use std::f64::consts::LOG2_E;

use super::{AttentionWork, KvLayer, WARP};
use crate::DType;
use crate::gpu::{Arg, File, Launch, Module};

/// The widest head that there are kernels for.
pub const MAX_HEAD_DIM: u32 = 256;

/// Head dimensions of bf16 and f16 are multiples of this, the depth of a product on the tensor cores.
pub const HEAD_DIM_STEP: u32 = 16;

/// Warps of a block of `attention_f32`, each with a row and head of its own.
const F32_WARPS: u32 = 4;
/// Keys that a block of the other kernels takes at a time.
const TILE_KEYS: u32 = 64;
/// Rows of a tile of `attention_decode`.
const DECODE_ROWS: u32 = 16;
/// Warps of a block of `attention_decode`.
const DECODE_WARPS: u32 = 4;
/// Warps of a block of the merge, each with a row and head of its own.
const MERGE_WARPS: u32 = 4;
/// Keys of a split, where they do not depend on the batch.
const SPLIT_KEYS: u32 = 256;

/// How the context of singles is cut into splits, whose sums are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splits {
    /// Every 256 keys, so that the bits of a row do not depend on the batch.
    Fixed,
    /// So that there are two blocks for each of the device's multiprocessors, if the context is long enough.
    Fill {
        /// The device's multiprocessors.
        multiprocessors: u32,
    },
}

/// Attention of a batch at one layer.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// `[n, (heads + 2 kv_heads) * head_dim]`, f32; the queries come first, rotated.
    pub qkv: u64,
    /// `[n, heads * head_dim]`, of the cache's dtype.
    pub out: u64,
    /// `[n]`, u32: the slot of each row.
    pub slot: u64,
    /// `[n]`, u32: the position of each row.
    pub position: u64,
    /// The words of `rows`.
    pub words: u64,
    /// [`scratch_bytes`](Self::scratch_bytes) that are this layer's alone while it runs; may be 0 for 0 bytes.
    pub scratch: u64,
    /// The rows of the batch, as they were sorted.
    pub rows: &'a AttentionWork,
    /// Rows of the batch, at least 1.
    pub n: u32,
    /// Query heads.
    pub heads: u32,
    /// The cache; its head dimension is at most [`MAX_HEAD_DIM`], and a multiple of [`HEAD_DIM_STEP`] unless
    /// its elements are f32.
    pub kv: KvLayer,
    /// How long contexts are cut.
    pub splits: Splits,
}

impl Attention<'_> {
    /// The launches, in their order; together they write each row of `out` once.
    pub fn launches(&self) -> Vec<Launch> {
        if self.kv.dtype == DType::F32 {
            return vec![self.f32()];
        }
        let mut launches = Vec::new();
        if self.rows.runs() > 0 {
            launches.push(self.prompt());
        }
        if self.rows.singles() > 0 {
            launches.extend([self.decode(), self.merge()]);
        }
        launches
    }

    /// Bytes of `scratch`: of each single and head, for each split, the weighted values and the logarithm of
    /// the sum of the weights.
    pub fn scratch_bytes(&self) -> u64 {
        if self.kv.dtype == DType::F32 {
            return 0;
        }
        self.lse_at() + 4 * self.partials()
    }

    fn f32(&self) -> Launch {
        let mut args = self.common();
        args.push(Arg::U32(self.n));
        Launch {
            module: self.module(File::AttentionF32),
            entry: "attention_f32",
            grid: [(self.n * self.heads).div_ceil(F32_WARPS), 1, 1],
            block: [WARP * F32_WARPS, 1, 1],
            shared_bytes: 0,
            args,
        }
    }

    fn prompt(&self) -> Launch {
        // The fewest warps that take the longest run in one tile: the shared memory of a tile goes with them.
        let warp_rows = 16 * warp_tiles(self.kv.head_dim);
        let run = self.rows.longest() * self.group();
        let (warps, entry) = match run.div_ceil(warp_rows) {
            1 => (1, "attention_prompt_1"),
            2 => (2, "attention_prompt_2"),
            _ => (4, "attention_prompt_4"),
        };
        let tiles = run.div_ceil(warps * warp_rows);
        let mut args = self.common();
        args.extend([
            Arg::Ptr(self.words),
            Arg::Ptr(self.words + 4 * self.rows.order_at()),
            Arg::U32(tiles),
        ]);
        Launch {
            module: self.module(File::AttentionPrompt),
            entry,
            grid: [tiles * self.rows.runs(), self.kv.kv_heads, 1],
            block: [WARP * warps, 1, 1],
            shared_bytes: (2 * TILE_KEYS + warps * warp_rows) * stride(self.kv.head_dim),
            args,
        }
    }

    fn decode(&self) -> Launch {
        let singles = self.rows.singles();
        let (keys, [shared, own]) = (self.split_keys(), self.parts());
        let tiles = (singles * self.group()).div_ceil(DECODE_ROWS);
        let group_tiles = self.group().div_ceil(DECODE_ROWS);
        let mut args = self.common();
        args.extend([
            Arg::Ptr(self.words + 4 * self.rows.singles_at()),
            Arg::Ptr(self.scratch),
            Arg::Ptr(self.scratch + self.lse_at()),
            Arg::U32(singles),
            Arg::U32(keys),
            Arg::U32(shared),
            Arg::U32(own),
            Arg::U32(group_tiles),
        ]);
        Launch {
            module: self.module(File::AttentionDecode),
            entry: "attention_decode",
            grid: [
                tiles * shared + singles * group_tiles * own,
                self.kv.kv_heads,
                1,
            ],
            block: [WARP * DECODE_WARPS, 1, 1],
            // Queries, keys and values, and the weights in the operand's type.
            shared_bytes: (DECODE_ROWS + 2 * TILE_KEYS) * stride(self.kv.head_dim)
                + DECODE_ROWS * TILE_KEYS * 2,
            args,
        }
    }

    fn merge(&self) -> Launch {
        let items = self.rows.singles() * self.heads;
        Launch {
            module: self.module(File::AttentionDecode),
            entry: "attention_merge",
            grid: [items.div_ceil(MERGE_WARPS), 1, 1],
            block: [WARP * MERGE_WARPS, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.scratch),
                Arg::Ptr(self.scratch + self.lse_at()),
                Arg::Ptr(self.words + 4 * self.rows.singles_at()),
                Arg::Ptr(self.out),
                Arg::U32(items),
                Arg::U32(self.heads),
                Arg::U32(self.parts().iter().sum()),
            ],
        }
    }

    /// The arguments that all kernels begin with.
    fn common(&self) -> Vec<Arg> {
        let kv = &self.kv;
        let scale = LOG2_E / f64::from(kv.head_dim).sqrt();
        vec![
            Arg::Ptr(self.qkv),
            Arg::Ptr(self.out),
            Arg::Ptr(self.slot),
            Arg::Ptr(self.position),
            Arg::Ptr(kv.seen),
            Arg::Ptr(kv.keys),
            Arg::Ptr(kv.values),
            Arg::U64(kv.own_offset),
            Arg::U32(self.group()),
            Arg::U32(kv.kv_heads),
            Arg::U32(kv.shared),
            Arg::U32(kv.own),
            Arg::F32(scale as f32),
        ]
    }

    fn module(&self, file: File) -> Module {
        Module::of_heads(file, self.kv.dtype, self.kv.head_dim)
    }

    /// Query heads that share a head of keys and values.
    fn group(&self) -> u32 {
        self.heads / self.kv.kv_heads
    }

    fn split_keys(&self) -> u32 {
        let Splits::Fill { multiprocessors } = self.splits else {
            return SPLIT_KEYS;
        };
        let blocks = self.rows.singles() * self.group().div_ceil(DECODE_ROWS) * self.kv.kv_heads;
        let mut keys = 2 * SPLIT_KEYS;
        while keys > TILE_KEYS && self.own_len().div_ceil(keys) * blocks < 2 * multiprocessors {
            keys /= 2;
        }
        keys
    }

    /// The most positions of its own that a single can see.
    fn own_len(&self) -> u32 {
        self.rows.context().min(self.kv.own)
    }

    /// Splits of the shared segment, and of the longest branch.
    fn parts(&self) -> [u32; 2] {
        let keys = self.split_keys();
        let shared = self.rows.context().min(self.kv.shared);
        [shared.div_ceil(keys), self.own_len().div_ceil(keys)]
    }

    /// Sums in `scratch`.
    fn partials(&self) -> u64 {
        let parts: u32 = self.parts().iter().sum();
        u64::from(parts) * u64::from(self.rows.singles()) * u64::from(self.heads)
    }

    /// Where the logarithms begin in `scratch`, in bytes; the weighted values, f32, come first.
    fn lse_at(&self) -> u64 {
        4 * self.partials() * u64::from(self.kv.head_dim)
    }
}

/// Tiles of 16 rows of queries that a warp of `attention_prompt` keeps in registers.
pub(in crate::gpu) fn warp_tiles(head_dim: u32) -> u32 {
    if head_dim > 128 { 1 } else { 2 }
}

/// Bytes of a row of keys or values in shared memory: a power of two, so that rows are told apart by a swizzle of
/// their 16-byte columns.
pub(in crate::gpu) fn stride(head_dim: u32) -> u32 {
    (2 * head_dim).next_power_of_two().max(128)
}
