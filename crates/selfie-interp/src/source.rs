//! What a sweep interprets: items with vectors, each of which gives some rows.

use std::ops::Range;

use selfie_kernels::Backend;

use crate::{Embeddings, InjectAt, InterpretationPrompt, Key, Result};

/// Where the vector of a row comes from.
pub(crate) struct Origin {
    pub(crate) prompt: String,
    pub(crate) prompt_index: Option<usize>,
    pub(crate) layer: Option<usize>,
    pub(crate) token: usize,
    pub(crate) token_decoded: Option<String>,
}

/// The items of a sweep. Each item gives one row per injection.
pub(crate) trait Source<B: Backend> {
    fn len(&self) -> usize;
    fn key(&self, item: usize, inject: &InjectAt, prompt: &InterpretationPrompt) -> Key;
    fn origin(&self, item: usize) -> Result<Origin>;
    /// The layer of an item; `None` for given vectors.
    fn layer(&self, item: usize) -> Option<usize>;
    /// The vectors of some items, layer by layer and token by token; then those of their shuffled partners, if the
    /// sweep shuffles.
    fn vectors(&self, items: Range<usize>) -> Result<Embeddings<B>>;
}
