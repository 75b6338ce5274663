//! The input and output of a session's passes, as data.

use std::ops::Range;

use selfie_kernels::{Backend, Best, DType, KvLayout, Slot};

use crate::cache::KvCache;
use crate::{Llama, Sampling, Write};

/// The capacity of a [`Session`](crate::Session).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSize {
    /// The capacity of each prefix that slots can share, in positions.
    pub prefixes: Vec<usize>,
    /// Sequences at the same time.
    pub slots: usize,
    /// A slot's own positions, after those it shares, for each layer: `[n_layers]`.
    pub own: Vec<usize>,
    /// Positions of the longest sequence, shared ones included.
    pub positions: usize,
    /// Rows of a pass. Longer passes run in pieces.
    pub rows: usize,
    /// The dtype of keys and values: at first that of the model ([`Llama::kv_dtype`]).
    pub kv: DType,
}

impl SessionSize {
    /// Room for `slots` sequences of up to `positions` tokens each, and no prefixes.
    pub fn new<B: Backend>(model: &Llama<B>, slots: usize, positions: usize) -> Self {
        Self {
            prefixes: Vec::new(),
            slots,
            own: vec![positions; model.config().n_layers],
            positions,
            rows: model
                .backend()
                .pass_rows()
                .min(slots * positions)
                .max(slots),
            kv: model.kv_dtype(),
        }
    }

    /// The most slots whose keys and values fit into `budget` bytes beside the prefixes. `slots` is ignored.
    pub fn slots_that_fit<B: Backend>(&self, model: &Llama<B>, budget: u64) -> usize {
        KvCache::slots_that_fit(model.backend(), &self.layout(model), budget)
    }

    /// The size of the KV cache in bytes.
    pub fn kv_bytes<B: Backend>(&self, model: &Llama<B>) -> u64 {
        model.backend().kv_bytes(&self.layout(model))
    }

    pub(crate) fn layout<B: Backend>(&self, model: &Llama<B>) -> KvLayout {
        let attn = &model.config().attn;
        KvLayout {
            kv_heads: attn.kv_heads,
            head_dim: attn.head_dim,
            prefixes: self.prefixes.clone(),
            own: self.own.clone(),
            slots: self.slots,
            dtype: self.kv,
        }
    }
}

/// How to choose the token after a row.
#[derive(Clone, Copy, Debug)]
pub enum Draw<'a> {
    /// Take the most likely one.
    Greedy,
    /// Take the most likely one, and check a draft. The feed's last `draft` tokens are a guess at what follows the
    /// others. A guessed token is right if it is the most likely one after the row before it, and all earlier guesses
    /// are right. The slot keeps the tokens that are right, and [`Answer::next`] follows them.
    ///
    /// This is the greedy case of speculative decoding (Leviathan et al., arXiv 2211.17192, section 2). A draft changes
    /// neither tokens nor log-probabilities, only how many of them a pass gives.
    Verify {
        /// The number of guessed tokens, fewer than the feed's tokens.
        draft: usize,
    },
    /// Sample.
    Sample {
        /// The sampling parameters.
        sampling: &'a Sampling,
        /// The tokens so far, including the prompt's.
        context: &'a [u32],
        /// The sequence's number. The draw depends only on it, the seed and the step.
        key: u64,
        /// The number of the new token, counted from 0.
        step: u64,
    },
}

impl Draw<'_> {
    /// The number of guessed tokens at the end of the feed.
    pub(crate) fn draft(&self) -> usize {
        match self {
            Draw::Verify { draft } => *draft,
            Draw::Greedy | Draw::Sample { .. } => 0,
        }
    }

    /// Whether the most likely token is taken.
    pub(crate) fn is_greedy(&self) -> bool {
        !matches!(self, Draw::Sample { .. })
    }
}

/// What to compute from the rows of a feed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Chooses the token after the last row, if set.
    pub next: Option<Draw<'a>>,
    /// The tokens to score: the last `score.len()` rows give their log-probabilities.
    pub score: &'a [u32],
}

/// Tokens that continue a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence, or the prefix being built.
    pub slot: Slot,
    /// The next tokens, from the sequence's current position.
    pub tokens: &'a [u32],
    /// What to compute from them.
    pub ask: Ask<'a>,
}

impl<'a> Feed<'a> {
    /// A feed that asks for nothing.
    pub fn new(slot: Slot, tokens: &'a [u32]) -> Self {
        Self {
            slot,
            tokens,
            ask: Ask::default(),
        }
    }

    /// The guessed tokens at its end.
    pub(crate) fn draft(&self) -> &'a [u32] {
        let draft = self.ask.next.map_or(0, |draw| draw.draft());
        &self.tokens[self.tokens.len().saturating_sub(draft)..]
    }
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The guessed tokens that are right ([`Draw::Verify`]), with their log-probabilities. `next` follows them.
    pub accepted: Vec<Best>,
    /// The chosen token, with its log-probability under the raw logits.
    pub next: Option<Best>,
    /// The log-probabilities of the scored tokens.
    pub scores: Vec<f32>,
}

impl Answer {
    /// Whether every logit behind this answer is finite. Otherwise the answer is meaningless.
    pub fn is_finite(&self) -> bool {
        let mut chosen = self.accepted.iter().chain(&self.next);
        chosen.all(|best| best.logprob.is_finite())
            && self.scores.iter().all(|score| score.is_finite())
    }

    /// Drops what follows the first wrong token of a draft, where `accepted` has the choices after all rows but the
    /// last. Returns the number of dropped tokens.
    pub(crate) fn verify(&mut self, draft: &[u32]) -> usize {
        let choices = self.accepted.iter().zip(draft);
        let right = choices
            .take_while(|(best, guess)| best.token == **guess)
            .count();
        if let Some(&next) = self.accepted.get(right) {
            self.next = Some(next);
            self.accepted.truncate(right);
        }
        draft.len() - right
    }
}

/// Rows to run: feeds of any lengths, and where in the model they begin and end.
pub struct Pass<'a, B: Backend> {
    /// The feeds; a slot may occur at most once.
    pub feeds: &'a [Feed<'a>],
    /// The layers to run. If they include the last layer, the slots advance and the asks are answered.
    pub layers: Range<usize>,
    /// The residual stream, for a pass that begins above layer 0: rows `[n, d_model]`, and the index among them of each
    /// row of the feeds.
    pub states: Option<(&'a B::Rows, &'a [usize])>,
    /// Writes into the residual stream: vectors `[n, d_model]`, and the writes.
    pub writes: Option<(&'a B::Rows, &'a [Write])>,
}

impl<'a, B: Backend> Pass<'a, B> {
    /// A pass through the whole model, without writes.
    pub fn new(model: &Llama<B>, feeds: &'a [Feed<'a>]) -> Self {
        Self {
            feeds,
            layers: 0..model.config().n_layers,
            states: None,
            writes: None,
        }
    }
}
