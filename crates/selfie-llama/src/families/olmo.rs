//! OLMo 2 (arXiv 2501.00656) and OLMo 3. Norms follow attention and MLP, and one norm spans all heads of queries,
//! another all heads of keys.

use super::{Defaults, Family, set_attention_bias, windows};
use crate::json::Fields;
use crate::{LlamaConfig, Norms, QkNorm, Result, Rope, RopeScaling};

const DEFAULTS: Defaults = Defaults {
    rms_norm_eps: 1e-5,
    ..Defaults::LLAMA
};

pub(super) const OLMO2: Family = Family {
    name: "olmo2",
    architecture: "Olmo2ForCausalLM",
    defaults: DEFAULTS,
    read: olmo2,
};

pub(super) const OLMO3: Family = Family {
    name: "olmo3",
    architecture: "Olmo3ForCausalLM",
    defaults: DEFAULTS,
    read: olmo3,
};

fn olmo2(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    set_attention_bias(root, config)?;
    config.spec.norms = Norms::After;
    config.spec.qk_norm = Some(QkNorm::Flat);
    Ok(())
}

/// Three layers of four slide a window. They rotate with the original, unscaled frequencies.
fn olmo3(root: &Fields, config: &mut LlamaConfig) -> Result<()> {
    olmo2(root, config)?;
    let window = windows::width(root)?;
    let slide = windows::set(root, config, window, windows::all_but_every(4))?;
    let local = Rope {
        theta: config.rope.theta,
        scaling: RopeScaling::None,
    };
    windows::set_local_rope(config, &slide, local);
    Ok(())
}
