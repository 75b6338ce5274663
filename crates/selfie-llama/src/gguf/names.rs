//! The supported architectures of GGUF, and the names of their tensors in transformers
//! (`gguf-py/gguf/tensor_mapping.py` and `conversion/` of llama.cpp).

use std::path::Path;

use super::config::Keys;
use super::header::Stored;
use super::rows::{Layout, Order};
use crate::{LlamaError, Result};

/// A family, as GGUF describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    /// Its name in GGUF.
    pub(super) name: &'static str,
    /// Its name in transformers.
    pub(super) model_type: &'static str,
    /// Whether llama.cpp stores the rows of queries and keys in the order of its own rope.
    interleaved: bool,
    /// Whether 1 has been added to the weights of the norms.
    plus_one: bool,
    /// The tensors of a layer, without `.weight` and `.bias`.
    layer: &'static [(&'static str, &'static str)],
}

const LLAMA: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const QWEN3: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// Gemma 2 lacks the norms of queries and keys and is otherwise the same.
const GEMMA: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
];
const PHI3: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_up", "mlp.gate_up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
const OLMO2: &[(&str, &str)] = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
/// The tensors outside the layers.
const OUTER: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];
/// The sizes from the metadata that are needed to read the tensors.
pub(super) struct Shapes {
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
}

/// The divisors of a rope scaled like LLaMA 3's; they become `rope_scaling`.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

impl Architecture {
    /// SmolLM3 and Granite are stored in LLaMA's order; the others keep the order of transformers.
    const ALL: &[Architecture] = &[
        of_llama("llama", "llama"),
        like("qwen2", "qwen2", LLAMA),
        like("qwen3", "qwen3", QWEN3),
        of_gemma("gemma2", "gemma2"),
        of_gemma("gemma3", "gemma3_text"),
        like("phi3", "phi3", PHI3),
        like("olmo2", "olmo2", OLMO2),
        of_llama("smollm3", "smollm3"),
        of_llama("granite", "granite"),
    ];

    /// The architecture named by `general.architecture`.
    pub(super) fn of(keys: &Keys) -> Result<&'static Self> {
        const KEY: &str = "general.architecture";
        let name = keys.text(KEY)?.ok_or_else(|| keys.missing(KEY))?;
        let found = Self::ALL.iter().find(|known| known.name == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|known| known.name).collect();
            keys.refuse(KEY, format!("supported: {}", known.join(", ")))
        })
    }

    /// The name of a tensor in transformers, and how to read its values. `None` means that only the configuration reads
    /// it. An unknown name is an error: without that tensor, the model would be a different one.
    pub(super) fn tensor(
        &self,
        name: &str,
        stored: &Stored,
        shapes: &Shapes,
        file: &Path,
    ) -> Result<Option<(String, Layout)>> {
        if name == ROPE_FREQS {
            return Ok(None);
        }
        let (part, found) = self
            .find(name, shapes)
            .ok_or_else(|| LlamaError::GgufTensor {
                tensor: name.to_owned(),
                file: file.to_owned(),
                architecture: self.name,
            })?;
        let heads = match part {
            "attn_q" if self.interleaved => Some(shapes.heads),
            "attn_k" if self.interleaved => Some(shapes.kv_heads),
            _ => None,
        };
        let bad = |problem: String| LlamaError::Gguf {
            file: file.to_owned(),
            problem: format!("tensor {name} {problem}"),
        };
        let (is_vector, is_norm) = (stored.dims.len() == 1, part.ends_with("norm"));
        if is_vector && stored.kind.plain().is_none() {
            return Err(bad(format!(
                "is a vector, which cannot be read from {}",
                stored.kind.name
            )));
        }
        let order = match heads {
            None => Order::Same,
            Some(heads) => {
                let rows = stored.dims[stored.dims.len() - 1];
                let head = rows / heads;
                if !rows.is_multiple_of(heads) || !head.is_multiple_of(2) || head == 0 {
                    return Err(bad(format!(
                        "has {rows} rows, which do not split into {heads} heads of an even size"
                    )));
                }
                if is_vector {
                    Order::Values(head)
                } else {
                    Order::Rows(head)
                }
            }
        };
        let layout = Layout {
            kind: stored.kind,
            order,
            plus_one: self.plus_one && is_norm,
        };
        Ok(Some((found, layout)))
    }

    fn find<'a>(&self, name: &'a str, shapes: &Shapes) -> Option<(&'a str, String)> {
        let (base, kind) = name.rsplit_once('.')?;
        if !matches!(kind, "weight" | "bias") {
            return None;
        }
        let named = |table: &[(&str, &str)], part: &str| {
            let (_, found) = table.iter().find(|(known, _)| *known == part)?;
            Some((*found).to_owned())
        };
        let Some(rest) = base.strip_prefix("blk.") else {
            let outer = if kind == "weight" { &OUTER[..] } else { &[] };
            return Some((base, format!("{}.{kind}", named(outer, base)?)));
        };
        let (layer, part) = rest.split_once('.')?;
        let index: usize = layer.parse().ok()?;
        if index >= shapes.layers || index.to_string() != layer {
            return None;
        }
        let found = named(self.layer, part)?;
        Some((part, format!("model.layers.{index}.{found}.{kind}")))
    }
}

const fn like(
    name: &'static str,
    model_type: &'static str,
    layer: &'static [(&'static str, &'static str)],
) -> Architecture {
    Architecture {
        name,
        model_type,
        interleaved: false,
        plus_one: false,
        layer,
    }
}

const fn of_llama(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        interleaved: true,
        ..like(name, model_type, LLAMA)
    }
}

const fn of_gemma(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        plus_one: true,
        ..like(name, model_type, GEMMA)
    }
}
