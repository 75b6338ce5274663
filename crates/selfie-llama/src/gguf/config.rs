//! Turns metadata into a `config.json`: the fields of transformers, which [`LlamaConfig`](crate::LlamaConfig) reads
//! like those of a file.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::header::{List, Meta};
use super::names::{Architecture, Shapes};
use super::{Gguf, rope};
use crate::{LlamaError, Result};

/// More than any model has, and small enough that a product of two values does not overflow.
const MAX: u64 = 1 << 31;
/// Layers are listed one by one, so their number is limited.
const MAX_LAYERS: u64 = 1 << 10;

/// Typed reads of the metadata. An error names the file, the key and its value.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) path: &'a Path,
    pub(super) metadata: &'a BTreeMap<String, Meta>,
}

impl<'a> Keys<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Meta> {
        self.metadata.get(key)
    }

    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let value = match self.get(key) {
            None => return Ok(None),
            Some(&Meta::Unsigned(value)) => Some(value),
            Some(&Meta::Signed(value)) => u64::try_from(value).ok(),
            Some(_) => None,
        };
        match value.filter(|value| range.contains(value)) {
            Some(value) => Ok(Some(value)),
            None => Err(self.refuse(
                key,
                format!(
                    "expected an integer from {} to {}",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// A finite number, as the shortest decimal that gives the same f32: the value that `config.json` had before.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let value = match self.get(key) {
            None => return Ok(None),
            Some(&Meta::F32(value)) => value.to_string().parse().ok(),
            Some(&Meta::F64(value)) => Some(value),
            Some(_) => None,
        };
        match value.filter(|value: &f64| value.is_finite()) {
            Some(value) => Ok(Some(value)),
            None => Err(self.refuse(key, "expected a finite number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(&Meta::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.refuse(key, "expected true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Meta::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(key, "expected a string")),
        }
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<&'a List>> {
        match self.get(key) {
            None => Ok(None),
            Some(Meta::List(list)) => Ok(Some(list)),
            Some(_) => Err(self.refuse(key, "expected a list")),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&'a [String]>> {
        match self.list(key)? {
            None => Ok(None),
            Some(List::Text(list)) => Ok(Some(list)),
            Some(_) => Err(self.refuse(key, "expected a list of strings")),
        }
    }

    /// A number that a file may also give per layer; it must be the same for all layers.
    fn same(&self, key: &str) -> Result<Option<u64>> {
        let values: Vec<u64> = match self.get(key) {
            Some(Meta::List(List::Unsigned(list))) => list.clone(),
            Some(Meta::List(List::Signed(list))) => list
                .iter()
                .map(|&value| u64::try_from(value).unwrap_or(0))
                .collect(),
            _ => return self.integer(key, 1..=MAX),
        };
        match values.first() {
            Some(&first) if values.iter().all(|&v| v == first) && (1..=MAX).contains(&first) => {
                Ok(Some(first))
            }
            _ => Err(self.refuse(key, "it must be the same for all layers")),
        }
    }

    pub(super) fn fail(&self, problem: impl Into<String>) -> LlamaError {
        LlamaError::Gguf {
            file: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(super) fn missing(&self, key: &str) -> LlamaError {
        LlamaError::ConfigMissing {
            path: self.path.to_owned(),
            field: key.to_owned(),
        }
    }

    pub(super) fn refuse(&self, key: &str, expected: impl Into<String>) -> LlamaError {
        LlamaError::ConfigField {
            path: self.path.to_owned(),
            field: key.to_owned(),
            value: self.get(key).map_or_else(|| "null".to_owned(), shown),
            expected: expected.into(),
        }
    }
}

/// A value, as messages show it.
fn shown(value: &Meta) -> String {
    match value {
        Meta::Unsigned(value) => value.to_string(),
        Meta::Signed(value) => value.to_string(),
        Meta::F32(value) => value.to_string(),
        Meta::F64(value) => value.to_string(),
        Meta::Bool(value) => value.to_string(),
        Meta::Text(text) => {
            let short: String = text.chars().take(60).collect();
            Value::String(short).to_string()
        }
        Meta::List(_) => "a list".to_owned(),
    }
}

impl Shapes {
    pub(super) fn new(keys: &Keys) -> Result<Self> {
        let model = Model {
            keys: *keys,
            name: Architecture::of(keys)?.name,
        };
        let heads = model.required("attention.head_count")?;
        let layers = model.required("block_count")?;
        if layers > MAX_LAYERS {
            let expected = format!("expected an integer from 1 to {MAX_LAYERS}");
            return Err(model.refuse("block_count", expected));
        }
        Ok(Self {
            layers: layers as usize,
            heads: heads as usize,
            kv_heads: model.same("attention.head_count_kv")?.unwrap_or(heads) as usize,
        })
    }
}

/// The keys of one architecture: `llama.block_count`.
pub(super) struct Model<'a> {
    pub(super) keys: Keys<'a>,
    pub(super) name: &'static str,
}

impl Model<'_> {
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn same(&self, name: &str) -> Result<Option<u64>> {
        self.keys.same(&self.key(name))
    }

    fn required(&self, name: &str) -> Result<u64> {
        self.same(name)?
            .ok_or_else(|| self.keys.missing(&self.key(name)))
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<u64>> {
        self.keys.integer(&self.key(name), 0..=MAX)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>> {
        self.keys.number(&self.key(name))
    }

    pub(super) fn required_number(&self, name: &str) -> Result<f64> {
        self.number(name)?
            .ok_or_else(|| self.keys.missing(&self.key(name)))
    }

    pub(super) fn refuse(&self, name: &str, expected: impl Into<String>) -> LlamaError {
        self.keys.refuse(&self.key(name), expected)
    }
}

/// The ids that end a text.
pub(super) fn eos(keys: &Keys) -> Result<Vec<u64>> {
    let mut ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        let id = token_id(keys, key)?;
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}

/// The id of a token; `None` if the key is missing or is -1 as u32.
pub(super) fn token_id(keys: &Keys, key: &str) -> Result<Option<u64>> {
    let id = keys.integer(key, 0..=u32::MAX.into())?;
    Ok(id.filter(|&id| id != u64::from(u32::MAX)))
}

/// The object that `config.json` would hold.
pub(super) fn config(gguf: &Gguf) -> Result<Map<String, Value>> {
    let keys = &gguf.keys();
    let architecture = Architecture::of(keys)?;
    let name = architecture.name;
    let model = Model { keys: *keys, name };
    let shapes = Shapes::new(keys)?;
    let has = |tensor: &str| gguf.tensors.contains_key(tensor);
    let width = model.required("embedding_length")?;
    let head_dim = match model.integer("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => width / shapes.heads as u64,
    };
    if let Some(value) = model.integer("attention.value_length")?
        && value != head_dim
    {
        let expected = format!("expected the size of a key, {head_dim}");
        return Err(model.refuse("attention.value_length", expected));
    }
    let theta = model.number("rope.freq_base")?.unwrap_or(10_000.0);
    let window = model.integer("attention.sliding_window")?;
    let window = window.filter(|&window| window > 0);
    let epsilon = model.required_number("attention.layer_norm_rms_epsilon")?;

    let mut config = Map::new();
    let mut set = |name: &str, value: Value| {
        config.insert(name.to_owned(), value);
    };
    set("model_type", json!(architecture.model_type));
    set("vocab_size", json!(vocab_size(gguf)?));
    set("hidden_size", json!(width));
    set(
        "intermediate_size",
        json!(model.required("feed_forward_length")?),
    );
    set("num_hidden_layers", json!(shapes.layers));
    set("num_attention_heads", json!(shapes.heads));
    set("num_key_value_heads", json!(shapes.kv_heads));
    set("head_dim", json!(head_dim));
    set(
        "max_position_embeddings",
        json!(model.required("context_length")?),
    );
    set("rms_norm_eps", json!(epsilon));
    set("rope_theta", json!(theta));
    set("tie_word_embeddings", json!(!has("output.weight")));
    if let Some(id) = token_id(keys, "tokenizer.ggml.bos_token_id")? {
        set("bos_token_id", json!(id));
    }
    let eos = eos(keys)?;
    if !eos.is_empty() {
        set("eos_token_id", json!(eos));
    }
    if let Some(rotated) = model.integer("rope.dimension_count")?
        && rotated != head_dim
    {
        set(
            "partial_rotary_factor",
            json!(rotated as f64 / head_dim as f64),
        );
    }
    if let Some(scaling) = rope::scaling(&model, gguf, theta, head_dim)? {
        set("rope_scaling", scaling);
    }
    if matches!(name, "llama" | "qwen3" | "olmo2" | "smollm3" | "granite") {
        set("attention_bias", json!(has("blk.0.attn_q.bias")));
    }
    if matches!(name, "llama" | "smollm3" | "granite") {
        set("mlp_bias", json!(has("blk.0.ffn_up.bias")));
    }
    match (name, window) {
        ("gemma2" | "gemma3", window) => gemma(&model, window, &shapes, head_dim, &mut set)?,
        // Mistral 7B has the architecture llama, and OLMo 3 has olmo2.
        ("llama", Some(window)) => {
            set("model_type", json!("mistral"));
            set("sliding_window", json!(window));
        }
        ("olmo2", Some(window)) => {
            set("model_type", json!("olmo3"));
            set("sliding_window", json!(window));
            set("layer_types", layer_types(&model, &shapes, 4)?);
        }
        ("phi3", window) => set("sliding_window", json!(window)),
        (_, Some(_)) => {
            let expected = format!("a window is not supported in {name}");
            return Err(model.refuse("attention.sliding_window", expected));
        }
        (_, None) => {}
    }
    match name {
        "smollm3" => {
            // llama.cpp knows no other interval, and the file does not store it.
            let has_rope = (1..=shapes.layers).map(|number| u8::from(number % 4 != 0));
            set("no_rope_layers", has_rope.collect());
        }
        "granite" => {
            for (field, key) in [
                ("embedding_multiplier", "embedding_scale"),
                ("residual_multiplier", "residual_scale"),
                ("attention_multiplier", "attention.scale"),
                ("logits_scaling", "logit_scale"),
            ] {
                set(field, json!(model.required_number(key)?));
            }
        }
        _ => {}
    }
    Ok(config)
}

/// The fields that only Gemma 2 and 3 have.
fn gemma(
    model: &Model,
    window: Option<u64>,
    shapes: &Shapes,
    head_dim: u64,
    set: &mut impl FnMut(&str, Value),
) -> Result<()> {
    let is_gemma3 = model.name == "gemma3";
    set("hidden_activation", json!("gelu_pytorch_tanh"));
    for (field, key, default) in [
        ("attn_logit_softcapping", "attn_logit_softcapping", 50.0),
        ("final_logit_softcapping", "final_logit_softcapping", 30.0),
    ] {
        // Without the key, Gemma 3 has no cap and Gemma 2 has llama.cpp's default.
        let cap = model.number(key)?.or((!is_gemma3).then_some(default));
        set(field, json!(cap));
    }
    // The file does not store it. llama.cpp recognizes the largest model of each family by its number of layers.
    let is_27b = shapes.layers == if is_gemma3 { 62 } else { 46 };
    let width = model.required("embedding_length")?;
    let scalar = if is_27b {
        width / shapes.heads as u64
    } else {
        head_dim
    };
    set("query_pre_attn_scalar", json!(scalar));
    match window {
        Some(window) => {
            set("sliding_window", json!(window));
            set(
                "layer_types",
                layer_types(model, shapes, if is_gemma3 { 6 } else { 2 })?,
            );
        }
        None => {
            let key = model.key("attention.sliding_window");
            return Err(model.keys.missing(&key));
        }
    }
    if is_gemma3 {
        let local = model.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
        set("rope_local_base_freq", json!(local));
    }
    Ok(())
}

/// Which layers have the window: as the file says, otherwise all but each `step`-th.
fn layer_types(model: &Model, shapes: &Shapes, step: u64) -> Result<Value> {
    const KEY: &str = "attention.sliding_window_pattern";
    let name = |is_sliding: bool| {
        if is_sliding {
            "sliding_attention"
        } else {
            "full_attention"
        }
    };
    let key = model.key(KEY);
    let step = match model.keys.get(&key) {
        Some(Meta::List(List::Bool(list))) if list.len() == shapes.layers => {
            return Ok(list.iter().map(|&is_sliding| name(is_sliding)).collect());
        }
        Some(Meta::List(_)) => {
            let expected = format!("expected one flag for each of {} layers", shapes.layers);
            return Err(model.refuse(KEY, expected));
        }
        _ => model.keys.integer(&key, 1..=MAX)?.unwrap_or(step),
    };
    let layers = 1..=shapes.layers as u64;
    Ok(layers
        .map(|number| name(!number.is_multiple_of(step)))
        .collect())
}

/// The rows of the embedding table; there may be more rows than tokens.
fn vocab_size(gguf: &Gguf) -> Result<usize> {
    const TABLE: &str = "token_embd.weight";
    match gguf.tensors.get(TABLE) {
        Some((table, _)) if table.dims.len() == 2 => Ok(table.dims[1]),
        _ => Err(gguf.keys().fail(format!(
            "it has no matrix {TABLE}, whose rows are the vocabulary"
        ))),
    }
}
