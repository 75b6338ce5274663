//! Supervised control: trains an embedding towards another (arXiv 2403.10949, section 3.4).

use selfie_interp::Options;
use selfie_kernels::Backend;
use selfie_llama::{Bos, Llama, LlamaConfig, PromptSite, Site, Tokenizer, capture};
use serde_json::{Value, json};

use crate::options::{
    check_interpretation, check_layer, check_sources, check_token, describe_interpretation,
    describe_sources,
};
use crate::run::{Loss, Objective, Sources, StepContext, train};
use crate::states::interpret_embeddings;
use crate::{ControlError, Observer, Outcome, Result, Training, Unedited};

/// Moves `hidden_states[layer]` at some tokens to a target embedding, by training the MLP of layer `layer - 1` on the
/// mean squared error.
#[derive(Clone, Debug, PartialEq)]
pub struct Supervised {
    /// The embeddings: prompts, and a token of each.
    pub sources: Vec<(String, usize)>,
    /// The layer of the embeddings, numbered as in hidden_states: 1..n_layers.
    pub layer: usize,
    /// The embedding to move them to.
    pub target: Target,
    /// How to train.
    pub training: Training,
    /// How to interpret the embeddings before each update; `None` skips that.
    pub interpretation: Option<Options>,
}

/// A target embedding, or several to average.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// hidden_states of prompts, from the unedited model.
    Cells(Vec<TargetCell>),
    /// Given vectors.
    Vectors {
        /// Their source, recorded in the edit.
        name: String,
        /// `[d_model]` each.
        vectors: Vec<Vec<f32>>,
    },
}

/// `hidden_states[layer]` at a token of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCell {
    /// The prompt.
    pub prompt: String,
    /// The layer, in 0..=n_layers.
    pub layer: usize,
    /// The token.
    pub token: usize,
}

impl Supervised {
    /// Finds every error that does not need the weights.
    pub fn check(&self, config: &LlamaConfig, tokenizer: &Tokenizer) -> Result<()> {
        check_layer(config, self.layer)?;
        let bos = self.training.bos;
        check_sources(config, tokenizer, bos, &self.sources)?;
        match &self.target {
            Target::Cells(cells) if cells.is_empty() => {
                return Err(ControlError::Nothing {
                    what: "target embedding",
                });
            }
            Target::Cells(cells) => {
                for cell in cells {
                    if cell.layer > config.n_layers {
                        return Err(ControlError::TargetLayer {
                            layer: cell.layer,
                            n_layers: config.n_layers,
                        });
                    }
                    check_token(config, tokenizer, bos, &cell.prompt, cell.token)?;
                }
            }
            Target::Vectors { vectors, .. } => check_vectors(vectors, config.d_model)?,
        }
        if let Some(options) = &self.interpretation {
            check_interpretation(config, tokenizer, options)?;
        }
        self.training.check(config, tokenizer)
    }

    /// Runs control. Afterwards the model has the edit in [`Outcome::edit`]. An error before the first update leaves
    /// the model as it was.
    pub fn run<B: Backend>(
        &self,
        model: &mut Llama<B>,
        tokenizer: &Tokenizer,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        self.run_after(
            model,
            tokenizer,
            &mut self.unedited(model, tokenizer)?,
            observer,
        )
    }

    /// Captures the unedited model's states for the prompts, to share among runs on these embeddings that differ only
    /// in training.
    pub fn unedited<B: Backend>(
        &self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
    ) -> Result<Unedited<B>> {
        self.check(model.config(), tokenizer)?;
        let sources = Sources::new(&self.sources, self.layer);
        Unedited::new(model, tokenizer, &sources, &self.training)
    }

    /// Whether `unedited` was captured by [`unedited`](Self::unedited) for these embeddings and options, given the same
    /// model.
    pub fn fits<B: Backend>(&self, unedited: &Unedited<B>) -> bool {
        unedited.fits(&Sources::new(&self.sources, self.layer), &self.training)
    }

    /// Like [`run`](Self::run), with known `unedited` states; gives the same bits.
    pub fn run_after<B: Backend>(
        &self,
        model: &mut Llama<B>,
        tokenizer: &Tokenizer,
        unedited: &mut Unedited<B>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        self.check(model.config(), tokenizer)?;
        let mut objective = TargetDistance {
            target: self.target.embedding(model, tokenizer, self.training.bos)?,
            interpretation: self.interpretation.as_ref(),
        };
        let sources = Sources::new(&self.sources, self.layer);
        let (training, options) = (&self.training, self.describe());
        train(
            model,
            tokenizer,
            &sources,
            unedited,
            &mut objective,
            training,
            options,
            observer,
        )
    }

    /// The record of the run's options in the edit.
    fn describe(&self) -> Value {
        let target = match &self.target {
            Target::Cells(cells) => cells
                .iter()
                .map(|c| json!({"prompt": c.prompt, "layer": c.layer, "token": c.token}))
                .collect(),
            Target::Vectors { name, vectors } => json!({"file": name, "vectors": vectors.len()}),
        };
        json!({
            "sources": describe_sources(&self.sources),
            "target": target,
            "training": self.training.describe(),
            "interpretation": self.interpretation.as_ref().map(describe_interpretation),
        })
    }
}

fn check_vectors(vectors: &[Vec<f32>], width: usize) -> Result<()> {
    if vectors.is_empty() {
        return Err(ControlError::Nothing {
            what: "target vector",
        });
    }
    for (index, vector) in vectors.iter().enumerate() {
        if vector.len() != width {
            return Err(ControlError::TargetWidth {
                index,
                found: vector.len(),
                width,
            });
        }
        if let Some(at) = vector.iter().position(|value| !value.is_finite()) {
            return Err(ControlError::TargetNotFinite {
                index,
                at,
                value: vector[at],
            });
        }
    }
    Ok(())
}

impl Target {
    /// The target embedding, `[d_model]`.
    fn embedding<B: Backend>(
        &self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        bos: Bos,
    ) -> Result<Vec<f32>> {
        let width = model.config().d_model;
        let rows = match self {
            Target::Vectors { vectors, .. } => vectors.concat(),
            Target::Cells(cells) => {
                let mut prompts = Vec::new();
                let mut wants = Vec::new();
                for (prompt, cell) in cells.iter().enumerate() {
                    prompts.push(tokenizer.encode_as(&cell.prompt, bos)?);
                    wants.push(PromptSite {
                        prompt,
                        site: Site::HiddenStates(cell.layer),
                        token: cell.token,
                    });
                }
                let rows = capture(model, &prompts, &wants)?;
                model.backend().read_rows(&rows, 0..wants.len())?
            }
        };
        let n = rows.len() / width;
        let mean = |at: usize| {
            let values = rows.iter().skip(at).step_by(width);
            (values.map(|&x| f64::from(x)).sum::<f64>() / n as f64) as f32
        };
        Ok((0..width).map(mean).collect())
    }
}

struct TargetDistance<'a> {
    target: Vec<f32>,
    interpretation: Option<&'a Options>,
}

impl TargetDistance<'_> {
    /// The mean squared distance of the embeddings from the target, and its gradient.
    fn distance(&self, embeddings: &[f32]) -> (f64, Vec<f32>) {
        let scale = 2.0 / embeddings.len() as f64;
        let mut sum = 0.0;
        let mut gradient = Vec::with_capacity(embeddings.len());
        for (&is, &wanted) in embeddings.iter().zip(self.target.iter().cycle()) {
            let off = f64::from(is) - f64::from(wanted);
            sum += off * off;
            gradient.push((scale * off) as f32);
        }
        (sum / embeddings.len() as f64, gradient)
    }
}

impl<B: Backend> Objective<B> for TargetDistance<'_> {
    fn method(&self) -> &'static str {
        "supervised"
    }

    fn loss(&mut self, context: &StepContext<'_, B>, embeddings: &[f32]) -> Result<Loss> {
        let (loss, gradient) = self.distance(embeddings);
        let interpretations = match self.interpretation {
            Some(options) => interpret_embeddings(context, embeddings, options)?,
            None => Vec::new(),
        };
        Ok(Loss {
            loss,
            gradient,
            interpretations,
            ..Loss::default()
        })
    }

    fn final_loss(&self, embeddings: &[f32]) -> Option<f64> {
        Some(self.distance(embeddings).0)
    }

    fn goal(&self) -> Option<&[f32]> {
        Some(&self.target)
    }
}
