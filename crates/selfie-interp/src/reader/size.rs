//! The size of a reader.

use selfie_kernels::Backend;
use selfie_llama::{Llama, SessionSize};

use crate::{LocatedPrompt, Result};

/// Without a given batch size, texts take this fraction of the rows of a full pass as slots. More slots hardly make a
/// decode step faster per row, and take memory.
const AUTO_SLOTS: usize = 8;
/// Scored texts to keep in the cache per decoding text: later texts share their beginnings.
const SCORED: usize = 1;

/// The size of a [`Reader`](super::Reader).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderSize {
    /// The number of interpretation prompts at a time.
    pub prompts: usize,
    /// The number of tokens of the longest prompt.
    pub prompt_tokens: usize,
    /// The maximum number of tokens from the first write to the end of a prompt.
    pub written_tokens: usize,
    /// The maximum number of new tokens of a text.
    pub max_new_tokens: usize,
    /// How many texts to decode together; `None` chooses by memory.
    pub batch_size: Option<usize>,
    /// The number of texts in all, if known: the reader allocates no more room than they need.
    pub texts: Option<usize>,
    /// Whether texts are also scored on the prompt without writes ([`Job::clean`](super::Job::clean)).
    pub clean: bool,
    /// Whether to guess how texts go on, from texts of the same prompt. Texts do not depend on it, only their speed
    /// where few of them decode. It is on by default; measurements turn it off.
    pub drafts: bool,
}

impl ReaderSize {
    /// Room for one prompt, with texts of up to `max_new_tokens`.
    pub fn new(prompt: &LocatedPrompt, max_new_tokens: usize) -> Self {
        let tokens = prompt.ids.len();
        let first = prompt.placeholders.iter().copied().min().unwrap_or(0);
        Self {
            prompts: 1,
            prompt_tokens: tokens,
            written_tokens: tokens - first,
            max_new_tokens,
            batch_size: None,
            texts: None,
            clean: true,
            drafts: true,
        }
    }

    /// The numbers of slots for decoding and for scored texts, and the session size that they need.
    pub(super) fn session<B: Backend>(
        &self,
        model: &Llama<B>,
    ) -> Result<(usize, usize, SessionSize)> {
        let backend = model.backend();
        // The last new token is never fed.
        let own = self.written_tokens + self.max_new_tokens.max(2) - 1;
        let mut size = SessionSize {
            prefixes: vec![self.prompt_tokens; self.prompts],
            own: vec![own; model.config().n_layers],
            ..SessionSize::new(model, 1, self.prompt_tokens + self.max_new_tokens)
        };
        let each = if self.clean { 1 + SCORED } else { 1 };
        let mut decoding = match self.batch_size {
            Some(slots) => slots,
            None => {
                // Half of the free memory: the passes, the vectors and the rows need buffers too.
                let fit = size.slots_that_fit(model, backend.memory()?.available / 2) / each;
                fit.min(backend.pass_rows() / AUTO_SLOTS)
            }
        };
        decoding = decoding.min(self.texts.unwrap_or(usize::MAX)).max(1);
        // At least two, so that a text can continue another one that stays in the cache.
        let scored = if self.clean {
            let most = self.texts.unwrap_or(usize::MAX).max(2);
            SCORED.saturating_mul(decoding).max(2).min(most)
        } else {
            0
        };
        size.slots = decoding.saturating_add(scored);
        size.rows = backend
            .pass_rows()
            .min(decoding.saturating_mul(self.written_tokens))
            .max(decoding.saturating_add(self.max_new_tokens.min(backend.pass_rows())))
            .max(self.written_tokens);
        Ok((decoding, scored, size))
    }
}
