//! Reconstructors of natural-language autoencoders, which turn a text into the vector that it describes
//! (kitft/natural_language_autoencoders, commit 047eb8e: `NLACritic` of `nla_inference.py`).

use std::path::{Path, PathBuf};

use selfie_kernels::Backend;
use selfie_llama::{Bos, Checkpoint, Llama, PromptSite, Site, Tokenizer};

use super::autoencoder::format_python;
use crate::{Embeddings, InterpError, Result};

const HEAD: &str = "value_head.safetensors";

/// A reconstructor, as described by `nla_meta.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// The file.
    pub path: PathBuf,
    /// The width of its vectors.
    pub d_model: usize,
    /// The layer it was trained on, in the repository's numbering, if the file says.
    pub layer: Option<usize>,
    /// The ids that its prompt must end with; empty if unchecked.
    pub suffix: Vec<u32>,
    /// Whether its prompt begins with bos. Without it, one that was trained with it performs badly on Gemma.
    pub bos: Bos,
    /// The prompt, with `{explanation}`.
    pub template: String,
}

/// A model that turns texts into vectors: layers without a final norm, and a matrix applied at the last token.
pub struct Reconstructor<B: Backend> {
    model: Llama<B>,
    /// `[d_model, d_model]`, row by row.
    head: Vec<f32>,
    meta: Meta,
}

/// How well a text's vector agrees with the vector that the text describes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// The cosine of the two vectors.
    pub cosine: f32,
    /// `2 (1 - cos)`: the squared distance of their unit vectors.
    pub mse: f32,
}

impl<B: Backend> Reconstructor<B> {
    /// Assembles a reconstructor: `model` holds its layers ([`Llama::load_backbone`]), `dir` its head.
    pub fn open(dir: &Path, model: Llama<B>, meta: Meta) -> Result<Self> {
        let d = model.config().d_model;
        if meta.d_model != d {
            return Err(InterpError::ReaderFile {
                path: meta.path,
                problem: format!(
                    "d_model is {}, but the model beside it has {d}",
                    meta.d_model
                ),
            });
        }
        let file = Checkpoint::open_file(&dir.join(HEAD))?;
        Ok(Self {
            head: file.tensor("weight", &[d, d])?.vector()?,
            model,
            meta,
        })
    }

    /// The vectors of some texts, `[d_model]` each.
    pub fn reconstruct(&self, tokenizer: &Tokenizer, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let mut prompts = Vec::with_capacity(texts.len());
        for text in texts {
            let text = format_python(&self.meta.template, "explanation", text);
            let ids = tokenizer.encode_as(&text, self.meta.bos)?;
            self.model.config().check_context(ids.len())?;
            if !ids.ends_with(&self.meta.suffix) {
                let end = &ids[ids.len().saturating_sub(self.meta.suffix.len())..];
                return Err(InterpError::ReaderFile {
                    path: self.meta.path.clone(),
                    problem: format!(
                        "critic_suffix_ids is {:?}, but the prompt ends with {end:?} in the tokenizer beside it",
                        self.meta.suffix
                    ),
                });
            }
            prompts.push(ids);
        }
        let site = |(prompt, ids): (usize, &Vec<u32>)| PromptSite {
            prompt,
            site: Site::Output,
            token: ids.len() - 1,
        };
        let sites: Vec<PromptSite> = prompts.iter().enumerate().map(site).collect();
        let states = Embeddings::capture(&self.model, &prompts, &sites)?;
        let states = states.to_host(self.model.backend())?;
        let d = self.meta.d_model;
        let dot = |row: &[f32], state: &[f32]| -> f32 {
            let products = row
                .iter()
                .zip(state)
                .map(|(&a, &b)| f64::from(a) * f64::from(b));
            products.sum::<f64>() as f32
        };
        let vector = |state: &[f32]| {
            self.head
                .chunks_exact(d)
                .map(|row| dot(row, state))
                .collect()
        };
        Ok(states.chunks_exact(d).map(vector).collect())
    }
}

impl Agreement {
    /// Compares a text's vector with the one that the text describes.
    pub fn of(vector: &[f32], with: &[f32]) -> Self {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum()
        };
        let norms = (dot(vector, vector) * dot(with, with)).sqrt();
        let cosine = dot(vector, with) / norms.max(1e-12);
        Self {
            cosine: cosine as f32,
            mse: (2.0 * (1.0 - cosine)) as f32,
        }
    }
}
