//! The settings that all rows of a sweep must share.

use std::fs;

use selfie::Opened;
use selfie::interp::{InterpretationPrompt, Options, PromptPart, RowFields};
use selfie::kernels::DType;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::read_error;
use crate::{Plan, Result};

/// How many differences a message names.
const NAMED: usize = 3;

/// Everything that a sweep's rows depend on: the weights by their fingerprint, edits and tokenized prompts by their
/// SHA-256, and the options. The batch size, the threads and the model's name are not among them: a CPU gives the same
/// bits for any of these, and so does a GPU with `--deterministic`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(pub Value);

impl Settings {
    /// The settings of a plan and options. Reads all weights. `reader` is the model that reads, if it is another one.
    pub fn new(
        subject: &Opened,
        reader: Option<&Opened>,
        plan: &Plan,
        options: &Options,
    ) -> Result<Self> {
        let injections = options.injections.iter().map(|inject| {
            json!({"layer": inject.layer, "mode": inject.mode.name(), "strength": inject.strength})
        });
        let sampling = options.sampling.map(|sampling| {
            json!({
                "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
                "repetition_penalty": sampling.repetition_penalty, "seed": sampling.seed,
            })
        });
        Ok(Self(json!({
            "selfie": env!("CARGO_PKG_VERSION"),
            "model": model(subject)?,
            "reader": reader.map(model).transpose()?,
            "prompts": prompts(subject, plan)?,
            "layers": plan.layers,
            "tokens": plan.tokens.to_string(),
            "injections": injections.collect::<Vec<_>>(),
            "interpretation_prompt": interpretation_prompt(&options.prompt),
            "bos": format!("{:?}", options.bos).to_lowercase(),
            "max_new_tokens": options.max_new_tokens,
            "eos": options.eos,
            "sampling": sampling,
            "samples": options.samples,
            "map": options.map.as_ref().map(|map| sha256(format!("{map:?}").as_bytes())),
            "span": options.span,
            "read_together": (!options.layers.is_empty()).then_some(&options.layers),
            "cut": options.cut.as_ref().map(|cut| format!("{cut:?}")),
            "relevancy": options.relevancy,
            "controls": options.controls.iter().map(|control| control.name()).collect::<Vec<_>>(),
            "control_seed": options.control_seed,
            "shard": plan.shard.to_string(),
        })))
    }

    /// Describes the differences, one sentence each, with enough text to tell the values apart; empty if there are
    /// none.
    pub fn differences(&self, there: &Settings) -> Vec<String> {
        let mut found = Vec::new();
        compare("", &there.0, &self.0, &mut found);
        if found.len() > NAMED {
            let more = found.len() - NAMED;
            found.truncate(NAMED);
            found.push(format!("and {more} more"));
        }
        found
    }

    /// The settings without the shard, which are the same for all shards.
    pub(crate) fn without_shard(&self) -> Self {
        let mut settings = self.0.clone();
        if let Some(settings) = settings.as_object_mut() {
            settings.remove("shard");
        }
        Self(settings)
    }

    pub(crate) fn shard(&self) -> Option<crate::Shard> {
        self.0.get("shard")?.as_str()?.parse().ok()
    }

    /// The optional fields of the rows; `None` if the settings are malformed.
    pub(crate) fn fields(&self) -> Option<RowFields> {
        let names = self.0.get("controls")?.as_array()?.iter();
        let controls = names.map(|name| name.as_str()?.parse().ok());
        Some(RowFields {
            samples: self.0.get("samples")?.as_u64()? > 1,
            controls: controls.collect::<Option<_>>()?,
        })
    }
}

fn model(opened: &Opened) -> Result<Value> {
    let checkpoint = opened.source.checkpoint()?;
    // The formats in which a CPU loads them, and the dtype in which it keeps keys and values.
    let weights = opened.weights(&checkpoint, true)?;
    let formats: Vec<String> = weights.formats().map(|format| format.to_string()).collect();
    let mut edits = Vec::new();
    for path in &opened.options.edits {
        edits.push(sha256(&fs::read(path).map_err(read_error(path))?));
    }
    Ok(json!({
        "weights": checkpoint.fingerprint().map_err(selfie::Error::from)?,
        "config": sha256(format!("{:?}", opened.config).as_bytes()),
        "dtype": formats.join(", "),
        "kv": opened.options.kv.unwrap_or(DType::F32).to_string(),
        "edits": edits,
        "deterministic": opened.options.device.deterministic,
    }))
}

/// The number of prompts, and the SHA-256 of their texts and ids.
fn prompts(opened: &Opened, plan: &Plan) -> Result<Value> {
    let mut digest = Sha256::new();
    for text in plan.prompts() {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
    }
    for text in plan.texts() {
        let ids = opened.encode(text)?;
        digest.update((ids.len() as u64).to_le_bytes());
        for id in ids {
            digest.update(id.to_le_bytes());
        }
    }
    Ok(json!({"count": plan.prompts().len(), "sha256": format!("{:x}", digest.finalize())}))
}

fn interpretation_prompt(prompt: &InterpretationPrompt) -> Value {
    let part = |part: &PromptPart| match part {
        PromptPart::Text(text) => json!(text),
        PromptPart::Placeholder => json!(0),
        PromptPart::Marker(token) => json!({"marker": token}),
    };
    json!({
        "parts": prompt.parts.iter().map(part).collect::<Vec<_>>(),
        "joining": format!("{:?}", prompt.joining),
        "rendered": prompt.rendered,
    })
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn compare(name: &str, there: &Value, here: &Value, found: &mut Vec<String>) {
    match (there, here) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a
                .keys()
                .chain(b.keys().filter(|key| !a.contains_key(*key)))
                .collect();
            names.dedup();
            for key in names {
                let name = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                compare(
                    &name,
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (a, b) if a != b => found.push(format!(
            "{name} is {} there but {} here",
            short(a),
            short(b)
        )),
        _ => {}
    }
}

/// A value shortened for a message: long hashes are truncated.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let begin: String = text.chars().take(16).collect();
    format!("{begin}...")
}
