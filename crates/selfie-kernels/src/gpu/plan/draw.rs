//! `draw.ptx`

use bytemuck::{Pod, Zeroable};

use crate::TokenDraw;
use crate::gpu::{Arg, File, Launch, Module};

/// Draws a token of each row from its logits.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// `[n, vocab]`, f32.
    pub logits: u64,
    /// `[n]` of 40 bytes: the values of a [`TokenDraw`], in f64 and u32.
    pub draws: u64,
    /// `[n]` of 24 bytes: a token, its logit, the largest logit, and the sum of `e^(logit - largest)` in f64.
    pub out: u64,
    /// Rows.
    pub n: u32,
    /// Tokens of the vocabulary, at most [`MAX_VOCAB`](Self::MAX_VOCAB).
    pub vocab: u32,
}

impl Draw {
    const THREADS: u32 = 512;

    /// The largest vocabulary whose sums are as exact as the kernel takes them to be.
    pub const MAX_VOCAB: u32 = 1 << 19;

    /// The launch.
    pub fn launch(&self) -> Launch {
        Launch {
            module: Module::new(File::Draw),
            entry: "draw",
            grid: [self.n, 1, 1],
            block: [Self::THREADS, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.logits),
                Arg::Ptr(self.draws),
                Arg::Ptr(self.out),
                Arg::U32(self.vocab),
            ],
        }
    }
}

/// A [`TokenDraw`] as the kernel reads it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(in crate::gpu) struct DrawWords {
    inverse_temperature: f64,
    top_p: f64,
    min_p: f64,
    chance: f64,
    top_k: u32,
    unused: u32,
}

impl DrawWords {
    /// The words of a draw from `vocab` tokens.
    pub(in crate::gpu) fn new(draw: &TokenDraw, vocab: u32) -> Self {
        let top_k = u32::try_from(draw.top_k).unwrap_or(vocab);
        Self {
            inverse_temperature: 1.0 / f64::from(draw.temperature),
            top_p: draw.top_p.into(),
            min_p: draw.min_p.into(),
            chance: draw.chance,
            top_k: if top_k == 0 { vocab } else { top_k },
            unused: 0,
        }
    }
}

/// What the kernel writes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(in crate::gpu) struct Drawn {
    /// The token, or [`UNSURE`](Self::UNSURE).
    pub(in crate::gpu) token: u32,
    /// Its logit.
    pub(in crate::gpu) logit: f32,
    /// The largest logit of the row.
    pub(in crate::gpu) largest: f32,
    unused: u32,
    /// The sum of `e^(logit - largest)`; NaN if a logit is not finite.
    pub(in crate::gpu) mass: f64,
}

impl Drawn {
    /// In place of a token that the kernel is not sure of.
    pub(in crate::gpu) const UNSURE: u32 = u32::MAX;
}
