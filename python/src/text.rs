//! Tokens of prompts, and generated texts.

use pyo3::prelude::*;

/// A token of a prompt: `id`, `piece` (as in the vocabulary), `text` (what it adds to the prompt), `special`.
#[pyclass(frozen, get_all, name = "Token", module = "selfie_rs")]
pub(crate) struct Token {
    pub(crate) id: u32,
    pub(crate) piece: String,
    pub(crate) text: String,
    pub(crate) special: bool,
}

/// A generated text: `text` (without special tokens), `new_ids` (including the one that ended it), `logprobs` of each
/// id.
#[pyclass(frozen, get_all, name = "Text", module = "selfie_rs")]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) new_ids: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
}

#[pymethods]
impl Token {
    fn __repr__(&self) -> String {
        format!("Token({}, {:?})", self.id, self.text)
    }
}

#[pymethods]
impl Text {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("Text({:?})", self.text)
    }
}
