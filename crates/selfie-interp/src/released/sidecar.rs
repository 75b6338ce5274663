//! `nla_meta.yaml`, in all variants that its repository reads (kitft/natural_language_autoencoders, commit 047eb8e:
//! `nla/config.py`, `nla/schema.py`), and as EasyNLA writes it (asherps/EasyNLA, commit 4d72847: `nla/config.py`,
//! `nla/datagen/sidecar.py`, `nla/train_sft.py`).

use std::path::Path;

use selfie_kernels::InjectMode;
use selfie_llama::Bos;
use serde_json::Value;

use super::{Released, Verbalizer, reconstructor};
use crate::{InjectAt, InterpError, Result};

const FILE: &str = "nla_meta.yaml";
/// What EasyNLA adds, always at the output of layer 1: the vector itself, scaled to the norm that is there.
const EASYNLA: InjectAt = InjectAt {
    layer: 2,
    mode: InjectMode::AddMatched,
    strength: 1.0,
};

/// Reads a folder's sidecar file; `None` if there is none.
pub(super) fn open(dir: &Path) -> Result<Option<Released>> {
    read(dir, false)
}

/// Reads the sidecar file of a checkpoint of EasyNLA. It is a copy of its data set's and names no role, so the other
/// files tell a verbalizer from a reconstructor.
pub(super) fn open_easynla(dir: &Path) -> Result<Released> {
    let missing = || InterpError::ReaderFile {
        path: dir.join(FILE),
        problem: "the file is missing; where EasyNLA trains by reinforcement, it is in the folder \
                  above: copy it"
            .to_owned(),
    };
    read(dir, true)?.ok_or_else(missing)
}

/// The role of a checkpoint of EasyNLA whose sidecar does not say.
fn role_of_files(dir: &Path) -> Result<&'static str> {
    let refuse = |name: &str, problem: &str| InterpError::ReaderFile {
        path: dir.join(name),
        problem: problem.to_owned(),
    };
    let adapters = "ar_lora_value_head.safetensors";
    if dir.join(adapters).exists() {
        return Err(refuse(
            adapters,
            "adapters of a reconstructor cannot be read; merge them into a model first, with EasyNLA's \
             scripts/merge_lora_to_hf.py",
        ));
    }
    if !dir.join("value_head.safetensors").exists() {
        return Ok("av");
    }
    if let Ok(json) = std::fs::read(dir.join("ar_meta.json")) {
        let meta: Value = serde_json::from_slice(&json).unwrap_or_default();
        if meta["final_norm_stripped"] != true {
            return Err(refuse(
                "ar_meta.json",
                "final_norm_stripped is not true: this reconstructor keeps the final norm; only those without it can \
                 be read",
            ));
        }
    }
    Ok("ar")
}

fn read(dir: &Path, easynla: bool) -> Result<Option<Released>> {
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
    let of_dataset = kind == "nla_dataset";
    if of_dataset && !easynla {
        return Err(refuse(
            "kind is \"nla_dataset\", as in checkpoints of EasyNLA; --reader-as easynla reads them"
                .to_owned(),
        ));
    }
    if kind != "nla_model" && !of_dataset {
        return Err(refuse(format!("kind is {kind:?}; expected \"nla_model\"")));
    }
    let number = |value: &Value, name: &str| {
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| refuse(format!("{name} is {value}; expected a number")))
    };
    let d_model = if of_dataset {
        number(&meta["extraction"]["d_model"], "extraction.d_model")?
    } else {
        number(&meta["d_model"], "d_model")?
    };
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
    let role = match meta["role"].as_str() {
        None if easynla => role_of_files(dir)?,
        role => role.unwrap_or_default(),
    };
    match role {
        "av" | "actor" | "verbalizer" => {
            let id = |name: &str| -> Result<u32> {
                Ok(number(&meta["tokens"][name], &format!("tokens.{name}"))? as u32)
            };
            let marker = meta["tokens"]["injection_char"]
                .as_str()
                .filter(|marker| !marker.is_empty());
            if !easynla && meta["extraction"].get("injection_scale").is_none() {
                return Err(refuse("extraction.injection_scale is missing; expected a number, null for no scaling, or \
                                   \"sqrt_d_model\""
                    .to_owned()));
            }
            let at_embeddings = |mode, strength| InjectAt {
                layer: 0,
                mode,
                strength,
            };
            let inject = match scale("injection_scale", None)? {
                _ if easynla => EASYNLA,
                Some(scale) => at_embeddings(InjectMode::ReplaceNorm, scale),
                None => at_embeddings(InjectMode::Replace, 1.0),
            };
            Ok(Some(Released::Verbalizer(Verbalizer {
                d_model,
                layer,
                inject,
                lora: easynla && dir.join("adapter_config.json").is_file(),
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
                // EasyNLA never adds it.
                bos: if easynla { Bos::Given } else { Bos::Auto },
                template: template(["ar", "critic", "reconstructor"])?,
                path,
            })))
        }
        other => Err(refuse(format!(
            "role is {other:?}; expected av, actor or verbalizer, or ar, critic or reconstructor"
        ))),
    }
}
