//! Mistral (arXiv 2310.06825) with its sliding window, and Ministral, in which only some layers have one.

use super::{Defaults, Family, windows};
use crate::json::Fields;
use crate::{LlamaConfig, Result};

pub(super) const MISTRAL: Family = Family {
    name: "mistral",
    architecture: "MistralForCausalLM",
    defaults: Defaults::LLAMA,
    read: mistral,
};

pub(super) const MINISTRAL: Family = Family {
    name: "ministral",
    architecture: "MinistralForCausalLM",
    defaults: Defaults::LLAMA,
    read: ministral,
};

/// All layers slide. `layer_types` is ignored because transformers does not read it for this family.
fn mistral(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    let window = windows::width(root)?;
    for layer in &mut config.spec.layers {
        layer.window = window;
    }
    Ok(())
}

fn ministral(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    let window = windows::width(root)?;
    windows::set(root, config, window, |_| true)?;
    Ok(())
}
