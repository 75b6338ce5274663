//! Jobs for a reader, and their outcomes.

use std::sync::Arc;

use selfie_kernels::{Backend, InjectMode};
use selfie_llama::Decoding;

use crate::Embeddings;

/// The id of an interpretation prompt in a [`Reader`](super::Reader).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PromptId(pub(super) usize);

/// The id of a job in a [`Reader`](super::Reader).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// A text to decode, and what to score beside it.
pub struct Job<B: Backend> {
    /// The interpretation prompt.
    pub prompt: PromptId,
    /// The vectors that `writes` refer to.
    pub vectors: Embeddings<B>,
    /// What to write into the prompt; without writes, the prompt is continued as it is.
    pub writes: Vec<JobWrite>,
    /// How to decode the text.
    pub decoding: Arc<Decoding>,
    /// The identity of the job. With the seed and the step, it determines each draw.
    pub key: u64,
    /// Whether to score the text on the prompt without writes, too.
    pub clean: bool,
    /// Another text to score under the writes; may be empty.
    pub score: Vec<u32>,
}

/// Writes `vectors[vector]` into the prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobWrite {
    /// The position in the prompt.
    pub position: usize,
    /// The layer at whose input to write, in 0..n_layers.
    pub layer: usize,
    /// The index of the job's vector.
    pub vector: usize,
    /// How to combine the vector with the row.
    pub mode: InjectMode,
    /// The strength in `mode`.
    pub strength: f32,
}

impl<B: Backend> Job<B> {
    /// Whether two jobs have the same prompt rows, to the bit. Jobs with a text to score do not share rows, since
    /// scores are computed from the rows themselves.
    pub(super) fn shares_rows_with(&self, other: &Self) -> bool {
        let same = self.vectors.is_same(&other.vectors) && self.writes == other.writes;
        same && self.prompt == other.prompt && self.score.is_empty() && other.score.is_empty()
    }

    /// The layer at which its rows begin; `None` without writes.
    pub(super) fn first_layer(&self) -> Option<usize> {
        self.writes.iter().map(|write| write.layer).min()
    }

    /// The position at which its rows begin.
    pub(super) fn first_position(&self) -> usize {
        let positions = self.writes.iter().map(|write| write.position);
        positions.min().unwrap_or(0)
    }
}

/// The outcome of a [`Job`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The finished text.
    Text(Text),
    /// A logit was NaN or infinite: an activation overflowed.
    NotFinite,
}

/// A generated text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The generated ids; the last one may be the one that ended the text.
    pub new_ids: Vec<u32>,
    /// The log-probability of each id, from the unmodified logits.
    pub logprobs: Vec<f32>,
    /// The log-probabilities of the ids after the prompt without writes; empty unless [`Job::clean`] is set.
    pub clean: Vec<f32>,
    /// The log-probabilities of [`Job::score`] under the writes.
    pub scores: Vec<f32>,
}
