//! Phi 3 (arXiv 2404.14219) and Phi 4.

use super::{Defaults, Family, windows};
use crate::json::Fields;
use crate::{LlamaConfig, Result};

pub(super) const FAMILY: Family = Family {
    name: "phi3",
    architecture: "Phi3ForCausalLM",
    defaults: Defaults {
        max_positions: 4096,
        rms_norm_eps: 1e-5,
        ..Defaults::LLAMA
    },
    read,
};

fn read(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    config.spec.fused = true;
    let head_dim = config.attn.head_dim;
    let factor = partial_rotary_factor(root)?;
    let rotated = (head_dim as f64 * factor) as usize;
    if rotated == 0 || rotated % 2 == 1 {
        let expected =
            format!("expected a share of {head_dim} columns that is an even number, not 0");
        return Err(root.refuse_as("partial_rotary_factor", factor.to_string(), expected));
    }
    config.spec.rotated = rotated;
    let window = windows::written_width(root)?;
    windows::set(root, config, window, |_| true)?;
    Ok(())
}

fn partial_rotary_factor(root: &Fields) -> Result<f64> {
    const NAME: &str = "partial_rotary_factor";
    let read = |fields: &Fields| {
        fields.number(NAME, "a number above 0, at most 1", |n| n > 0.0 && n <= 1.0)
    };
    let nested = match root.object("rope_parameters")? {
        Some(parameters) => read(&parameters)?,
        None => None,
    };
    Ok(nested.or(read(root)?).unwrap_or(1.0))
}
