//! Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115), and the dense Qwen 3 (arXiv 2505.09388).

use super::{Defaults, Family, set_attention_bias, windows};
use crate::config::MAX_SIZE;
use crate::json::Fields;
use crate::{LlamaConfig, QkNorm, Result};

/// The default of `max_window_layers`.
const MAX_WINDOW_LAYERS: usize = 28;

pub(super) const QWEN2: Family = Family {
    name: "qwen2",
    architecture: "Qwen2ForCausalLM",
    defaults: Defaults::LLAMA,
    read: qwen2,
};

pub(super) const QWEN3: Family = Family {
    name: "qwen3",
    architecture: "Qwen3ForCausalLM",
    defaults: Defaults {
        head_dim: Some(128),
        ..Defaults::LLAMA
    },
    read: qwen3,
};

fn qwen2(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    config.qkv_bias = true;
    set_windows(root, config)
}

fn qwen3(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    set_attention_bias(root, config)?;
    config.spec.qk_norm = Some(QkNorm::Heads);
    set_windows(root, config)
}

/// Layers from `max_window_layers` on slide, if any do.
fn set_windows(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    let first = root.integer("max_window_layers", 0..=MAX_SIZE)?;
    let first = first.unwrap_or(MAX_WINDOW_LAYERS);
    let used = root.flag("use_sliding_window")?.unwrap_or(false);
    let window = if used { windows::width(root)? } else { None };
    windows::set(root, config, window, |l| l >= first)?;
    Ok(())
}
