//! The files of a checkpoint that are not text for people.

use std::path::Path;

use selfie::kernels::MatrixSource;
use selfie::llama::{
    ChatTemplate, Checkpoint, GenerationConfig, Gguf, LlamaConfig, SamplingOverrides, Tokenizer,
    WeightChoice, stored_dtype, weight_summary,
};

use crate::files::with_files;

/// `config.json`.
pub(crate) fn config(bytes: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(config) = LlamaConfig::parse(json, Path::new("config.json")) else {
        return false;
    };
    let _ = config.n_parameters();
    let _ = config.check_context(config.max_positions);
    true
}

/// `generation_config.json`.
pub(crate) fn generation_config(bytes: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(config) = GenerationConfig::parse(json, Path::new("generation_config.json")) else {
        return false;
    };
    GenerationConfig::resolve(Some(&config), &SamplingOverrides::default()).is_ok()
}

/// `model.safetensors`: the header, and reading what it describes.
pub(crate) fn safetensors(bytes: &[u8]) -> bool {
    with_files(&[("model.safetensors", bytes)], |dir| {
        let Ok(checkpoint) = Checkpoint::open(dir) else {
            return false;
        };
        read_all(&checkpoint);
        true
    })
}

/// `model.safetensors.index.json`, beside a shard that it may name.
pub(crate) fn safetensors_index(bytes: &[u8]) -> bool {
    const HEADER: &[u8] =
        br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}}"#;
    let length = (HEADER.len() as u64).to_le_bytes();
    let shard = [&length, HEADER, &[0; 8]].concat();
    let files: [(&str, &[u8]); 2] = [
        ("model.safetensors.index.json", bytes),
        ("one.safetensors", &shard),
    ];
    with_files(&files, |dir| {
        let Ok(checkpoint) = Checkpoint::open(dir) else {
            return false;
        };
        read_all(&checkpoint);
        true
    })
}

/// A GGUF file: the configuration and the tokenizer that it holds, and its tensors.
pub(crate) fn gguf(bytes: &[u8]) -> bool {
    if Gguf::parse(bytes.to_vec(), Path::new("model.gguf")).is_err() {
        return false;
    }
    with_files(&[("model.gguf", bytes)], |dir| {
        let path = &dir.join("model.gguf");
        if let Ok(tokenizer) = Tokenizer::open(path) {
            let _ = ChatTemplate::open(path, &tokenizer);
        }
        let _ = GenerationConfig::open(path);
        let Ok(checkpoint) = Checkpoint::open(path) else {
            return false;
        };
        read_all(&checkpoint);
        let Ok(config) = LlamaConfig::open(path) else {
            return false;
        };
        let _ = stored_dtype(&config, &checkpoint);
        let _ = weight_summary(&config, &checkpoint, WeightChoice::Stored, true);
        true
    })
}

/// Asks for every tensor that a file has, and for its first rows.
fn read_all(checkpoint: &Checkpoint) {
    let _ = checkpoint.total_bytes();
    for (name, info) in checkpoint.tensors() {
        if let Ok(tensor) = checkpoint.tensor(name, info.shape) {
            let rows = tensor.shape().0.min(2);
            let _ = tensor.with_rows(0..rows, &mut |_| {});
        }
    }
}
