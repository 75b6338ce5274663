//! SmolLM 3 (<https://huggingface.co/blog/smollm3>): some layers do not rotate (arXiv 2501.18795).

use super::{Defaults, Family, set_attention_bias, windows};
use crate::json::Fields;
use crate::{LayerRope, LlamaConfig, Result};

/// By default every fourth layer has no rotation.
const INTERVAL: usize = 4;

pub(super) const FAMILY: Family = Family {
    name: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    defaults: Defaults {
        rope_theta: 2_000_000.0,
        max_positions: 32_768,
        tied: true,
        ..Defaults::LLAMA
    },
    read,
};

fn read(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    set_attention_bias(root, config)?;
    config.mlp_bias = root.flag("mlp_bias")?.unwrap_or(false);
    let rotates = rotating_layers(root, config.n_layers)?;
    for (layer, rotates) in config.spec.layers.iter_mut().zip(&rotates) {
        if !rotates {
            layer.rope = LayerRope::Off;
        }
    }
    let used = root.flag("use_sliding_window")?.unwrap_or(false);
    let window = if used {
        windows::written_width(root)?
    } else {
        None
    };
    windows::set(root, config, window, |l| !rotates[l])?;
    Ok(())
}

/// `no_rope_layers` has a 1 for each layer that *does* rotate.
fn rotating_layers(root: &Fields, n_layers: usize) -> Result<Vec<bool>> {
    const NAME: &str = "no_rope_layers";
    if let Some(value) = root.get(NAME) {
        let flags = value.as_array().map(|list| {
            let flag = |value: &serde_json::Value| match value.as_u64()? {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            };
            list.iter().map(flag).collect::<Option<Vec<bool>>>()
        });
        return match flags.flatten() {
            Some(flags) if flags.len() == n_layers => Ok(flags),
            _ => Err(root.refuse(NAME, format!("expected a list of {n_layers} times 0 or 1"))),
        };
    }
    let interval = windows::period(root, "no_rope_layer_interval")?.unwrap_or(INTERVAL);
    Ok((0..n_layers)
        .map(windows::all_but_every(interval))
        .collect())
}
