//! Request bodies. Fields and their defaults follow the program's options; openapi.json describes them.

use axum::http::StatusCode;
use selfie::interp::{Cell, Control, InjectAt, InterpretationPrompt, Options, PromptMessage};
use selfie::llama::{ChatMessage, GenerationConfig, Sampling, SamplingOverrides};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::ServedModel;
use crate::problem::Problem;
use crate::prompts::Prompt;

/// Catches unknown fields, which are refused.
#[derive(Debug, Deserialize)]
pub(crate) struct Rest(Map<String, Value>);

impl Rest {
    pub(crate) fn check(&self) -> Result<(), Problem> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(field) => Err(Problem::bad(format!(
                "unknown field {field:?}; see /openapi.json for all fields"
            ))),
        }
    }
}

/// `/tokenize`: a text, or a chat.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeBody {
    pub(crate) prompt: Option<String>,
    pub(crate) chat: Option<Vec<ChatMessage>>,
}

/// Cells of a prompt: pairs, or layers times tokens.
#[derive(Debug, Deserialize)]
pub(crate) struct CellsBody {
    pub(crate) prompt: String,
    cells: Option<Vec<(usize, usize)>>,
    layers: Option<Vec<usize>>,
    tokens: Option<Vec<usize>>,
}

/// How to inject embeddings, and into which interpretation prompt.
#[derive(Debug, Deserialize)]
pub(crate) struct InjectBody {
    template: Option<String>,
    interpretation_prompt: Option<Vec<Value>>,
    #[serde(default = "first_layer")]
    inject_layer: usize,
    #[serde(default = "replace")]
    mode: String,
    #[serde(default = "one")]
    strength: f32,
}

/// How tokens are chosen.
#[derive(Debug, Deserialize)]
pub(crate) struct SamplingBody {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    #[serde(default)]
    pub(crate) seed: u64,
}

/// `/interpret`
#[derive(Debug, Deserialize)]
pub(crate) struct InterpretBody {
    #[serde(flatten)]
    pub(crate) cells: CellsBody,
    #[serde(flatten)]
    pub(crate) inject: InjectBody,
    #[serde(flatten)]
    pub(crate) sampling: SamplingBody,
    #[serde(default = "thirty")]
    pub(crate) max_new_tokens: usize,
    #[serde(default = "yes")]
    relevancy: bool,
    #[serde(default)]
    controls: Vec<String>,
    #[serde(default = "one_sample")]
    samples: usize,
    #[serde(default = "yes")]
    pub(crate) edits: bool,
    #[serde(default)]
    pub(crate) format: Format,
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// What row events contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// The row, as the program writes it.
    #[default]
    Rows,
    /// What the page's script reads.
    Explorer,
}

/// `/score`
#[derive(Debug, Deserialize)]
pub(crate) struct ScoreBody {
    #[serde(flatten)]
    pub(crate) cells: CellsBody,
    #[serde(flatten)]
    pub(crate) inject: InjectBody,
    pub(crate) text: String,
    #[serde(default = "yes")]
    pub(crate) edits: bool,
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// `/states`
#[derive(Debug, Deserialize)]
pub(crate) struct StatesBody {
    #[serde(flatten)]
    pub(crate) cells: CellsBody,
    #[serde(default = "yes")]
    pub(crate) edits: bool,
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// `/generate`
#[derive(Debug, Deserialize)]
pub(crate) struct GenerateBody {
    pub(crate) prompt: String,
    #[serde(flatten)]
    pub(crate) sampling: SamplingBody,
    #[serde(default = "thirty")]
    pub(crate) max_new_tokens: usize,
    #[serde(default = "yes")]
    pub(crate) edits: bool,
    #[serde(default)]
    pub(crate) steer: Vec<SteerBody>,
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// A state to write into every row while generating.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SteerBody {
    /// The prompt of the state, if it is not the continued one.
    pub(crate) prompt: Option<String>,
    pub(crate) layer: usize,
    pub(crate) token: usize,
    /// The layer to write at; the state's own layer by default.
    pub(crate) inject_layer: Option<usize>,
    #[serde(default = "add_matched")]
    pub(crate) mode: String,
    #[serde(default = "one")]
    pub(crate) strength: f32,
}

fn first_layer() -> usize {
    1
}

fn replace() -> String {
    "replace".to_owned()
}

fn add_matched() -> String {
    "add-matched".to_owned()
}

fn one() -> f32 {
    1.0
}

fn one_sample() -> usize {
    1
}

fn thirty() -> usize {
    30
}

fn yes() -> bool {
    true
}

impl CellsBody {
    /// The cells, layer by layer, all of prompt 0.
    pub(crate) fn cells(
        &self,
        prompt: &Prompt,
        model: &ServedModel,
        most: usize,
    ) -> Result<Vec<Cell>, Problem> {
        let (layers, tokens) = (model.opened.config.n_layers + 1, prompt.ids.len());
        let pairs: Vec<(usize, usize)> = match (&self.cells, &self.layers, &self.tokens) {
            (Some(cells), None, None) => cells.clone(),
            (None, of_layers, of_tokens) => {
                let of_layers = of_layers.clone().unwrap_or_else(|| (0..layers).collect());
                let of_tokens = of_tokens.clone().unwrap_or_else(|| (0..tokens).collect());
                if of_layers.len().saturating_mul(of_tokens.len()) > most {
                    return Err(too_many(
                        of_layers.len().saturating_mul(of_tokens.len()),
                        most,
                    ));
                }
                let row = |&layer: &usize| of_tokens.iter().map(move |&token| (layer, token));
                of_layers.iter().flat_map(row).collect()
            }
            _ => {
                return Err(Problem::bad("give cells, or layers and tokens, not both"));
            }
        };
        if pairs.len() > most {
            return Err(too_many(pairs.len(), most));
        }
        if pairs.is_empty() {
            return Err(Problem::bad(
                "no cells given; give cells, or layers and tokens",
            ));
        }
        let cell = |&(layer, token): &(usize, usize)| Cell {
            prompt: 0,
            layer,
            token,
        };
        for &(layer, token) in &pairs {
            if layer >= layers {
                return Err(Problem::bad(format!(
                    "layer {layer} is out of range: hidden_states has layers 0..={}",
                    layers - 1
                )));
            }
            if token >= tokens {
                return Err(Problem::bad(format!(
                    "token {token} is out of range: the prompt has tokens 0..{tokens}"
                )));
            }
        }
        Ok(pairs.iter().map(cell).collect())
    }
}

fn too_many(found: usize, most: usize) -> Problem {
    let message =
        format!("{found} rows exceed the limit of {most} per request; ask for fewer at a time");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

impl InjectBody {
    /// The interpretation prompt; a named one unless it is given.
    pub(crate) fn prompt(&self, model: &ServedModel) -> Result<InterpretationPrompt, Problem> {
        let Some(parts) = &self.interpretation_prompt else {
            return model.template(self.template.as_deref().unwrap_or("summarize"));
        };
        if self.template.is_some() {
            return Err(Problem::bad(
                "give template or interpretation_prompt, not both",
            ));
        }
        let json = Value::from(parts.clone()).to_string();
        match PromptMessage::list_from_json(&json)? {
            None => Ok(json.parse()?),
            Some(messages) => {
                let template = model.chat_template()?;
                Ok(InterpretationPrompt::from_messages(&messages, template)?)
            }
        }
    }

    pub(crate) fn at(&self) -> Result<InjectAt, Problem> {
        Ok(InjectAt {
            layer: self.inject_layer,
            mode: self
                .mode
                .parse()
                .map_err(selfie::Error::Kernel)
                .map_err(bad)?,
            strength: self.strength,
        })
    }

    /// The program options of the interpretation prompt; empty for the default.
    pub(crate) fn words(&self) -> Vec<String> {
        match (&self.interpretation_prompt, self.template.as_deref()) {
            (Some(parts), _) => vec![
                "--interpretation-prompt".to_owned(),
                Value::from(parts.clone()).to_string(),
            ],
            (None, None | Some("summarize")) => Vec::new(),
            (None, Some(name)) => vec!["--template".to_owned(), name.to_owned()],
        }
    }
}

/// An unknown mode is the request's fault.
fn bad(error: selfie::Error) -> Problem {
    Problem::bad(error.to_string())
}

impl SteerBody {
    pub(crate) fn at(&self, n_layers: usize) -> Result<InjectAt, Problem> {
        let layer = self.inject_layer.unwrap_or(self.layer.min(n_layers - 1));
        if layer >= n_layers || self.layer > n_layers {
            return Err(Problem::bad(format!(
                "steer: layer out of range; states have layers 0..={n_layers}, and are injected at layers 0..{n_layers}"
            )));
        }
        if !self.strength.is_finite() {
            return Err(Problem::bad("steer: strength is not a finite number"));
        }
        Ok(InjectAt {
            layer,
            mode: self
                .mode
                .parse()
                .map_err(selfie::Error::Kernel)
                .map_err(bad)?,
            strength: self.strength,
        })
    }
}

impl SamplingBody {
    pub(crate) fn overrides(&self) -> SamplingOverrides {
        SamplingOverrides {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }

    /// Greedy unless these fields say otherwise.
    fn alone(&self) -> Result<Option<Sampling>, Problem> {
        Ok(GenerationConfig::resolve(None, &self.overrides())?.sampling)
    }

    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut option = |name: &str, value: Option<String>| {
            words.extend(
                value
                    .into_iter()
                    .flat_map(|value| [format!("--{name}"), value]),
            );
        };
        option("temperature", self.temperature.map(|x| x.to_string()));
        option("top-k", self.top_k.map(|x| x.to_string()));
        option("top-p", self.top_p.map(|x| x.to_string()));
        option("min-p", self.min_p.map(|x| x.to_string()));
        let penalty = self.repetition_penalty;
        option("repetition-penalty", penalty.map(|x| x.to_string()));
        words
    }
}

impl InterpretBody {
    /// The options of each sample. Sample i adds i to the seed.
    pub(crate) fn samples(
        &self,
        prompt: &Prompt,
        model: &ServedModel,
    ) -> Result<Vec<Options>, Problem> {
        let controls = self.controls.iter().map(|name| name.parse::<Control>());
        let first = Options {
            prompts_bos: Some(prompt.bos),
            injections: vec![self.inject.at()?],
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling.alone()?,
            relevancy: self.relevancy,
            controls: controls.collect::<Result<_, _>>()?,
            ..model
                .opened
                .interpret_options_with(self.inject.prompt(model)?)?
        };
        if self.samples == 0 {
            return Err(Problem::bad("samples must be at least 1"));
        }
        if self.samples > 1 && first.sampling.is_none() {
            return Err(Problem::bad(
                "samples: greedy texts are all the same; give a temperature above 0",
            ));
        }
        let sample = |index: usize| {
            let seed = self.sampling.seed.wrapping_add(index as u64);
            Options {
                sampling: first.sampling.map(|sampling| Sampling { seed, ..sampling }),
                control_seed: seed,
                ..first.clone()
            }
        };
        Ok((0..self.samples).map(sample).collect())
    }

    /// The number of rows.
    pub(crate) fn rows(&self, cells: usize) -> usize {
        cells.saturating_mul(self.samples)
    }

    /// The program options of a sample, besides prompt, cells and injection.
    pub(crate) fn words(&self, sample: usize) -> Vec<String> {
        let mut words = self.inject.words();
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        if self.max_new_tokens != thirty() {
            option("--max-new-tokens", self.max_new_tokens.to_string());
        }
        let seed = self.sampling.seed.wrapping_add(sample as u64);
        if seed != 0 {
            option("--seed", seed.to_string());
        }
        if !self.controls.is_empty() {
            option("--controls", self.controls.join(","));
        }
        if !self.relevancy {
            words.push("--no-relevancy".to_owned());
        }
        words.extend(self.sampling.words());
        words
    }
}
