//! The unedited model's states for the prompts of a run.

use std::collections::HashMap;

use selfie_kernels::Backend;
use selfie_llama::{Bos, Llama, PromptSite, Site, Tokenizer, capture};

use crate::drift::DriftMeter;
use crate::keep::Keep;
use crate::run::Sources;
use crate::states::encode_all;
use crate::watch::Watcher;
use crate::{ControlError, Result, Training, Watch};

/// The unedited model's states, distributions and texts for the prompts of a run. Runs that differ only in how they
/// train can share it, which saves most of the cost of a short run:
/// [`Supervised::run_after`](crate::Supervised::run_after), [`Reinforce::run_after`](crate::Reinforce::run_after).
pub struct Unedited<B: Backend> {
    of: Prompts,
    /// The MLP's inputs at the controlled cells, `[n, d_model]`.
    pub(crate) inputs: B::Rows,
    /// The residual stream that the MLP's output is added to, `[n, d_model]`.
    pub(crate) residual: Vec<f32>,
    pub(crate) keep: Option<Keep<B>>,
    pub(crate) meter: Option<DriftMeter<B>>,
    pub(crate) watcher: Option<Watcher<B>>,
}

/// What the states depend on.
#[derive(Clone, Debug, PartialEq)]
struct Prompts {
    sources: Vec<(String, usize)>,
    layer: usize,
    bos: Bos,
    references: Option<Vec<String>>,
    /// Without its bound.
    watch: Option<Watch>,
}

impl Prompts {
    fn new(sources: &Sources<'_>, training: &Training) -> Self {
        let cells = sources.cells.iter();
        Self {
            sources: cells
                .map(|&(text, token)| (text.to_owned(), token))
                .collect(),
            layer: sources.layer,
            bos: training.bos,
            references: training.reference.as_ref().map(|r| r.prompts.clone()),
            watch: training.watch.map(|watch| Watch {
                max_surprise: None,
                ..watch
            }),
        }
    }
}

impl<B: Backend> Unedited<B> {
    pub(crate) fn new(
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        sources: &Sources<'_>,
        training: &Training,
    ) -> Result<Self> {
        let backend = model.backend();
        let layer = sources.layer - 1;
        let mut index: HashMap<&str, usize> = HashMap::new();
        let mut prompts = Vec::new();
        for (text, _) in &sources.cells {
            if !index.contains_key(text) {
                index.insert(text, prompts.len());
                prompts.push(tokenizer.encode_as(text, training.bos)?);
            }
        }
        let rows_at = |site| -> Result<B::Rows> {
            let wants: Vec<PromptSite> = sources
                .cells
                .iter()
                .map(|&(text, token)| PromptSite {
                    prompt: index[text],
                    site,
                    token,
                })
                .collect();
            Ok(capture(model, &prompts, &wants)?)
        };
        let inputs = rows_at(Site::PreMlp(layer))?;
        let residual = rows_at(Site::Residual(layer))?;
        let residual = backend.read_rows(&residual, 0..backend.len(&residual))?;

        let mut keep = None;
        let mut meter = None;
        let mut references = None;
        if let Some(reference) = &training.reference {
            let texts = encode_all(tokenizer, &reference.prompts, training.bos)?;
            let wants = PromptSite::all(&texts, Site::PreMlp(layer));
            keep = Some(Keep::new(backend, capture(model, &texts, &wants)?));
            meter = Some(DriftMeter::new(model, &texts, layer)?);
            references = Some(texts);
        }
        let watcher = match &training.watch {
            Some(watch) => {
                let references = references.as_deref();
                Some(Watcher::new(
                    model, tokenizer, watch, prompts, references, layer,
                )?)
            }
            None => None,
        };
        Ok(Self {
            of: Prompts::new(sources, training),
            inputs,
            residual,
            keep,
            meter,
            watcher,
        })
    }

    /// Whether a run on these embeddings can use it.
    pub(crate) fn fits(&self, sources: &Sources<'_>, training: &Training) -> bool {
        self.of == Prompts::new(sources, training)
    }

    /// An error if it belongs to other prompts.
    pub(crate) fn check(&self, sources: &Sources<'_>, training: &Training) -> Result<()> {
        if self.fits(sources, training) {
            return Ok(());
        }
        Err(ControlError::OtherPrompts {
            layer: self.of.layer,
            needed: sources.layer,
        })
    }
}
