//! The shape of a model, read from `config.json`.
//!
//! This module refuses anything that this crate cannot compute faithfully, before any weight is read.

use std::fs;
use std::path::Path;

use selfie_kernels::{AttnShape, DType, Parts};
use serde_json::Value;

use crate::checkpoint::{check_folder, only_adapter};
use crate::families::{Defaults, model_type};
use crate::folder::resolve_folder;
use crate::gguf::{Gguf, is_gguf};
use crate::json::{Fields, parse_object};
use crate::{
    GenerationConfig, LayerRope, LlamaError, ModelType, QkNorm, Result, Rope, RopeScaling, Spec,
};

/// Bounds that keep the bytes of the parameters within 63 bits, and positions exact in f32.
pub(crate) const MAX_SIZE: usize = 1 << 24;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 12;
pub(crate) const MAX_LAYERS: usize = 1 << 10;

/// A model's configuration, from `config.json`.
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
    /// The epsilon that RMSNorm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Rotary position embeddings.
    pub rope: Rope,
    /// What the family's layers compute.
    pub spec: Spec,
    /// Whether the query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the MLP's three projections have a bias.
    pub mlp_bias: bool,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// The number of positions that the model was made for.
    pub max_positions: usize,
    /// Token ids that begin a text.
    pub bos: Vec<u32>,
    /// Token ids that end a text. `generation_config.json` takes precedence over `config.json`.
    pub eos: Vec<u32>,
    /// The type in which the weights are stored, according to the file. For information only: the checkpoint's tensors
    /// decide ([`stored_dtype`](crate::stored_dtype)), and the model computes in [`Llama::dtype`](crate::Llama::dtype).
    pub dtype: Option<DType>,
}

impl LlamaConfig {
    /// Reads `dir/config.json`, that of the snapshot of a `models--org--name` folder, or a GGUF file. The ids that end
    /// a text come from `generation_config.json` if it has some. ([`eos_ids`](crate::eos_ids) also asks the tokenizer,
    /// last.)
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

    /// Parses the text of a `config.json`. Errors call it `path`.
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        let object = parse_object(json, path)?;
        let root = Fields::new(path, &object);
        match multimodal(&root)? {
            Some(text) => Self::read(&text, &root),
            None => Self::read(&root, &root),
        }
    }

    /// Reads the fields of a language model. `root` supplies the ids of special tokens if `fields` does not.
    fn read(fields: &Fields, root: &Fields) -> Result<Self> {
        let model_type = model_type(fields)?;
        let family = model_type.family();
        let defaults = &family.defaults;
        refuse_quantized(fields)?;
        check_activation(fields, model_type)?;
        let d_model = required(fields, "hidden_size", MAX_SIZE)?;
        let max_positions = fields
            .integer("max_position_embeddings", 1..=MAX_SIZE)?
            .unwrap_or(defaults.max_positions);
        let eps = fields.positive("rms_norm_eps")?;
        let attn = attn_shape(fields, d_model, defaults)?;
        let n_layers = required(fields, "num_hidden_layers", MAX_LAYERS)?;
        let ids = |name: &str| match fields.token_ids(name)? {
            Some(ids) => Ok(ids),
            None => Ok::<_, LlamaError>(root.token_ids(name)?.unwrap_or_default()),
        };
        let mut config = LlamaConfig {
            model_type,
            vocab_size: or_default(fields, "vocab_size", MAX_SIZE, defaults.vocab_size)?,
            d_model,
            ffn: required(fields, "intermediate_size", MAX_SIZE)?,
            n_layers,
            attn,
            rms_norm_eps: eps.unwrap_or(defaults.rms_norm_eps) as f32,
            rope: rope(fields, max_positions, model_type)?,
            spec: Spec::llama(&attn, n_layers),
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(defaults.tied),
            max_positions,
            bos: ids("bos_token_id")?,
            eos: ids("eos_token_id")?,
            dtype: dtype(fields).or(dtype(root)),
        };
        (family.read)(fields, &mut config)?;
        Ok(config)
    }

    /// An error if a sequence of `positions` tokens is longer than the model was made for.
    pub fn check_context(&self, positions: usize) -> Result<()> {
        if positions <= self.max_positions {
            return Ok(());
        }
        Err(LlamaError::ContextLength {
            positions,
            max: self.max_positions,
        })
    }

    /// The widths of the weights that norm queries and keys, if there are any.
    pub(crate) fn qk_norm_widths(&self) -> Option<[usize; 2]> {
        self.spec.qk_norm.map(|norm| match norm {
            QkNorm::Heads => [self.attn.head_dim; 2],
            QkNorm::Flat => [self.attn.q_dim(), self.attn.kv_dim()],
        })
    }

    /// The columns of a row of queries, keys and values that those norms apply to, if there are any.
    pub(crate) fn qk_parts(&self) -> Option<[Parts; 2]> {
        let widths = self.qk_norm_widths()?;
        let parts = |first, width, columns: usize| Parts {
            first,
            width,
            count: columns / width.max(1),
        };
        let (q, kv) = (self.attn.q_dim(), self.attn.kv_dim());
        Some([parts(0, widths[0], q), parts(q, widths[1], kv)])
    }

    /// The rotation table of a layer, `[positions, rotated]`; `None` if the layer does not rotate.
    pub(crate) fn rope_table(&self, rope: LayerRope, positions: usize) -> Option<Vec<f32>> {
        let rope = match rope {
            LayerRope::Global => Some(&self.rope),
            LayerRope::Local => self.spec.local_rope.as_ref(),
            LayerRope::Off => None,
        };
        rope.map(|rope| rope.table(self.spec.rotated, positions))
    }

    /// The number of parameters; a head tied to the embedding table counts once.
    pub fn n_parameters(&self) -> u64 {
        let bias = |has: bool, width: usize| if has { width } else { 0 };
        let attention = self.d_model * (self.attn.qkv_dim() + self.attn.q_dim())
            + bias(self.qkv_bias, self.attn.qkv_dim())
            + bias(self.o_bias, self.d_model);
        let mlp = 3 * self.d_model * self.ffn + bias(self.mlp_bias, 2 * self.ffn + self.d_model);
        let norms = self.spec.norm_names().iter().flatten().count() * self.d_model
            + self.qk_norm_widths().map_or(0, |[q, k]| q + k);
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        (tables * self.vocab_size * self.d_model
            + self.n_layers * (attention + mlp + norms)
            + self.d_model) as u64
    }
}

/// The language model of a multimodal checkpoint: `text_config`.
fn multimodal<'a>(root: &Fields<'a>) -> Result<Option<Fields<'a>>> {
    match root.text("model_type")? {
        Some("gemma3") => root.object("text_config"),
        _ => Ok(None),
    }
}

/// Gemma names its activation in a different field from the others, and the usual field may hold an older name.
fn check_activation(fields: &Fields, model_type: ModelType) -> Result<()> {
    let (field, known, supported) = match model_type {
        ModelType::Gemma2 | ModelType::Gemma3 => (
            "hidden_activation",
            &["gelu_pytorch_tanh"][..],
            "supported: gelu_pytorch_tanh",
        ),
        _ => ("hidden_act", &["silu", "swish"][..], "supported: silu"),
    };
    match fields.text(field)? {
        Some(name) if !known.contains(&name) => Err(fields.refuse(field, supported)),
        _ => Ok(()),
    }
}

fn or_default(root: &Fields, name: &str, limit: usize, default: Option<usize>) -> Result<usize> {
    let found = root.integer(name, 1..=limit)?.or(default);
    found.ok_or_else(|| root.missing(name))
}

fn required(root: &Fields, name: &str, limit: usize) -> Result<usize> {
    or_default(root, name, limit, None)
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

fn attn_shape(root: &Fields, d_model: usize, defaults: &Defaults) -> Result<AttnShape> {
    let heads = or_default(root, "num_attention_heads", MAX_HEADS, defaults.heads)?;
    let kv_heads = root
        .integer("num_key_value_heads", 1..=MAX_HEADS)?
        .or(defaults.kv_heads)
        .unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("expected a divisor of num_attention_heads, {heads}");
        return Err(root.refuse("num_key_value_heads", expected));
    }
    let head_dim = root.integer("head_dim", 1..=MAX_HEAD_DIM)?;
    let head_dim = match head_dim.or(defaults.head_dim) {
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

/// For information only, so an unknown name is not an error.
fn dtype(root: &Fields) -> Option<DType> {
    let name = root.get("dtype").or_else(|| root.get("torch_dtype"))?;
    match name.as_str()?.trim_start_matches("torch.") {
        "float32" => Some(DType::F32),
        "bfloat16" => Some(DType::Bf16),
        "float16" => Some(DType::F16),
        _ => None,
    }
}

/// Whether `rope_parameters` has a section for each type of layer, as transformers 5 writes it.
pub(crate) fn has_rope_sections(root: &Fields) -> Result<bool> {
    let parameters = root.object("rope_parameters")?;
    Ok(parameters.is_some_and(|p| p.get(GLOBAL).is_some() || p.get(LOCAL).is_some()))
}

const THETA: &str = "rope_theta";
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

/// The two sections of `rope_parameters`: for full layers, and for layers with a window.
pub(crate) fn global_and_local_ropes(root: &Fields, max_positions: usize) -> Result<(Rope, Rope)> {
    let part = |name: &str| {
        let parameters = root.object("rope_parameters")?;
        let parameters = parameters.ok_or_else(|| root.missing("rope_parameters"))?;
        let part = parameters.object(name)?;
        let part = part.ok_or_else(|| parameters.missing(name))?;
        Ok::<_, LlamaError>(Rope {
            theta: rope_base(&part, THETA)?.ok_or_else(|| part.missing(THETA))?,
            scaling: rope_scaling(&part, max_positions)?,
        })
    };
    Ok((part(GLOBAL)?, part(LOCAL)?))
}

/// transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes both into `rope_parameters`. Families
/// with two rotations have two sections there.
fn rope(root: &Fields, max_positions: usize, model_type: ModelType) -> Result<Rope> {
    if has_rope_sections(root)? {
        let (global, local) = global_and_local_ropes(root, max_positions)?;
        let two = matches!(model_type, ModelType::Gemma3 | ModelType::Olmo3);
        if !two && global != local {
            let expected = "supported here: one rotation for all layers";
            return Err(root.refuse("rope_parameters", expected));
        }
        return Ok(global);
    }
    let scaling = root.object("rope_scaling")?;
    let parameters = root.object("rope_parameters")?;
    let mut found = None;
    for fields in [scaling.as_ref(), parameters.as_ref(), Some(root)]
        .into_iter()
        .flatten()
    {
        found = found.or(rope_base(fields, THETA)?);
        if model_type != ModelType::Phi3 {
            fields.number("partial_rotary_factor", "1, or no such field", |number| {
                number == 1.0
            })?;
        }
    }
    let scaling = match scaling.or(parameters) {
        Some(fields) => rope_scaling(&fields, max_positions)?,
        None => RopeScaling::None,
    };
    Ok(Rope {
        theta: found.unwrap_or(model_type.family().defaults.rope_theta),
        scaling,
    })
}

/// The base of the frequencies in a field.
pub(crate) fn rope_base(fields: &Fields, name: &str) -> Result<Option<f64>> {
    fields.number(name, "a number above 1", |number| {
        number > 1.0 && (number as f32).is_finite()
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
    let number = |name: &str| fields.positive(name)?.ok_or_else(|| fields.missing(name));
    let not_negative = |name: &str| {
        fields.number(name, "a finite number of at least 0", |number| {
            number >= 0.0 && (number as f32).is_finite()
        })
    };
    let original_name = "original_max_position_embeddings";
    let original = || fields.integer(original_name, 1..=MAX_SIZE);

    match kind {
        "default" => Ok(RopeScaling::None),
        // The base would grow for texts longer than max_position_embeddings; such texts are refused.
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
            beta_fast: fields.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: fields.positive("beta_slow")?.unwrap_or(1.0),
            attention_factor: fields.positive("attention_factor")?,
            mscale: not_negative("mscale")?,
            mscale_all_dim: not_negative("mscale_all_dim")?,
            truncate: fields.flag("truncate")?.unwrap_or(true),
        }),
        _ => Err(fields.refuse(name, "supported: default, linear, dynamic, llama3, yarn")),
    }
}
