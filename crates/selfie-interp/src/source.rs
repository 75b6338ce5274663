//! What a sweep interprets: items with vectors, each the source of some rows.

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

/// What a sweep interprets, an item each for its rows.
pub(crate) trait Source<B: Backend> {
    fn len(&self) -> usize;
    fn key(&self, item: usize, inject: &InjectAt, prompt: &InterpretationPrompt) -> Key;
    fn origin(&self, item: usize) -> Result<Origin>;
    /// The layer of an item's vectors; `None` for vectors from elsewhere.
    fn layer(&self, item: usize) -> Option<usize>;
    /// The vectors of some items, as many for each as a cell has tokens; then those of the items that they are shuffled
    /// with, if they are.
    fn vectors(&self, items: Range<usize>) -> Result<Embeddings<B>>;
}
