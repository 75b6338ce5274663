//! The supported families of checkpoints, one file each: how a family differs from a LLaMA.
//!
//! A file holds the family's [`Family`], with the defaults of transformers for fields missing from `config.json`, and a
//! function that changes the [`Spec`](crate::Spec) of a LLaMA wherever the family computes something else.
//! `docs/src/contributing/family.md` explains how to add a family.

mod gemma2;
mod gemma3;
mod granite;
mod llama;
mod mistral;
mod olmo;
mod phi3;
mod qwen;
mod smollm3;
mod windows;

use crate::json::Fields;
use crate::{LlamaConfig, Result};

/// The supported families of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelType {
    /// LLaMA 1 to 3, and checkpoints that use its `model_type`.
    Llama,
    /// Mistral 7B and its relatives: a window at all layers, or none.
    Mistral,
    /// Ministral: like Mistral, with a window at some layers.
    Ministral,
    /// Qwen 2 and 2.5: biases on queries, keys and values.
    Qwen2,
    /// Qwen 3, dense: norms of queries and keys.
    Qwen3,
    /// Gemma 2: norms before and after each block, soft caps, windows at every other layer.
    Gemma2,
    /// Gemma 3, text only: norms before and after each block, norms of queries and keys, two rotations.
    Gemma3,
    /// SmolLM 3: no rotation at every fourth layer.
    SmolLm3,
    /// OLMo 2: norms after attention and MLP.
    Olmo2,
    /// OLMo 3: like OLMo 2, with windows.
    Olmo3,
    /// Phi 3 and 4: fused projections; some checkpoints rotate only part of each head.
    Phi3,
    /// Granite 3, dense: multipliers.
    Granite,
}

/// A family.
pub(crate) struct Family {
    /// Its `model_type`.
    pub(crate) name: &'static str,
    /// The name of its language model in `architectures`.
    pub(crate) architecture: &'static str,
    /// The defaults of fields missing from `config.json`.
    pub(crate) defaults: Defaults,
    /// Turns the configuration of a LLaMA into the family's.
    pub(crate) read: fn(&Fields, &mut LlamaConfig) -> Result<()>,
}

/// The values of missing fields.
#[derive(Clone, Copy)]
pub(crate) struct Defaults {
    pub(crate) heads: Option<usize>,
    pub(crate) kv_heads: Option<usize>,
    /// `None` means the width divided by the number of heads.
    pub(crate) head_dim: Option<usize>,
    pub(crate) vocab_size: Option<usize>,
    pub(crate) max_positions: usize,
    pub(crate) rms_norm_eps: f64,
    pub(crate) rope_theta: f64,
    pub(crate) tied: bool,
}

impl Defaults {
    pub(crate) const LLAMA: Self = Self {
        heads: None,
        kv_heads: None,
        head_dim: None,
        vocab_size: None,
        max_positions: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        tied: false,
    };
}

impl ModelType {
    /// All families.
    pub const ALL: [ModelType; 12] = [
        ModelType::Llama,
        ModelType::Mistral,
        ModelType::Ministral,
        ModelType::Qwen2,
        ModelType::Qwen3,
        ModelType::Gemma2,
        ModelType::Gemma3,
        ModelType::SmolLm3,
        ModelType::Olmo2,
        ModelType::Olmo3,
        ModelType::Phi3,
        ModelType::Granite,
    ];

    /// The family's name in `config.json`.
    pub const fn name(self) -> &'static str {
        self.family().name
    }

    /// What `architectures` of `config.json` calls it.
    pub const fn architecture(self) -> &'static str {
        self.family().architecture
    }

    pub(crate) const fn family(self) -> &'static Family {
        match self {
            ModelType::Llama => &llama::FAMILY,
            ModelType::Mistral => &mistral::MISTRAL,
            ModelType::Ministral => &mistral::MINISTRAL,
            ModelType::Qwen2 => &qwen::QWEN2,
            ModelType::Qwen3 => &qwen::QWEN3,
            ModelType::Gemma2 => &gemma2::FAMILY,
            ModelType::Gemma3 => &gemma3::FAMILY,
            ModelType::SmolLm3 => &smollm3::FAMILY,
            ModelType::Olmo2 => &olmo::OLMO2,
            ModelType::Olmo3 => &olmo::OLMO3,
            ModelType::Phi3 => &phi3::FAMILY,
            ModelType::Granite => &granite::FAMILY,
        }
    }
}

/// `attention_bias`: biases on all projections of attention.
fn set_attention_bias(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    let biases = root.flag("attention_bias")?.unwrap_or(false);
    config.qkv_bias = biases;
    config.o_bias = biases;
    Ok(())
}

/// The family named by `model_type`, or otherwise by the first of `architectures`.
pub(crate) fn model_type(root: &Fields) -> Result<ModelType> {
    let mut architectures = root.texts("architectures")?.unwrap_or_default();
    for name in &mut architectures {
        // The spelling of the first checkpoints.
        if *name == "LLaMAForCausalLM" {
            *name = llama::FAMILY.architecture;
        }
    }
    let find = |is: &dyn Fn(&Family) -> bool| ModelType::ALL.into_iter().find(|t| is(t.family()));
    let found = match (root.text("model_type")?, architectures.first()) {
        (Some(name), _) => {
            let found = find(&|family| family.name == name);
            found.ok_or_else(|| root.refuse("model_type", supported(|family| family.name)))?
        }
        (None, Some(name)) => {
            let found = find(&|family| family.architecture == *name);
            found.ok_or_else(|| {
                root.refuse("architectures", supported(|family| family.architecture))
            })?
        }
        (None, None) => return Err(root.missing("model_type")),
    };
    let family = found.family();
    if !architectures.is_empty() && !architectures.contains(&family.architecture) {
        let expected = format!(
            "supported for model_type {}: {}",
            family.name, family.architecture
        );
        return Err(root.refuse("architectures", expected));
    }
    Ok(found)
}

fn supported(name: impl Fn(&Family) -> &'static str) -> String {
    let names = ModelType::ALL.map(|t| name(t.family()));
    format!("supported: {}", names.join(", "))
}
