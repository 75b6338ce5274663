//! LLaMA (arXiv 2302.13971, 2307.09288, 2407.21783). The other families are described by how they differ from it.

use super::{Defaults, Family, set_attention_bias};
use crate::json::Fields;
use crate::{LlamaConfig, Result};

pub(super) const FAMILY: Family = Family {
    name: "llama",
    architecture: "LlamaForCausalLM",
    defaults: Defaults::LLAMA,
    read,
};

fn read(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    set_attention_bias(root, config)?;
    config.mlp_bias = root.flag("mlp_bias")?.unwrap_or(false);
    Ok(())
}
