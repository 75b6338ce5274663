//! `head.ptx` and `logit_map.ptx`

use std::f64::consts::LOG2_E;

use crate::gpu::{Arg, File, Launch, Module};

/// Logits that one block reduces.
const CHUNK: u32 = 4096;

/// Bytes of a block's result for its chunk.
pub const PART_BYTES: u64 = 16;

/// Reduces logits to the best token of each row, or to the log-probability of given ones.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// `[n, vocab]`, f32.
    pub logits: u64,
    /// `[n, chunks]` of [`PART_BYTES`].
    pub parts: u64,
    /// `[n]`, u32: the tokens to score; an address of 0 asks for the best ones.
    pub token: u64,
    /// `[n]` of `{u32 token, f32 log-probability}`.
    pub out: u64,
    /// Rows, at most 65535.
    pub n: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
}

impl Head {
    /// Chunks of a vocabulary.
    pub fn chunks(vocab: u32) -> u32 {
        vocab.div_ceil(CHUNK)
    }

    /// The launch that reduces chunks, and the one that merges them.
    pub fn launches(&self) -> [Launch; 2] {
        let chunks = Self::chunks(self.vocab);
        let reduce = Launch {
            module: Module::new(File::Head),
            entry: "head_reduce",
            grid: [chunks, self.n, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.logits),
                Arg::Ptr(self.parts),
                Arg::U32(self.vocab),
                Arg::U32(u32::from(self.vocab.is_multiple_of(4))),
            ],
        };
        let merge = Launch {
            module: Module::new(File::Head),
            entry: "head_merge",
            grid: [self.n, 1, 1],
            block: [super::WARP, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.logits),
                Arg::Ptr(self.parts),
                Arg::Ptr(self.token),
                Arg::Ptr(self.out),
                Arg::U32(self.vocab),
                Arg::U32(chunks),
            ],
        };
        [reduce, merge]
    }
}

/// Turns products with the head into logits, in place.
#[derive(Clone, Copy, Debug)]
pub struct LogitMap {
    /// `[count]`, f32.
    pub logits: u64,
    /// The number of logits.
    pub count: u64,
    /// Factor and cap.
    pub map: crate::LogitMap,
}

impl LogitMap {
    const THREADS: u32 = 256;

    /// The launch. The grid ends at 2^31 blocks, more than a device has memory for.
    pub fn launch(&self) -> Launch {
        let cap = self.map.softcap.unwrap_or(0.0);
        let inner = 2.0 * LOG2_E * f64::from(self.map.scale) / f64::from(cap);
        Launch {
            module: Module::new(File::LogitMap),
            entry: "logit_map",
            grid: [self.count.div_ceil(u64::from(Self::THREADS)) as u32, 1, 1],
            block: [Self::THREADS, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.logits),
                Arg::U64(self.count),
                Arg::F32(self.map.scale),
                Arg::F32(cap),
                Arg::F32(inner as f32),
            ],
        }
    }
}
