//! Translates the rope scaling of a GGUF file into `rope_scaling` of transformers.

use std::f64::consts::PI;

use selfie_kernels::DType;
use serde_json::{Value, json};

use super::Gguf;
use super::config::Model;
use super::names::ROPE_FREQS;
use crate::{LlamaError, Result};

/// The parameters of LLaMA 3.1 and later, `(low, high, original)`. A file stores only the resulting factors.
const LLAMA3: (f64, f64, f64) = (1.0, 4.0, 8192.0);
/// How much a factor may be off, relative to its value: f32 powers and quotients produce it.
const TOLERANCE: f64 = 1e-5;

/// `rope_scaling`, if the file scales. Scaling that cannot be recovered exactly is refused.
pub(super) fn scaling(
    model: &Model,
    gguf: &Gguf,
    theta: f64,
    head_dim: u64,
) -> Result<Option<Value>> {
    let refuse = |key: &str, expected: &str| Err(model.refuse(key, expected));
    let factor = match model.number("rope.scaling.factor")? {
        None => model.number("rope.scale_linear")?,
        factor => factor,
    };
    let kind_key = model.key("rope.scaling.type");
    // Files from before the type key meant linear scaling by a factor.
    let implied = if factor.is_some() { "linear" } else { "none" };
    let kind = model.keys.text(&kind_key)?.unwrap_or(implied);
    let original = model.integer("rope.scaling.original_context_length")?;
    for key in ["rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor"] {
        if model.number(key)?.is_some_and(|value| value != 1.0) {
            return refuse(key, "supported: 1, or no key");
        }
    }
    if model
        .number("rope.scaling.yarn_log_multiplier")?
        .is_some_and(|value| value != 0.0)
    {
        return refuse(
            "rope.scaling.yarn_log_multiplier",
            "supported: 0, or no key",
        );
    }
    let factors = factors(gguf)?;
    match (kind, factor) {
        ("none", _) | ("linear", None | Some(1.0)) => match factors {
            None => Ok(None),
            Some(factors) => llama3(gguf, &factors, theta, head_dim).map(Some),
        },
        (_, _) if factors.is_some() => refuse(
            "rope.scaling.type",
            "expected none, as rope_freqs.weight scales already",
        ),
        ("linear", Some(factor)) => Ok(Some(json!({"rope_type": "linear", "factor": factor}))),
        ("yarn", Some(factor)) => Ok(Some(json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            "beta_fast": model.number("rope.scaling.yarn_beta_fast")?,
            "beta_slow": model.number("rope.scaling.yarn_beta_slow")?,
        }))),
        ("yarn", None) => {
            let key = model.key("rope.scaling.factor");
            Err(model.keys.missing(&key))
        }
        _ => refuse("rope.scaling.type", "supported: none, linear, yarn"),
    }
}

/// The values of `rope_freqs.weight`, if the file has this tensor.
fn factors(gguf: &Gguf) -> Result<Option<Vec<f32>>> {
    let Some((stored, shard)) = gguf.tensors.get(ROPE_FREQS) else {
        return Ok(None);
    };
    let mut factors = Vec::new();
    if stored.kind.plain() != Some(DType::F32) {
        let problem = format!(
            "tensor {ROPE_FREQS} is stored as {}; expected F32",
            stored.kind.name
        );
        return Err(gguf.keys().fail(problem));
    }
    let range = stored.offset..stored.offset + stored.bytes;
    let read = shard.with_bytes(range, &mut |bytes| factors = DType::F32.to_f32(bytes));
    read.map_err(|source| LlamaError::Read {
        path: shard.path.clone(),
        source,
    })?;
    Ok(Some(factors))
}

/// The LLaMA 3 scaling that these factors come from. llama.cpp stores the divisor of each frequency in
/// `_compute_llama3_parameters` of transformers.
fn llama3(gguf: &Gguf, factors: &[f32], theta: f64, head_dim: u64) -> Result<Value> {
    let (low, high, original) = LLAMA3;
    let refuse = || {
        let problem = format!(
            "tensor {ROPE_FREQS} is not the scaling of LLaMA 3 (low_freq_factor {low}, high_freq_factor {high}, \
             original_max_position_embeddings {original}), and no other is supported; use the safetensors files of \
             the model"
        );
        Err(gguf.keys().fail(problem))
    };
    if factors.len() as u64 != head_dim / 2 {
        return refuse();
    }
    // The lowest frequencies are divided by the full factor.
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let expected = (0..head_dim / 2).map(|pair| {
        let frequency = theta.powf(-2.0 * pair as f64 / head_dim as f64);
        let turns = original * frequency / (2.0 * PI);
        if turns > high {
            1.0
        } else if turns < low {
            factor
        } else {
            let smooth = (turns - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    let is_near = |(&found, expected): (&f32, f64)| {
        (f64::from(found) - expected).abs() <= TOLERANCE * expected
    };
    if !factors.iter().zip(expected).all(is_near) {
        return refuse();
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original as u64,
    }))
}
