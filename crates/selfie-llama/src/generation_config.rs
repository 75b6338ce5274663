//! The decoding defaults of a checkpoint: `generation_config.json`.

use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use crate::folder::resolve_folder;
use crate::gguf::{Gguf, is_gguf};
use crate::json::{Fields, parse_object};
use crate::{LlamaConfig, LlamaError, Note, Result, Sampling, Tokenizer};

/// The number of likeliest tokens that transformers draws from if a file does not set `top_k`.
const DEFAULT_TOP_K: usize = 50;

/// The fields that are used from `generation_config.json`, and those that are not.
///
/// The length of a text is up to the caller, so `max_length` and its like are not read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Token ids that end a text; `None` means those of `config.json`.
    pub eos: Option<Vec<u32>>,
    /// Whether to sample; `false` means greedy decoding.
    pub do_sample: bool,
    /// Logits are divided by this before sampling; at least 0.
    pub temperature: Option<f32>,
    /// How many of the most likely tokens to sample from. 0 means all, and so does `null`. `None`, a file without the
    /// field, means 50 in transformers.
    pub top_k: Option<usize>,
    /// The probability mass of the most likely tokens to sample from, in 0..=1.
    pub top_p: Option<f32>,
    /// The least probability to sample, relative to that of the likeliest token, in 0..=1.
    pub min_p: Option<f32>,
    /// The logits of tokens already in the text are divided by this (multiplied, if negative); above 0.
    pub repetition_penalty: Option<f32>,
    /// Fields that ask for something unsupported.
    pub ignored: Vec<IgnoredField>,
}

/// A field that asks for something unsupported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredField {
    /// The note that says so.
    pub note: Note,
    /// Whether it matters only when sampling.
    pub sampling_only: bool,
}

/// The user's choices; `None` leaves the choice to the checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingOverrides {
    /// 0 = greedy.
    pub temperature: Option<f32>,
    /// 0 = all tokens.
    pub top_k: Option<usize>,
    /// 1 = all tokens.
    pub top_p: Option<f32>,
    /// 0 = all tokens.
    pub min_p: Option<f32>,
    /// 1 = no penalty.
    pub repetition_penalty: Option<f32>,
    /// The seed of the draws.
    pub seed: u64,
}

/// How to choose tokens, after [`GenerationConfig::resolve`].
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedSampling {
    /// `None` means greedy, by the raw logits.
    pub sampling: Option<Sampling>,
    /// The settings that come from the checkpoint's file, in one line; `None` if there are none.
    pub taken: Option<String>,
    /// Notes on unsupported fields of the file.
    pub notes: Vec<Note>,
}

impl GenerationConfig {
    /// Reads `dir/generation_config.json`. If it does not exist, reads what old checkpoints write into `config.json`;
    /// `None` if that has nothing either. For a GGUF file, reads the ids that end a text.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        if is_gguf(dir) {
            let config = Gguf::open(dir)?.generation_config()?;
            return config
                .map(|json| Self::parse(&json.to_string(), dir))
                .transpose();
        }
        let dir = resolve_folder(dir)?;
        let path = dir.join("generation_config.json");
        if let Some(json) = read(&path)? {
            return Self::parse(&json, &path).map(Some);
        }
        let path = dir.join("config.json");
        let Some(json) = read(&path)? else {
            return Ok(None);
        };
        let mut object = parse_object(&json, &path)?;
        // In `config.json`, null means the same as no field.
        object.retain(|name, value| !value.is_null() && is_of_generation(name));
        if object.is_empty() {
            return Ok(None);
        }
        Self::read(&object, &path).map(Some)
    }

    /// Parses the text of a `generation_config.json`. Errors call it `path`.
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        Self::read(&parse_object(json, path)?, path)
    }

    fn read(object: &Map<String, Value>, path: &Path) -> Result<Self> {
        let fields = Fields::new(path, object);
        let share = |name| {
            let expected = "a number from 0 to 1";
            fields.number(name, expected, |number| (0.0..=1.0).contains(&number))
        };
        let temperature = fields.number("temperature", "a number of at least 0", |number| {
            number >= 0.0 && (number as f32).is_finite()
        })?;
        let repetition_penalty = fields.number(PENALTY, "a finite number above 0", |number| {
            number as f32 > 0.0 && (number as f32).is_finite()
        })?;
        let top_k = match fields.integer("top_k", 0..=1 << 24)? {
            None if fields.names("top_k") => Some(0),
            top_k => top_k,
        };
        let ignored = UNSUPPORTED.iter().filter_map(|field| {
            let value = fields.get(field.name)?;
            let asks = !field.neutral(value);
            asks.then(|| IgnoredField {
                note: Note::FieldIgnored {
                    file: path.to_owned(),
                    field: field.name.to_owned(),
                    value: fields.shown(field.name),
                },
                sampling_only: field.sampling_only,
            })
        });
        Ok(GenerationConfig {
            eos: fields.token_ids("eos_token_id")?,
            do_sample: fields.flag("do_sample")?.unwrap_or(false),
            temperature: temperature.map(|number| number as f32),
            top_k,
            top_p: share("top_p")?.map(|number| number as f32),
            min_p: share("min_p")?.map(|number| number as f32),
            repetition_penalty: repetition_penalty.map(|number| number as f32),
            ignored: ignored.collect(),
        })
    }

    /// Decides how to choose tokens. `asked` takes precedence over the file, which is read as transformers reads it.
    ///
    /// The file's `do_sample` decides whether to sample, unless `asked` does: a temperature of 0 means greedy; any
    /// other temperature, or a `top_k`, `top_p` or `min_p`, means sampling. The repetition penalty applies either way.
    pub fn resolve(file: Option<&Self>, asked: &SamplingOverrides) -> Result<ResolvedSampling> {
        let nothing = Self::default();
        let said = file.unwrap_or(&nothing);
        let mut taken = Vec::new();
        let mut sampling = Sampling {
            temperature: 0.0,
            seed: asked.seed,
            ..Sampling::default()
        };
        let greedy = sampling;
        let penalty = (asked.repetition_penalty, said.repetition_penalty);
        sampling.repetition_penalty = first(PENALTY, penalty, 1.0, &mut taken);
        let cuts = asked.top_k.is_some() || asked.top_p.is_some() || asked.min_p.is_some();
        if asked.temperature.is_some() || cuts || said.do_sample {
            let temperature = (asked.temperature, said.temperature);
            sampling.temperature = first("temperature", temperature, 1.0, &mut taken);
        }
        let draws = sampling.temperature != 0.0;
        if draws {
            let (top_k, by) = match (asked.top_k, said.top_k) {
                (Some(top_k), _) => (top_k, None),
                (None, Some(top_k)) => (top_k, Some("")),
                (None, None) if said.do_sample => (DEFAULT_TOP_K, Some(" by default")),
                (None, None) => (0, None),
            };
            taken.extend(by.map(|by| format!("top_k {top_k}{by}")));
            sampling.top_k = top_k;
            sampling.top_p = first("top_p", (asked.top_p, said.top_p), 1.0, &mut taken);
            if asked.top_p.is_none() {
                // transformers always keeps the likeliest token.
                sampling.top_p = sampling.top_p.max(f32::MIN_POSITIVE);
            }
            sampling.min_p = first("min_p", (asked.min_p, said.min_p), 0.0, &mut taken);
        }
        sampling.check()?;
        let how = if draws {
            "tokens are drawn"
        } else {
            "decoding is greedy"
        };
        let by_file = draws && asked.temperature.is_none() && !cuts;
        let says = by_file || !taken.is_empty();
        let list = [how].into_iter().chain(taken.iter().map(String::as_str));
        let list = list.collect::<Vec<_>>().join(", ");
        let notes = said.ignored.iter();
        let notes = notes.filter(|ignored| draws || !ignored.sampling_only);
        Ok(ResolvedSampling {
            sampling: (sampling != greedy).then_some(sampling),
            taken: says.then(|| format!("as the checkpoint says, {list}")),
            notes: notes.map(|ignored| ignored.note.clone()).collect(),
        })
    }
}

/// The token ids that end a text: from `generation_config.json`, otherwise from `config.json`, otherwise from the
/// tokenizer.
pub fn eos_ids(
    generation: Option<&GenerationConfig>,
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
) -> Vec<u32> {
    let generation = generation.and_then(|generation| generation.eos.clone());
    let ids = generation.unwrap_or_else(|| config.eos.clone());
    if ids.is_empty() {
        return tokenizer.eos().into_iter().collect();
    }
    ids
}

const PENALTY: &str = "repetition_penalty";

/// The user's value, otherwise the file's, otherwise the default. If the file changes something, it is listed in
/// `taken`.
fn first<T: PartialEq + Display>(
    name: &str,
    (asked, said): (Option<T>, Option<T>),
    default: T,
    taken: &mut Vec<String>,
) -> T {
    let by_file = said.filter(|_| asked.is_none());
    if let Some(value) = by_file.as_ref().filter(|value| **value != default) {
        taken.push(format!("{name} {value}"));
    }
    asked.or(by_file).unwrap_or(default)
}

/// A field whose effect is unsupported, and the values that have no effect.
struct Unsupported {
    name: &'static str,
    neutral: &'static [f64],
    sampling_only: bool,
}

impl Unsupported {
    /// Whether a value has no effect.
    fn neutral(&self, value: &Value) -> bool {
        match value {
            Value::Bool(flag) => !flag,
            Value::Number(number) => number
                .as_f64()
                .is_some_and(|number| self.neutral.contains(&number)),
            Value::Array(list) => list.is_empty(),
            Value::Null => true,
            Value::String(_) | Value::Object(_) => false,
        }
    }
}

const fn unsupported(name: &'static str, neutral: &'static [f64]) -> Unsupported {
    Unsupported {
        name,
        neutral,
        sampling_only: false,
    }
}

const fn unsupported_sampling(name: &'static str, neutral: &'static [f64]) -> Unsupported {
    Unsupported {
        name,
        neutral,
        sampling_only: true,
    }
}

/// The fields of transformers 4.57 (`GenerationConfig.__init__`) that change which tokens are generated. Those of beam
/// search have no effect with a single beam.
const UNSUPPORTED: [Unsupported; 26] = [
    unsupported_sampling("typical_p", &[1.0]),
    unsupported_sampling("epsilon_cutoff", &[0.0, 1.0]),
    unsupported_sampling("eta_cutoff", &[0.0, 1.0]),
    unsupported("no_repeat_ngram_size", &[0.0]),
    unsupported("encoder_repetition_penalty", &[1.0]),
    unsupported("encoder_no_repeat_ngram_size", &[0.0]),
    unsupported("bad_words_ids", &[]),
    unsupported("sequence_bias", &[]),
    unsupported("min_length", &[0.0]),
    unsupported("min_new_tokens", &[0.0]),
    unsupported("forced_bos_token_id", &[]),
    unsupported("forced_eos_token_id", &[]),
    unsupported("exponential_decay_length_penalty", &[]),
    unsupported("suppress_tokens", &[]),
    unsupported("begin_suppress_tokens", &[]),
    unsupported("remove_invalid_values", &[]),
    unsupported("guidance_scale", &[1.0]),
    unsupported("watermarking_config", &[]),
    unsupported("stop_strings", &[]),
    unsupported("max_time", &[]),
    unsupported("num_beams", &[1.0]),
    unsupported("penalty_alpha", &[0.0]),
    unsupported("dola_layers", &[]),
    unsupported("constraints", &[]),
    unsupported("force_words_ids", &[]),
    unsupported("token_healing", &[]),
];

/// Whether a field of `config.json` belongs to generation.
fn is_of_generation(name: &str) -> bool {
    let taken = [
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        PENALTY,
    ];
    taken.contains(&name) || UNSUPPORTED.iter().any(|field| field.name == name)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(json) => Ok(Some(json)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LlamaError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}
