//! The text model of Gemma 3 (arXiv 2503.19786), alone or as part of a multimodal checkpoint.

use super::gemma2::gemma;
use super::{Defaults, Family, windows};
use crate::config::{global_and_local_ropes, has_rope_sections, rope_base};
use crate::json::Fields;
use crate::{LlamaConfig, QkNorm, Result, Rope, RopeScaling};

/// The default period of layers; the last layer of each period has full attention.
const PATTERN: usize = 6;

pub(super) const FAMILY: Family = Family {
    name: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    defaults: Defaults {
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        vocab_size: Some(262_208),
        max_positions: 131_072,
        rope_theta: 1_000_000.0,
        tied: true,
        ..Defaults::LLAMA
    },
    read,
};

fn read(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    gemma(root, config)?;
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if root.get(name).is_some() {
            return Err(root.refuse(
                name,
                "supported: null, because transformers applies no cap here",
            ));
        }
    }
    if root.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(root.refuse("use_bidirectional_attention", "supported: false"));
    }
    config.spec.qk_norm = Some(QkNorm::Heads);
    let period = match windows::period(root, "sliding_window_pattern")? {
        Some(period) => period,
        None => windows::period(root, "_sliding_window_pattern")?.unwrap_or(PATTERN),
    };
    let window = windows::width(root)?;
    let slide = windows::set(root, config, window, windows::all_but_every(period))?;
    windows::set_local_rope(config, &slide, local_rope(root, config.max_positions)?);
    Ok(())
}

/// Sliding layers rotate with `rope_local_base_freq`, which is never scaled.
fn local_rope(root: &Fields, max_positions: usize) -> Result<Rope> {
    if has_rope_sections(root)? {
        return Ok(global_and_local_ropes(root, max_positions)?.1);
    }
    Ok(Rope {
        theta: rope_base(root, "rope_local_base_freq")?.unwrap_or(10_000.0),
        scaling: RopeScaling::None,
    })
}
