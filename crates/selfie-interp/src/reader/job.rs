//! What a reader is asked, and what comes of it.

use std::sync::Arc;

use selfie_kernels::{Backend, InjectMode};
use selfie_llama::Decoding;

use crate::Embeddings;

/// An interpretation prompt of a [`Reader`](super::Reader).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PromptId(pub(super) usize);

/// A job of a [`Reader`](super::Reader).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// A text to decode, and what is scored beside it.
pub struct Job<B: Backend> {
    /// The interpretation prompt.
    pub prompt: PromptId,
    /// The vectors that `writes` name.
    pub vectors: Embeddings<B>,
    /// What is written into the prompt; nothing continues it as it is.
    pub writes: Vec<JobWrite>,
    /// How the text is decoded.
    pub decoding: Arc<Decoding>,
    /// What this job is: with the seed and the step it settles each draw.
    pub key: u64,
    /// Whether the text is scored against the prompt as it is, without writes.
    pub clean: bool,
    /// Another text, that is scored under the writes; may be empty.
    pub score: Vec<u32>,
}

/// A write of a job: `vectors[vector]` into the prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobWrite {
    /// The position in the prompt.
    pub position: usize,
    /// The layer at whose input it is written, in 0..n_layers.
    pub layer: usize,
    /// The row of the job's vectors.
    pub vector: usize,
    /// How the two combine.
    pub mode: InjectMode,
    /// The factor of `mode`.
    pub strength: f32,
}

impl<B: Backend> Job<B> {
    /// Whether the rows of its prompt are those of another's, to the bit. What is scored is asked of the rows, so that
    /// only texts without it share them.
    pub(super) fn shares_rows_with(&self, other: &Self) -> bool {
        let same = self.vectors.is_same(&other.vectors) && self.writes == other.writes;
        same && self.prompt == other.prompt && self.score.is_empty() && other.score.is_empty()
    }

    /// The layer that its rows begin at; `None` without writes.
    pub(super) fn first_layer(&self) -> Option<usize> {
        self.writes.iter().map(|write| write.layer).min()
    }

    /// The position that its rows begin at.
    pub(super) fn first_position(&self) -> usize {
        let positions = self.writes.iter().map(|write| write.position);
        positions.min().unwrap_or(0)
    }
}

/// What came of a [`Job`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its text.
    Text(Text),
    /// A logit was NaN or infinite: an activation has overflowed.
    NotFinite,
}

/// A text that a reader wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// Its ids; the last one may be the one that ended it.
    pub new_ids: Vec<u32>,
    /// The log-probability of each, by the logits as they are.
    pub logprobs: Vec<f32>,
    /// Their log-probabilities after the prompt as it is; empty where [`Job::clean`] did not ask.
    pub clean: Vec<f32>,
    /// The log-probabilities of [`Job::score`] under the writes.
    pub scores: Vec<f32>,
}
