//! The shape of a model: `config.json`.
//!
//! What this crate cannot compute faithfully is refused here, before a weight is read.

use std::fs;
use std::path::Path;

use selfie_kernels::{AttnShape, DType};
use serde_json::Value;

use crate::checkpoint::{check_folder, only_adapter};
use crate::folder::resolve_folder;
use crate::gguf::{Gguf, is_gguf};
use crate::json::{Fields, parse_object};
use crate::{GenerationConfig, LlamaError, Result, Rope, RopeScaling};

/// Bounds under which bytes of parameters fit 63 bits, and positions are exact in f32.
const MAX_SIZE: usize = 1 << 24;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_LAYERS: usize = 1 << 10;

/// The window of transformers for a configuration that has one but does not say how wide.
const DEFAULT_WINDOW: usize = 4096;

/// The families of checkpoints whose layers are those of a LLaMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelType {
    /// LLaMA 1 to 3, and everything that calls itself so.
    Llama,
    /// Mistral 7B and its kin, without a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases on queries, keys and values.
    Qwen2,
}

/// What `config.json` says of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// The family.
    pub model_type: ModelType,
    /// Rows of the embedding table and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the MLP's hidden layer.
    pub ffn: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Heads of each layer; `heads * head_dim` may differ from `d_model`.
    pub attn: AttnShape,
    /// What RMSNorm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Rotary position embeddings.
    pub rope: Rope,
    /// Whether the projections to queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the MLP's three projections have a bias.
    pub mlp_bias: bool,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Token ids that begin a text.
    pub bos: Vec<u32>,
    /// Token ids that end a text: of the two files that may name them, `generation_config.json` comes first.
    pub eos: Vec<u32>,
    /// The type that the file says the weights are stored in. It only informs: the checkpoint's tensors have the last
    /// word ([`stored_dtype`](crate::stored_dtype)), and a model is computed in [`Llama::dtype`](crate::Llama::dtype).
    pub dtype: Option<DType>,
}

impl LlamaConfig {
    /// Reads `dir/config.json`, that of the snapshot of a `models--org--name` folder, or a GGUF file. The ids that end a text are those
    /// of `generation_config.json`, where that has some ([`eos_ids`](crate::eos_ids) asks the tokenizer last).
    pub fn open(dir: &Path) -> Result<Self> {
        if is_gguf(dir) {
            let config = Value::Object(Gguf::open(dir)?.config()?);
            return Self::parse(&config.to_string(), dir);
        }
        let dir = resolve_folder(dir)?;
        check_folder(&dir)?;
        let path = dir.join("config.json");
        let config = match fs::read_to_string(&path) {
            Ok(json) => Self::parse(&json, &path)?,
            Err(source) => {
                return Err(only_adapter(&dir)?.unwrap_or(LlamaError::Read { path, source }));
            }
        };
        let generation = GenerationConfig::open(&dir)?;
        Ok(Self {
            eos: generation.and_then(|g| g.eos).unwrap_or(config.eos),
            ..config
        })
    }

    /// Reads the text of a `config.json`; `path` is what errors call it.
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        let object = parse_object(json, path)?;
        let root = Fields::new(path, &object);
        let model_type = model_type(&root)?;
        refuse_quantized(&root)?;
        if !matches!(root.text("hidden_act")?, None | Some("silu" | "swish")) {
            return Err(root.refuse("hidden_act", "supported: silu"));
        }

        let d_model = required(&root, "hidden_size", MAX_SIZE)?;
        let max_positions = root
            .integer("max_position_embeddings", 1..=MAX_SIZE)?
            .unwrap_or(2048);
        refuse_window(&root, model_type, max_positions)?;
        let eps = root.number("rms_norm_eps", "a finite number above 0", |number| {
            let eps = number as f32;
            eps > 0.0 && eps.is_finite()
        })?;
        // transformers knows these two switches in its LLaMA only; the other families are fixed.
        let is_llama = model_type == ModelType::Llama;
        let attention_bias = is_llama && root.flag("attention_bias")?.unwrap_or(false);
        let mlp_bias = is_llama && root.flag("mlp_bias")?.unwrap_or(false);

        Ok(LlamaConfig {
            model_type,
            vocab_size: required(&root, "vocab_size", MAX_SIZE)?,
            d_model,
            ffn: required(&root, "intermediate_size", MAX_SIZE)?,
            n_layers: required(&root, "num_hidden_layers", MAX_LAYERS)?,
            attn: attn_shape(&root, d_model)?,
            rms_norm_eps: eps.unwrap_or(1e-6) as f32,
            rope: rope(&root, max_positions)?,
            qkv_bias: attention_bias || model_type == ModelType::Qwen2,
            o_bias: attention_bias,
            mlp_bias,
            tie_word_embeddings: root.flag("tie_word_embeddings")?.unwrap_or(false),
            max_positions,
            bos: root.token_ids("bos_token_id")?.unwrap_or_default(),
            eos: root.token_ids("eos_token_id")?.unwrap_or_default(),
            dtype: dtype(&root),
        })
    }

    /// An error when a sequence of `positions` tokens is longer than the model was made for.
    pub fn check_context(&self, positions: usize) -> Result<()> {
        if positions <= self.max_positions {
            return Ok(());
        }
        Err(LlamaError::ContextLength {
            positions,
            max: self.max_positions,
        })
    }

    /// The number of parameters; a head tied to the embedding table counts once.
    pub fn n_parameters(&self) -> u64 {
        let bias = |has: bool, width: usize| if has { width } else { 0 };
        let attention = self.d_model * (self.attn.qkv_dim() + self.attn.q_dim())
            + bias(self.qkv_bias, self.attn.qkv_dim())
            + bias(self.o_bias, self.d_model);
        let mlp = 3 * self.d_model * self.ffn + bias(self.mlp_bias, 2 * self.ffn + self.d_model);
        let norms = 2 * self.d_model;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        (tables * self.vocab_size * self.d_model
            + self.n_layers * (attention + mlp + norms)
            + self.d_model) as u64
    }
}

impl ModelType {
    const ALL: [ModelType; 3] = [ModelType::Llama, ModelType::Mistral, ModelType::Qwen2];

    /// The family's name in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            ModelType::Llama => "llama",
            ModelType::Mistral => "mistral",
            ModelType::Qwen2 => "qwen2",
        }
    }

    const fn architecture(self) -> &'static str {
        match self {
            ModelType::Llama => "LlamaForCausalLM",
            ModelType::Mistral => "MistralForCausalLM",
            ModelType::Qwen2 => "Qwen2ForCausalLM",
        }
    }
}

fn required(root: &Fields, name: &str, limit: usize) -> Result<usize> {
    root.integer(name, 1..=limit)?
        .ok_or_else(|| root.missing(name))
}

fn model_type(root: &Fields) -> Result<ModelType> {
    let mut architectures = root.texts("architectures")?.unwrap_or_default();
    for name in &mut architectures {
        // The spelling of the first checkpoints.
        if *name == "LLaMAForCausalLM" {
            *name = ModelType::Llama.architecture();
        }
    }
    let found = match (root.text("model_type")?, architectures.first()) {
        (Some(name), _) => {
            let found = ModelType::ALL.into_iter().find(|t| t.name() == name);
            found.ok_or_else(|| root.refuse("model_type", supported(ModelType::name)))?
        }
        (None, Some(name)) => {
            let found = ModelType::ALL
                .into_iter()
                .find(|t| t.architecture() == *name);
            found.ok_or_else(|| root.refuse("architectures", supported(ModelType::architecture)))?
        }
        (None, None) => return Err(root.missing("model_type")),
    };
    if !architectures.is_empty() && !architectures.contains(&found.architecture()) {
        let expected = format!(
            "supported for model_type {}: {}",
            found.name(),
            found.architecture()
        );
        return Err(root.refuse("architectures", expected));
    }
    Ok(found)
}

fn supported(name: impl Fn(ModelType) -> &'static str) -> String {
    format!("supported: {}", ModelType::ALL.map(name).join(", "))
}

fn refuse_quantized(root: &Fields) -> Result<()> {
    const EXPECTED: &str =
        "supported: unquantized weights (f32, bf16, f16); use the original checkpoint";
    if root.get("quantization_config").is_none() {
        return Ok(());
    }
    match root.object("quantization_config")? {
        Some(fields) if fields.get("quant_method").is_some() => {
            Err(fields.refuse("quant_method", EXPECTED))
        }
        _ => Err(root.refuse("quantization_config", EXPECTED)),
    }
}

/// A window that no admissible position reaches changes nothing; any other changes the numbers.
fn refuse_window(root: &Fields, model_type: ModelType, max_positions: usize) -> Result<()> {
    let applies = match model_type {
        ModelType::Llama => false,
        ModelType::Mistral => true,
        ModelType::Qwen2 => {
            root.flag("use_sliding_window")?.unwrap_or(false) && has_windowed_layer(root)?
        }
    };
    if !applies {
        return Ok(());
    }
    let (window, shown) = match root.integer("sliding_window", 1..=MAX_SIZE)? {
        Some(window) => (window, window.to_string()),
        None if root.names("sliding_window") => return Ok(()),
        None => (DEFAULT_WINDOW, format!("absent, so {DEFAULT_WINDOW}")),
    };
    if window >= max_positions {
        return Ok(());
    }
    let expected = format!(
        "supported: a window of at least max_position_embeddings, {max_positions}; if prompts with \
         their continuations stay within {window} tokens, set max_position_embeddings to {window} \
         in this file"
    );
    Err(root.refuse_as("sliding_window", shown, expected))
}

/// Whether any of Qwen 2's layers has the window: as `layer_types` says, else those from `max_window_layers` on.
fn has_windowed_layer(root: &Fields) -> Result<bool> {
    if let Some(types) = root.texts("layer_types")? {
        return Ok(types.contains(&"sliding_attention"));
    }
    let first = root
        .integer("max_window_layers", 0..=MAX_SIZE)?
        .unwrap_or(28);
    Ok(first < required(root, "num_hidden_layers", MAX_LAYERS)?)
}

fn attn_shape(root: &Fields, d_model: usize) -> Result<AttnShape> {
    let heads = required(root, "num_attention_heads", MAX_HEADS)?;
    let kv_heads = root
        .integer("num_key_value_heads", 1..=MAX_HEADS)?
        .unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("expected a divisor of num_attention_heads, {heads}");
        return Err(root.refuse("num_key_value_heads", expected));
    }
    let head_dim = match root.integer("head_dim", 1..=MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if d_model.is_multiple_of(heads) => d_model / heads,
        None => {
            let expected = format!("expected a divisor of hidden_size, {d_model}, or a head_dim");
            return Err(root.refuse("num_attention_heads", expected));
        }
    };
    if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
        let expected = format!(
            "expected an even number up to {MAX_HEAD_DIM} (by default, hidden_size / num_attention_heads)"
        );
        return Err(root.refuse_as("head_dim", head_dim.to_string(), expected));
    }
    Ok(AttnShape {
        heads,
        kv_heads,
        head_dim,
    })
}

/// Only informs, so an unknown name is no error.
fn dtype(root: &Fields) -> Option<DType> {
    let name = root.get("dtype").or_else(|| root.get("torch_dtype"))?;
    match name.as_str()?.trim_start_matches("torch.") {
        "float32" => Some(DType::F32),
        "bfloat16" => Some(DType::Bf16),
        "float16" => Some(DType::F16),
        _ => None,
    }
}

/// transformers 4 writes `rope_theta` and `rope_scaling`; 5 writes both into `rope_parameters`.
fn rope(root: &Fields, max_positions: usize) -> Result<Rope> {
    let scaling = root.object("rope_scaling")?;
    let parameters = root.object("rope_parameters")?;
    let mut theta = None;
    for fields in [scaling.as_ref(), parameters.as_ref(), Some(root)]
        .into_iter()
        .flatten()
    {
        let found = fields.number("rope_theta", "a number above 1", |number| {
            number > 1.0 && (number as f32).is_finite()
        })?;
        theta = theta.or(found);
        fields.number("partial_rotary_factor", "1, or no such field", |number| {
            number == 1.0
        })?;
    }
    let scaling = match scaling.or(parameters) {
        Some(fields) => rope_scaling(&fields, max_positions)?,
        None => RopeScaling::None,
    };
    Ok(Rope {
        theta: theta.unwrap_or(10000.0),
        scaling,
    })
}

fn rope_scaling(fields: &Fields, max_positions: usize) -> Result<RopeScaling> {
    let (name, kind) = match (fields.text("rope_type")?, fields.text("type")?) {
        (Some(kind), Some(old)) if kind != old => {
            let expected = format!("but rope_type is \"{kind}\": remove the wrong one");
            return Err(fields.refuse("type", expected));
        }
        (Some(kind), _) => ("rope_type", kind),
        (None, Some(kind)) => ("type", kind),
        (None, None) => return Err(fields.missing("rope_type")),
    };
    let positive = |name: &str| {
        fields.number(name, "a finite number above 0", |number| {
            let rounded = number as f32;
            rounded > 0.0 && rounded.is_finite()
        })
    };
    let number = |name: &str| positive(name)?.ok_or_else(|| fields.missing(name));
    let not_negative = |name: &str| {
        fields.number(name, "a finite number of at least 0", |number| {
            number >= 0.0 && (number as f32).is_finite()
        })
    };
    let original_name = "original_max_position_embeddings";
    let original = || fields.integer(original_name, 1..=MAX_SIZE);

    match kind {
        "default" => Ok(RopeScaling::None),
        // The base grows with the length of a text that is longer than max_position_embeddings; none is here.
        "dynamic" => number("factor").map(|_| RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear {
            factor: number("factor")?,
        }),
        "llama3" => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if high <= low {
                let expected = format!("expected a number above low_freq_factor, {low}");
                return Err(fields.refuse("high_freq_factor", expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions: original()?.ok_or_else(|| fields.missing(original_name))?,
            })
        }
        "yarn" => Ok(RopeScaling::Yarn {
            factor: number("factor")?,
            original_max_positions: original()?.unwrap_or(max_positions),
            beta_fast: positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: positive("beta_slow")?.unwrap_or(1.0),
            attention_factor: positive("attention_factor")?,
            mscale: not_negative("mscale")?,
            mscale_all_dim: not_negative("mscale_all_dim")?,
            truncate: fields.flag("truncate")?.unwrap_or(true),
        }),
        _ => Err(fields.refuse(name, "supported: default, linear, dynamic, llama3, yarn")),
    }
}
