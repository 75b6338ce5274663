//! Interpretation options, and their checks.

use selfie_kernels::InjectMode;
use selfie_llama::{Bos, Decoding, LlamaConfig, Sampling, Tokenizer};

use crate::{
    Control, Cut, InterpError, InterpretationPrompt, LocatedPrompt, Map, Result, RowFields,
};

/// Where and how an embedding is injected into the interpretation prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InjectAt {
    /// The layer at whose input the embedding is written, in 0..n_layers.
    pub layer: usize,
    /// How the embedding is combined with the row that is there.
    pub mode: InjectMode,
    /// The strength in `mode`.
    pub strength: f32,
}

/// How to interpret.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The interpretation prompt.
    pub prompt: InterpretationPrompt,
    /// Whether that prompt begins with bos. A prompt from a chat template begins as the template says.
    pub bos: Bos,
    /// The same for the prompts that embeddings come from, if it differs: [`Bos::Given`] for prompts from a chat
    /// template.
    pub prompts_bos: Option<Bos>,
    /// Each cell is interpreted once per injection.
    pub injections: Vec<InjectAt>,
    /// The maximum number of tokens of an interpretation.
    pub max_new_tokens: usize,
    /// Ids that end an interpretation.
    pub eos: Vec<u32>,
    /// `None` is greedy.
    pub sampling: Option<Sampling>,
    /// Whether to compute the relevancy of each generated token.
    pub relevancy: bool,
    /// How many interpretations to decode together; `None` chooses by memory.
    pub batch_size: Option<usize>,
    /// The map to apply to embeddings before injecting them. It is not part of a cell's [`Key`](crate::Key), so that
    /// rows with and without it can be compared.
    pub map: Option<Map>,
    /// How many tokens a cell has: its own and those before it, each with its own placeholder in the prompt. With 1, a
    /// cell's single embedding is written at all placeholders.
    pub span: usize,
    /// Layers of `hidden_states` to read together, in the order of their placeholders: a cell has [`span`] tokens at
    /// each, and its own layer is the last of them. Empty if a cell is read at its own layer only.
    ///
    /// [`span`]: Options::span
    pub layers: Vec<usize>,
    /// Which part of a text to keep; `None` keeps all of it.
    pub cut: Option<Cut>,
    /// How many texts to sample for each row; the row shows the most frequent answer.
    pub samples: usize,
    /// The name, in rows, of the model that the embeddings come from.
    pub model_name: String,
    /// The name, in rows, of the reader; `None` if it is the same model.
    pub reader_name: Option<String>,
    /// The controls for each cell. Each control that injects a vector costs about as much as the cells themselves.
    pub controls: Vec<Control>,
    /// Chooses, with a cell's [`Key`](crate::Key), the vector of [`Control::Random`] and the partner of
    /// [`Control::Shuffled`].
    pub control_seed: u64,
}

impl Options {
    /// SelfIE's defaults for a model: the `summarize` template, replace at layer 1, 30 greedy tokens, relevancy, no
    /// controls.
    pub fn new(config: &LlamaConfig) -> Result<Self> {
        Ok(Self {
            prompt: InterpretationPrompt::template("summarize")?,
            bos: Bos::Auto,
            prompts_bos: None,
            injections: vec![InjectAt {
                layer: 1,
                mode: InjectMode::Replace,
                strength: 1.0,
            }],
            max_new_tokens: 30,
            eos: config.eos.clone(),
            sampling: None,
            relevancy: true,
            batch_size: None,
            map: None,
            span: 1,
            layers: Vec::new(),
            cut: None,
            samples: 1,
            model_name: String::new(),
            reader_name: None,
            controls: Vec::new(),
            control_seed: 0,
        })
    }

    /// The fields that rows have.
    pub fn row_fields(&self) -> RowFields {
        RowFields {
            samples: self.samples > 1,
            controls: self.controls.clone(),
        }
    }

    /// Checks all options, and returns the prompt in the reader's ids.
    pub(crate) fn locate(
        &self,
        reader: &LlamaConfig,
        tokenizer: &Tokenizer,
    ) -> Result<LocatedPrompt> {
        self.check(reader)?;
        let prompt = self.prompt.locate_as(tokenizer, self.bos)?;
        let places = prompt.rows.len();
        let vectors = self.vectors();
        if vectors > 1 && (places != vectors || prompt.placeholders.len() != places) {
            return Err(InterpError::Span {
                vectors,
                placeholders: places,
                rows: prompt.placeholders.len(),
            });
        }
        reader.check_context(prompt.ids.len().saturating_add(self.max_new_tokens))?;
        Ok(prompt)
    }

    /// How many embeddings a cell has.
    pub(crate) fn vectors(&self) -> usize {
        self.span.saturating_mul(self.layers.len().max(1))
    }

    /// The layer of each of a cell's embeddings: layer by layer, in the order of the tokens. `own` is the cell's.
    pub(crate) fn layers_of(&self, own: Option<usize>) -> impl Iterator<Item = Option<usize>> {
        let own = self.layers.is_empty().then_some(own);
        let layers = self.layers.iter().map(|&layer| Some(layer)).chain(own);
        layers.flat_map(|layer| std::iter::repeat_n(layer, self.span))
    }

    /// Whether the prompts that embeddings come from begin with bos.
    pub(crate) fn bos_of_prompts(&self) -> Bos {
        self.prompts_bos.unwrap_or(self.bos)
    }

    fn check(&self, reader: &LlamaConfig) -> Result<()> {
        let n_layers = reader.n_layers;
        for inject in &self.injections {
            if inject.layer >= n_layers {
                return Err(InterpError::InjectLayer {
                    layer: inject.layer,
                    n_layers,
                });
            }
            if !inject.strength.is_finite() {
                return Err(InterpError::Strength {
                    strength: inject.strength,
                });
            }
        }
        if let Some(sampling) = &self.sampling {
            sampling.check()?;
        }
        let draws = |sampling: &Sampling| sampling.temperature > 0.0;
        if self.samples > 1 && !self.sampling.as_ref().is_some_and(draws) {
            return Err(InterpError::GreedySamples {
                samples: self.samples,
            });
        }
        for (at, control) in self.controls.iter().enumerate() {
            if self.controls[..at].contains(control) {
                return Err(InterpError::ControlTwice { control: *control });
            }
        }
        for (what, number) in [
            ("the number of injections", self.injections.len()),
            ("max_new_tokens", self.max_new_tokens),
            ("the batch size", self.batch_size.unwrap_or(1)),
            ("the number of samples", self.samples),
            ("the number of tokens of a cell", self.span),
        ] {
            if number == 0 {
                return Err(InterpError::Zero { what });
            }
        }
        Ok(())
    }

    pub(crate) fn decoding(&self) -> Decoding {
        Decoding {
            max_new_tokens: self.max_new_tokens,
            eos: self.eos.clone(),
            sampling: self.sampling,
        }
    }

    /// Whether texts are also scored on the interpretation prompt without an injection.
    pub(crate) fn scores_clean(&self) -> bool {
        self.relevancy || self.controls.contains(&Control::None)
    }

    pub(crate) fn shuffles(&self) -> bool {
        self.controls.contains(&Control::Shuffled)
    }

    /// The number of texts in a sweep over `cells` cells, controls included.
    pub(crate) fn texts(&self, cells: usize) -> usize {
        let clean = usize::from(self.controls.contains(&Control::None));
        let each = self.samples.saturating_add(self.controls.len() - clean);
        let rows = cells.saturating_mul(self.injections.len());
        rows.saturating_mul(each).saturating_add(clean)
    }
}
