//! What a session runs and answers, as data.

use std::ops::Range;

use selfie_kernels::{Backend, Best, DType, KvLayout, Slot};

use crate::cache::KvCache;
use crate::{Llama, Sampling, Write};

/// What a [`Session`](crate::Session) makes room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSize {
    /// The capacity of each prefix that slots can share, in positions.
    pub prefixes: Vec<usize>,
    /// Sequences at a time.
    pub slots: usize,
    /// Positions of a slot's own, behind what it shares: for each layer, `[n_layers]`.
    pub own: Vec<usize>,
    /// Positions of the longest sequence, shared ones included.
    pub positions: usize,
    /// Rows of a pass; longer ones are run in pieces.
    pub rows: usize,
    /// The type that keys and values are kept in; `None` is what is exact on the device: f32 on a CPU, the weights' type
    /// on a GPU.
    pub kv: Option<DType>,
}

impl SessionSize {
    /// Room for `slots` sequences of up to `positions` tokens, and no prefixes.
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
            kv: None,
        }
    }

    /// The most slots whose keys and values fit into `budget` bytes beside the prefixes; `slots` is ignored.
    pub fn slots_that_fit<B: Backend>(&self, model: &Llama<B>, budget: u64) -> usize {
        KvCache::slots_that_fit(model.backend(), &self.layout(model), budget)
    }

    /// The bytes of the KV cache.
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
            dtype: self
                .kv
                .unwrap_or_else(|| model.backend().kv_dtype(model.dtype())),
        }
    }
}

/// How the token after a row is chosen.
#[derive(Clone, Copy, Debug)]
pub enum Draw<'a> {
    /// The most likely one.
    Greedy,
    /// By chance.
    Sample {
        /// How.
        sampling: &'a Sampling,
        /// The tokens so far, the prompt's included.
        context: &'a [u32],
        /// What this sequence is: with the seed and the step it settles the draw.
        key: u64,
        /// The number of the token, counted from 0.
        step: u64,
    },
}

/// What is asked about the rows of a feed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Chooses the token after the last row.
    pub next: Option<Draw<'a>>,
    /// The last `score.len()` rows give the log-probability of these tokens.
    pub score: &'a [u32],
}

/// Tokens that continue a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence, or the prefix that is being made.
    pub slot: Slot,
    /// Its next tokens, from the position that it has come to.
    pub tokens: &'a [u32],
    /// What is asked about them.
    pub ask: Ask<'a>,
}

impl<'a> Feed<'a> {
    /// Tokens about which nothing is asked.
    pub fn new(slot: Slot, tokens: &'a [u32]) -> Self {
        Self {
            slot,
            tokens,
            ask: Ask::default(),
        }
    }
}

/// What came of an [`Ask`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The token that was chosen, with its log-probability by the logits as they are.
    pub next: Option<Best>,
    /// The log-probabilities that were asked for.
    pub scores: Vec<f32>,
}

impl Answer {
    /// Whether every logit that it comes from is a finite number. Otherwise it means nothing.
    pub fn is_finite(&self) -> bool {
        let next = self.next.is_none_or(|best| best.logprob.is_finite());
        next && self.scores.iter().all(|score| score.is_finite())
    }
}

/// Rows to run: ragged feeds, and where in the model they begin and end.
pub struct Pass<'a, B: Backend> {
    /// The feeds; a slot comes once at the most.
    pub feeds: &'a [Feed<'a>],
    /// The layers that are run. A slot moves on when this reaches the last layer; what is asked is answered then.
    pub layers: Range<usize>,
    /// For a pass that begins above layer 0, its residual stream: rows `[n, d_model]`, and which of them each row of the
    /// feeds starts from.
    pub states: Option<(&'a B::Rows, &'a [usize])>,
    /// What is written on the way: vectors `[n, d_model]`, and the writes.
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
