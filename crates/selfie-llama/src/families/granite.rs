//! Granite 3, dense (<https://github.com/ibm-granite/granite-3.0-language-models>): a LLaMA with multipliers.

use super::{Defaults, Family};
use crate::json::Fields;
use crate::{EmbedScale, LlamaConfig, Result};

pub(super) const FAMILY: Family = Family {
    name: "granite",
    architecture: "GraniteForCausalLM",
    defaults: Defaults::LLAMA,
    read,
};

fn read(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    let attention_bias = root.flag("attention_bias")?.unwrap_or(false);
    config.qkv_bias = attention_bias;
    config.o_bias = attention_bias;
    config.mlp_bias = root.flag("mlp_bias")?.unwrap_or(false);
    let multiplier = |name: &str| {
        let found = root.number(name, "a finite number above 0", |n| {
            n as f32 > 0.0 && (n as f32).is_finite()
        })?;
        Ok::<_, crate::LlamaError>(found.unwrap_or(1.0) as f32)
    };
    let spec = &mut config.spec;
    spec.embed_scale = EmbedScale::Factor(multiplier("embedding_multiplier")?);
    spec.residual_scale = multiplier("residual_multiplier")?;
    spec.attn_scale = multiplier("attention_multiplier")?;
    spec.logits.scale = 1.0 / multiplier("logits_scaling")?;
    Ok(())
}
