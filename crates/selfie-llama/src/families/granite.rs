//! Granite 3, dense (<https://github.com/ibm-granite/granite-3.0-language-models>): a LLaMA with multipliers.

use super::{Defaults, Family, set_attention_bias};
use crate::json::Fields;
use crate::{EmbedScale, LlamaConfig, Result};

pub(super) const FAMILY: Family = Family {
    name: "granite",
    architecture: "GraniteForCausalLM",
    defaults: Defaults::LLAMA,
    read,
};

fn read(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    set_attention_bias(root, config)?;
    config.mlp_bias = root.flag("mlp_bias")?.unwrap_or(false);
    let multiplier =
        |name: &str| Ok::<_, crate::LlamaError>(root.positive(name)?.unwrap_or(1.0) as f32);
    let spec = &mut config.spec;
    spec.embed_scale = EmbedScale::Factor(multiplier("embedding_multiplier")?);
    spec.residual_scale = multiplier("residual_multiplier")?;
    spec.attn_scale = multiplier("attention_multiplier")?;
    spec.logits.scale = 1.0 / multiplier("logits_scaling")?;
    Ok(())
}
