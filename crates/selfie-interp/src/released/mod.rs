//! Readers that others have trained and released, configured from their folders, in our numbering of layers.
//!
//! | | reads `hidden_states` | writes at the input of layer | |
//! |---|---|---|---|
//! | Activation Oracles, their layer L | L + 1 | 2 | a LoRA of the subject; K tokens at K placeholders for each layer |
//! | LatentQA | 16 | 1 | a LoRA of the subject; every token of a prompt but bos |
//! | natural-language autoencoders, their layer K | K + 1 | 0 | a model of its own |
//! | the same of EasyNLA | K + 1 | 2 | a LoRA of the subject, or a model of its own |
//!
//! `docs/src/readers.md` names the repository and commit that each follows.

mod autoencoder;
mod latent;
mod oracle;
mod reconstructor;
mod sidecar;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use selfie_kernels::InjectMode;
use selfie_llama::{ChatTemplate, Tokenizer};

pub use autoencoder::Verbalizer;
pub use latent::LatentQa;
pub use oracle::Oracle;
pub use reconstructor::{Agreement, Meta, Reconstructor};

use crate::{Cut, InjectAt, InterpError, InterpretationPrompt, Options, PromptPart, Result};

/// A released reader, as described by its folder.
#[derive(Clone, Debug, PartialEq)]
pub enum Released {
    /// An Activation Oracle: a LoRA with `ao_config.json`.
    Oracle(Oracle),
    /// A LatentQA decoder: a LoRA whose folder does not say what it is.
    LatentQa(LatentQa),
    /// The verbalizer of a natural-language autoencoder: a model, or a LoRA, with `nla_meta.yaml`.
    Verbalizer(Verbalizer),
    /// The reconstructor of such an autoencoder: it reads texts, not embeddings.
    Reconstructor(Meta),
}

/// A kind of reader to name for folders that do not say what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReaderKind {
    /// [`Oracle`], with its repository's defaults if there is no `ao_config.json`.
    Oracle,
    /// [`LatentQa`].
    LatentQa,
    /// A [`Verbalizer`] or reconstructor of EasyNLA, whose `nla_meta.yaml` has the same names.
    EasyNla,
}

impl ReaderKind {
    /// All kinds and their names.
    pub const ALL: [(&'static str, ReaderKind); 3] = [
        ("oracle", ReaderKind::Oracle),
        ("latentqa", ReaderKind::LatentQa),
        ("easynla", ReaderKind::EasyNla),
    ];
}

impl FromStr for ReaderKind {
    type Err = InterpError;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found
            .map(|(_, kind)| kind)
            .ok_or_else(|| InterpError::ReaderKind {
                name: name.to_owned(),
            })
    }
}

impl Released {
    /// Recognizes a folder; `None` for a plain model or a plain LoRA.
    pub fn open(dir: &Path, kind: Option<ReaderKind>) -> Result<Option<Self>> {
        match kind {
            Some(ReaderKind::LatentQa) => return Ok(Some(Self::LatentQa(LatentQa))),
            Some(ReaderKind::Oracle) => {
                return Ok(Some(Self::Oracle(Oracle::open(dir)?.unwrap_or_default())));
            }
            Some(ReaderKind::EasyNla) => return sidecar::open_easynla(dir).map(Some),
            None => {}
        }
        if let Some(oracle) = Oracle::open(dir)? {
            return Ok(Some(Self::Oracle(oracle)));
        }
        sidecar::open(dir)
    }

    /// The name of the kind.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Oracle(_) => "Activation Oracle",
            Self::LatentQa(_) => "LatentQA decoder",
            Self::Verbalizer(_) => "verbalizer of a natural-language autoencoder",
            Self::Reconstructor(_) => "reconstructor of a natural-language autoencoder",
        }
    }

    /// Whether its folder holds low-rank adapters of the subject instead of a model.
    pub fn is_lora(&self) -> bool {
        match self {
            Self::Oracle(_) | Self::LatentQa(_) => true,
            Self::Verbalizer(verbalizer) => verbalizer.lora,
            Self::Reconstructor(_) => false,
        }
    }

    /// The layers of `hidden_states` it was trained to read, in a subject of `n_layers`: one list per combination that
    /// it reads together. Empty if the folder does not say.
    pub fn reads(&self, n_layers: usize) -> Vec<Vec<usize>> {
        let one = |theirs: Option<usize>| {
            theirs
                .map(|k| vec![k.saturating_add(1)])
                .into_iter()
                .collect()
        };
        match self {
            Self::Oracle(oracle) => oracle.reads(n_layers),
            Self::LatentQa(_) => vec![vec![LatentQa::READS]],
            Self::Verbalizer(verbalizer) => one(verbalizer.layer),
            Self::Reconstructor(meta) => one(meta.layer),
        }
    }

    /// How many layers it reads together: one number for each that it was trained on.
    pub fn layers_together(&self) -> Vec<usize> {
        // How many there are does not depend on the subject.
        let mut counts: Vec<usize> = self.reads(0).iter().map(Vec::len).collect();
        counts.sort_unstable();
        counts.dedup();
        if counts.is_empty() { vec![1] } else { counts }
    }

    /// Where and how it injects; `None` if it does not.
    pub fn writes(&self) -> Option<InjectAt> {
        let at = |layer, mode, strength| {
            Some(InjectAt {
                layer,
                mode,
                strength,
            })
        };
        match self {
            Self::Oracle(oracle) => at(
                oracle.hook_layer + 1,
                InjectMode::AddMatched,
                oracle.coefficient,
            ),
            Self::LatentQa(_) => at(LatentQa::WRITES, InjectMode::Replace, 1.0),
            Self::Verbalizer(verbalizer) => Some(verbalizer.inject),
            Self::Reconstructor(_) => None,
        }
    }

    /// The maximum number of tokens of a text in its own code, if set there.
    pub fn max_new_tokens(&self) -> Option<usize> {
        match self {
            Self::Verbalizer(_) => Some(200),
            Self::LatentQa(_) => Some(100),
            Self::Oracle(_) | Self::Reconstructor(_) => None,
        }
    }

    /// Adds the reader's prompt, injection and cut to `options`. A cell has [`Options::span`] tokens, read at each of
    /// `layers` of `hidden_states`; `tokenizer` and `template` are the reader's.
    ///
    /// # Errors
    /// Another number of layers than it was trained on; a missing question, or one that it does not take; a prompt
    /// whose tokens differ from those it was trained with.
    pub fn configure(
        &self,
        options: Options,
        layers: &[usize],
        question: Option<&str>,
        tokenizer: &Tokenizer,
        template: ChatTemplate,
    ) -> Result<Options> {
        let trained = self.layers_together();
        if !trained.contains(&layers.len()) {
            return Err(InterpError::ReaderLayers {
                reader: self.name(),
                layers: layers.to_vec(),
                trained,
            });
        }
        let asked = || {
            question.ok_or(InterpError::ReaderQuestion {
                reader: self.name(),
                takes: true,
            })
        };
        let (prompt, cut) = match self {
            Self::Oracle(oracle) => (
                oracle.prompt(layers, options.span, asked()?, template)?,
                None,
            ),
            Self::LatentQa(latent) => (
                latent.prompt(options.span, asked()?, tokenizer, &template)?,
                None,
            ),
            Self::Verbalizer(verbalizer) => {
                if question.is_some() {
                    return Err(InterpError::ReaderQuestion {
                        reader: self.name(),
                        takes: false,
                    });
                }
                let [open, close] = autoencoder::TAGS.map(str::to_owned);
                (
                    verbalizer.prompt(tokenizer, &template)?,
                    Some(Cut::Between(open, close)),
                )
            }
            Self::Reconstructor(_) => return Err(InterpError::ReadsTexts),
        };
        Ok(Options {
            prompt,
            injections: self.writes().into_iter().collect(),
            layers: if layers.len() > 1 {
                layers.to_vec()
            } else {
                Vec::new()
            },
            cut: options.cut.clone().or(cut),
            ..options
        })
    }
}

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rendered prompt in which the text of `markers`, which must occur `times` times, becomes tokens to overwrite.
fn mark_runs(
    prompt: &InterpretationPrompt,
    markers: &[String],
    times: usize,
) -> Result<InterpretationPrompt> {
    let run = markers.concat();
    let text: String = prompt.parts.iter().map(PromptPart::text).collect();
    let between: Vec<&str> = text.split(&run).collect();
    if between.len() != times + 1 {
        return Err(InterpError::MarkerMissing { marker: run, text });
    }
    let mut parts = Vec::new();
    for (index, between) in between.into_iter().enumerate() {
        if index > 0 {
            parts.extend(markers.iter().cloned().map(PromptPart::Marker));
        }
        if !between.is_empty() {
            parts.push(PromptPart::Text(between.to_owned()));
        }
    }
    Ok(InterpretationPrompt {
        rendered: prompt.rendered,
        ..InterpretationPrompt::new(parts)
    })
}
