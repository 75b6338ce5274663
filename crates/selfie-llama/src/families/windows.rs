//! Sliding windows: their width and their layers.

use crate::config::{MAX_LAYERS, MAX_SIZE};
use crate::json::Fields;
use crate::{LayerRope, LlamaConfig, Result, Rope};

/// The default window of transformers.
const DEFAULT_WINDOW: usize = 4096;

/// `sliding_window`; `None` if it is `null` or missing.
pub(super) fn written_width(root: &Fields) -> Result<Option<usize>> {
    root.integer("sliding_window", 1..=MAX_SIZE)
}

/// `sliding_window`; `None` if it is `null`, and the default of transformers if it is missing.
pub(super) fn width(root: &Fields) -> Result<Option<usize>> {
    let window = written_width(root)?;
    let default = (!root.names("sliding_window")).then_some(DEFAULT_WINDOW);
    Ok(window.or(default))
}

/// Gives a window to the layers that `layer_types` marks as sliding or, if it is missing, to those that `slides`
/// selects. Returns the sliding layers even if there is no window: the two types may differ in other ways.
pub(super) fn set(
    root: &Fields,
    config: &mut LlamaConfig,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let types = root.texts("layer_types")?;
    if let Some(types) = &types {
        let n_layers = config.n_layers;
        if types.len() != n_layers {
            return Err(root.refuse("layer_types", format!("expected {n_layers} of them")));
        }
        let known = ["full_attention", "sliding_attention"];
        if !types.iter().all(|name| known.contains(name)) {
            return Err(root.refuse("layer_types", format!("supported: {}", known.join(", "))));
        }
    }
    let slides = |l: usize| match &types {
        Some(types) => types[l] == "sliding_attention",
        None => slides(l),
    };
    let slide: Vec<bool> = (0..config.n_layers).map(slides).collect();
    for (layer, &slides) in config.spec.layers.iter_mut().zip(&slide) {
        layer.window = if slides { window } else { None };
    }
    Ok(slide)
}

/// Gives the sliding layers their own rotation.
pub(super) fn set_local_rope(config: &mut LlamaConfig, slide: &[bool], rope: Rope) {
    config.spec.local_rope = Some(rope);
    for (layer, &slides) in config.spec.layers.iter_mut().zip(slide) {
        if slides {
            layer.rope = LayerRope::Local;
        }
    }
}

/// A pattern of `period` layers, the last of which has full attention.
pub(super) fn all_but_every(period: usize) -> impl Fn(usize) -> bool {
    move |l| (l + 1) % period != 0
}

/// The period in a field.
pub(super) fn period(root: &Fields, name: &str) -> Result<Option<usize>> {
    root.integer(name, 1..=MAX_LAYERS)
}
