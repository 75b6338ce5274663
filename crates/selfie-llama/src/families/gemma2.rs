//! Gemma 2 (arXiv 2408.00118).

use selfie_kernels::Activation;

use super::{Defaults, Family, set_attention_bias, windows};
use crate::json::Fields;
use crate::{EmbedScale, LlamaConfig, Norms, Result};

pub(super) const FAMILY: Family = Family {
    name: "gemma2",
    architecture: "Gemma2ForCausalLM",
    defaults: Defaults {
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        vocab_size: Some(256_000),
        max_positions: 8192,
        tied: true,
        ..Defaults::LLAMA
    },
    read,
};

fn read(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    gemma(root, config)?;
    config.spec.attn_softcap = softcap(root, "attn_logit_softcapping", 50.0)?;
    config.spec.logits.softcap = softcap(root, "final_logit_softcapping", 30.0)?;
    let window = windows::width(root)?;
    windows::set(root, config, window, windows::all_but_every(2))?;
    Ok(())
}

/// The settings that Gemma 2 and 3 share.
pub(super) fn gemma(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    set_attention_bias(root, config)?;
    let scalar = root.positive("query_pre_attn_scalar")?;
    let spec = &mut config.spec;
    spec.norms = Norms::Around;
    spec.one_plus_weight = true;
    spec.activation = Activation::GeluTanh;
    spec.embed_scale = EmbedScale::RootOfWidth;
    spec.attn_scale = scalar.unwrap_or(256.0).powf(-0.5) as f32;
    Ok(())
}

/// A soft cap; `null` means none.
fn softcap(root: &Fields, name: &str, default: f64) -> Result<Option<f32>> {
    let cap = root.positive(name)?;
    let default = (!root.names(name)).then_some(default);
    Ok(cap.or(default).map(|cap| cap as f32))
}
