//! The defaults of decoding that a checkpoint asks for: `generation_config.json`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::json::{Fields, parse_object};
use crate::{LlamaError, Result};

/// What is taken from `generation_config.json`; the rest of that file is left alone.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Token ids that end a text; `None` = those of `config.json`.
    pub eos: Option<Vec<u32>>,
    /// Whether to sample; `false` = greedy.
    pub do_sample: bool,
    /// What logits are divided by before sampling; at least 0.
    pub temperature: Option<f32>,
    /// How many of the most likely tokens are sampled from; 0 = all.
    pub top_k: Option<usize>,
    /// The mass of the most likely tokens that are sampled from, in 0..=1.
    pub top_p: Option<f32>,
}

impl GenerationConfig {
    /// Reads `dir/generation_config.json`; `None` when there is no such file.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("generation_config.json");
        let json = match fs::read_to_string(&path) {
            Ok(json) => json,
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LlamaError::Read { path, source }),
        };
        Self::parse(&json, &path).map(Some)
    }

    /// Reads the text of a `generation_config.json`. `path` is what errors call it.
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        let object = parse_object(json, path)?;
        let fields = Fields::new(path, &object);
        let temperature = fields.number("temperature", "a number of at least 0", |number| {
            number >= 0.0 && (number as f32).is_finite()
        })?;
        let top_p = fields.number("top_p", "a number from 0 to 1", |number| {
            (0.0..=1.0).contains(&number)
        })?;
        Ok(GenerationConfig {
            eos: fields.token_ids("eos_token_id")?,
            do_sample: fields.flag("do_sample")?.unwrap_or(false),
            temperature: temperature.map(|number| number as f32),
            top_k: fields.integer("top_k", 0..=1 << 24)?,
            top_p: top_p.map(|number| number as f32),
        })
    }
}
