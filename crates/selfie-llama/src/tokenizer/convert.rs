//! Converts `vocab.json` and `merges.txt` to a `tokenizer.json`: `GPT2Converter` and `Qwen2Converter` of transformers
//! 4.57 (`convert_slow_tokenizer.py`).

use std::collections::HashSet;

use serde_json::{Value, json};

use super::class::Class;
use super::files::Files;
use super::settings::{Settings, truthy};
use crate::json::Fields;
use crate::{LlamaError, Result};

pub(crate) const QWEN2_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The `tokenizer.json` for a class built from the two files; `None` if one of them is missing.
pub(super) fn from_vocab_and_merges(files: &Files, settings: &Settings) -> Result<Option<Value>> {
    let (Some(vocab), Some(merges)) = (files.object("vocab.json")?, files.text("merges.txt")?)
    else {
        return Ok(None);
    };
    let prefix = settings.add_prefix_space.as_ref();
    let refuse = |expected: &str| {
        let path = files.path("tokenizer_config.json");
        let none = serde_json::Map::new();
        let value = prefix.map(Value::to_string).unwrap_or_default();
        Fields::new(&path, &none).refuse_as("add_prefix_space", value, expected)
    };
    let is_qwen2 = settings.class == Class::Qwen2;
    if is_qwen2 && prefix.is_some_and(truthy) {
        return Err(refuse("which Qwen2Tokenizer does not have: remove it"));
    }
    let (pre_tokenizer, normalizer) = if is_qwen2 {
        let split = json!({
            "type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": false,
        });
        let bytes = byte_level(false, false);
        let sequence = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
        (sequence, json!({"type": "NFC"}))
    } else {
        let add = match prefix {
            None => false,
            Some(Value::Bool(add)) => *add,
            Some(_) => return Err(refuse("expected true or false")),
        };
        (byte_level(add, true), Value::Null)
    };
    Ok(Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": null,
        "decoder": byte_level(true, true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocab,
            "merges": pairs(files, &merges, is_qwen2)?,
        },
    })))
}

pub(crate) fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex,
    })
}

/// The merges of `merges.txt`, each once. `GPT2Tokenizer` drops the first line and whatever follows the last line
/// break. `Qwen2Tokenizer` drops a first line with the version, and empty lines.
fn pairs<'a>(files: &Files, merges: &'a str, is_qwen2: bool) -> Result<Vec<[&'a str; 2]>> {
    let mut lines: Vec<&str> = merges.split('\n').collect();
    if is_qwen2 {
        if lines[0].trim().starts_with("#version:") {
            lines.remove(0);
        }
        lines.retain(|line| !line.trim().is_empty());
    } else {
        lines.pop();
        lines.drain(..lines.len().min(1));
    }
    let mut seen = HashSet::new();
    let mut pairs = Vec::with_capacity(lines.len());
    for line in lines {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let Ok(pair) = <[&str; 2]>::try_from(parts) else {
            return Err(LlamaError::Tokenizer {
                path: files.path("merges.txt"),
                source: format!("\"{line}\" is not two tokens with a space between").into(),
            });
        };
        if seen.insert(pair) {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}
