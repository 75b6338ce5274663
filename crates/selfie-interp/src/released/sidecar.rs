//! `nla_meta.yaml`, in all variants that its repository reads (kitft/natural_language_autoencoders, commit 047eb8e:
//! `nla/config.py`, `nla/schema.py`).

use std::path::Path;

use serde_json::Value;

use super::{Released, Verbalizer, reconstructor};
use crate::{InterpError, Result};

const FILE: &str = "nla_meta.yaml";

/// Reads a folder's sidecar file; `None` if there is none.
pub(super) fn open(dir: &Path) -> Result<Option<Released>> {
    let path = dir.join(FILE);
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Ok(None);
    };
    let refuse = |problem: String| InterpError::ReaderFile {
        path: path.clone(),
        problem,
    };
    // Aliases can make gigabytes of a few lines.
    let limits = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: 10_000,
            max_events: 20_000,
            max_recorded_anchor_bytes: 1 << 20,
            max_total_scalar_bytes: 1 << 20,
        },
    };
    let meta: Value = serde_saphyr::from_str_with_options(&text, limits).map_err(|source| {
        let problem = source.to_string();
        refuse(problem.lines().next().unwrap_or_default().to_owned())
    })?;
    let kind = meta["kind"].as_str().unwrap_or_default();
    if kind != "nla_model" {
        return Err(refuse(format!("kind is {kind:?}; expected \"nla_model\"")));
    }
    let number = |value: &Value, name: &str| {
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| refuse(format!("{name} is {value}; expected a number")))
    };
    let d_model = number(&meta["d_model"], "d_model")?;
    let scale = |name: &str, absent: Option<f32>| -> Result<Option<f32>> {
        let value = &meta["extraction"][name];
        let root = (d_model as f32).sqrt();
        let number = match value {
            Value::Null if meta["extraction"].get(name).is_none() => return Ok(absent),
            Value::Null => return Ok(None),
            Value::String(text) if text == "raw" || text == "none" => return Ok(None),
            Value::String(text) if text == "sqrt_d_model" => Some(root),
            Value::String(text) => text.parse().ok(),
            value => value.as_f64().map(|number| number as f32),
        };
        let number = number.filter(|number| number.is_finite() && *number > 0.0);
        let expected = "a number above 0, null, or \"sqrt_d_model\"";
        number
            .map(Some)
            .ok_or_else(|| refuse(format!("extraction.{name} is {value}; expected {expected}")))
    };
    let template = |names: [&str; 3]| {
        let texts = names
            .into_iter()
            .filter_map(|name| meta["prompt_templates"][name].as_str());
        let text = texts.into_iter().next().map(str::to_owned);
        text.ok_or_else(|| {
            refuse(format!(
                "prompt_templates has none of: {}",
                names.join(", ")
            ))
        })
    };
    let layers = [
        ("ar", "extraction_layer_index"),
        ("ar", "num_hidden_layers"),
        ("critic", "extraction_layer_index"),
        ("critic", "num_hidden_layers"),
        ("reconstructor", "extraction_layer_index"),
        ("reconstructor", "num_hidden_layers"),
        ("extraction", "layer_index"),
    ];
    let layers = layers
        .into_iter()
        .filter_map(|(part, name)| meta[part][name].as_u64());
    let layer = layers.into_iter().next().map(|layer| layer as usize);
    let role = meta["role"].as_str().unwrap_or_default();
    match role {
        "av" | "actor" | "verbalizer" => {
            let id = |name: &str| -> Result<u32> {
                Ok(number(&meta["tokens"][name], &format!("tokens.{name}"))? as u32)
            };
            let marker = meta["tokens"]["injection_char"]
                .as_str()
                .filter(|marker| !marker.is_empty());
            if meta["extraction"].get("injection_scale").is_none() {
                return Err(refuse("extraction.injection_scale is missing; expected a number, null for no scaling, or \
                                   \"sqrt_d_model\""
                    .to_owned()));
            }
            Ok(Some(Released::Verbalizer(Verbalizer {
                d_model,
                layer,
                scale: scale("injection_scale", None)?,
                marker: marker
                    .ok_or_else(|| refuse("it has no tokens.injection_char".to_owned()))?
                    .to_owned(),
                marker_id: id("injection_token_id")?,
                neighbors: [
                    id("injection_left_neighbor_id")?,
                    id("injection_right_neighbor_id")?,
                ],
                template: template(["av", "actor", "verbalizer"])?,
                path,
            })))
        }
        "ar" | "critic" | "reconstructor" => {
            if scale("mse_scale", Some(1.0))?.is_none() {
                return Err(refuse("extraction.mse_scale is null: this reconstructor was trained on norms too, but only \
                                   directions can be scored"
                    .to_owned()));
            }
            let suffix = match &meta["tokens"]["critic_suffix_ids"] {
                Value::Array(ids) => ids
                    .iter()
                    .filter_map(|id| Some(id.as_u64()? as u32))
                    .collect(),
                _ => Vec::new(),
            };
            Ok(Some(Released::Reconstructor(reconstructor::Meta {
                d_model,
                layer,
                suffix,
                template: template(["ar", "critic", "reconstructor"])?,
                path,
            })))
        }
        other => Err(refuse(format!(
            "role is {other:?}; expected av, actor or verbalizer, or ar, critic or reconstructor"
        ))),
    }
}
