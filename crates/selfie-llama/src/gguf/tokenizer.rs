//! The tokenizer of a GGUF file as the `tokenizer.json` and `tokenizer_config.json` that transformers had before the
//! file was converted.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::config::{Keys, token_id};
use super::header::List;
use crate::Result;
use crate::tokenizer::{CONTROL, Piece, PieceModel, QWEN2_SPLIT, USER_DEFINED, byte_level};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Special tokens: their names in `tokenizer_config.json`, and the keys of their ids.
const NAMED: [(&str, &str); 4] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
];

/// How a byte-level tokenizer splits a text before it merges, by `tokenizer.ggml.pre`.
struct PreTokenizer {
    /// Regular expressions. Their matches are cut out, one expression after the other.
    splits: &'static [&'static str],
    /// Whether a part that is itself a token stays whole.
    ignore_merges: bool,
    /// Whether a text begins with bos if the file does not say.
    adds_bos: bool,
    /// Whether texts are normalized to form C.
    normalizes: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The known pre-tokenizers, grouped as in `llama-vocab.cpp` of llama.cpp. If llama.cpp writes an expression
/// differently from `tokenizer.json`, this is the one of `tokenizer.json`.
const PRE_TOKENIZERS: [(&[&str], PreTokenizer); 7] = [
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        PreTokenizer {
            splits: &[LLAMA3],
            ignore_merges: true,
            adds_bos: true,
            normalizes: false,
        },
    ),
    (&["dbrx", "smaug-bpe"], PreTokenizer::of(&[LLAMA3])),
    (
        &["qwen2", "deepseek-r1-qwen"],
        PreTokenizer {
            normalizes: true,
            ..PreTokenizer::of(&[QWEN2_SPLIT])
        },
    ),
    (
        &["smollm", "starcoder", "refact"],
        PreTokenizer::of(&[r"\p{N}", GPT2]),
    ),
    (&["gpt-2", "phi-2"], PreTokenizer::of(&[GPT2])),
    (&["gpt-4o"], PreTokenizer::of(&[GPT4O])),
    (
        &["tekken"],
        PreTokenizer {
            ignore_merges: true,
            adds_bos: true,
            ..PreTokenizer::of(&[TEKKEN])
        },
    ),
];
/// What llama.cpp uses for `default`.
const DEFAULT: PreTokenizer =
    PreTokenizer::of(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]);

impl PreTokenizer {
    const fn of(splits: &'static [&'static str]) -> Self {
        PreTokenizer {
            splits,
            ignore_merges: false,
            adds_bos: false,
            normalizes: false,
        }
    }

    fn find(keys: &Keys) -> Result<&'static Self> {
        let name = keys.text(PRE)?.ok_or_else(|| keys.missing(PRE))?;
        if name == "default" {
            return Ok(&DEFAULT);
        }
        let found = PRE_TOKENIZERS
            .iter()
            .find(|(names, _)| names.contains(&name));
        found.map(|(_, pre)| pre).ok_or_else(|| {
            let known: Vec<&str> = PRE_TOKENIZERS
                .iter()
                .flat_map(|(names, _)| *names)
                .copied()
                .collect();
            keys.refuse(PRE, format!("supported: {}, default", known.join(", ")))
        })
    }
}

/// The objects of `tokenizer.json` and `tokenizer_config.json`.
pub(super) fn tokenizer(keys: &Keys) -> Result<(Value, Value)> {
    let tokens = Tokens::read(keys)?;
    let (mut json, adds_bos) = match keys.text(MODEL)? {
        Some("gpt2") => byte_pairs(keys, &tokens)?,
        Some("llama") => (pieces(keys, &tokens)?, true),
        Some(_) => return Err(keys.refuse(MODEL, "supported: gpt2, llama")),
        None => return Err(keys.missing(MODEL)),
    };
    let flag = |name: &str| keys.flag(&format!("tokenizer.ggml.{name}"));
    let begin = flag("add_bos_token")?.unwrap_or(adds_bos);
    let end = flag("add_eos_token")?.unwrap_or(false);
    let around = |slot: usize, adds: bool| match tokens.named[slot] {
        _ if !adds => Ok(None),
        Some(id) => Ok(Some(id)),
        None => Err(keys.missing(NAMED[slot].1)),
    };
    json["post_processor"] = template(&tokens, around(0, begin)?, around(1, end)?);
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("add_bos_token".into(), begin.into());
    for ((name, _), id) in NAMED.iter().zip(tokens.named) {
        if let Some(id) = id {
            config.insert((*name).into(), tokens.texts[id].as_str().into());
        }
    }
    if let Some(templates) = chat_template(keys)? {
        config.insert("chat_template".into(), templates);
    }
    Ok((json, Value::Object(config)))
}

/// The vocabulary, with the kind of each token.
struct Tokens<'a> {
    texts: &'a [String],
    /// In SentencePiece's numbers: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    kinds: Vec<u64>,
    /// The ids of the tokens in [`NAMED`].
    named: [Option<usize>; 4],
}

impl<'a> Tokens<'a> {
    fn read(keys: &Keys<'a>) -> Result<Self> {
        let texts = keys.texts(TOKENS)?.ok_or_else(|| keys.missing(TOKENS))?;
        let mut seen = HashSet::new();
        if let Some(twice) = texts.iter().find(|text| !seen.insert(text.as_str())) {
            let twice = Value::String(twice.clone());
            return Err(keys.refuse(TOKENS, format!("but {twice} is in it twice")));
        }
        let kinds: Vec<u64> = match keys.list(TYPES)? {
            None => vec![1; texts.len()],
            Some(List::Unsigned(kinds)) => kinds.clone(),
            Some(List::Signed(kinds)) => kinds
                .iter()
                .map(|&kind| u64::try_from(kind).unwrap_or(0))
                .collect(),
            Some(_) => return Err(keys.refuse(TYPES, "expected a list of integers")),
        };
        if kinds.len() != texts.len() || kinds.iter().any(|kind| !(1..=6).contains(kind)) {
            let expected = format!(
                "expected a kind from 1 to 6 for each of {} tokens",
                texts.len()
            );
            return Err(keys.refuse(TYPES, expected));
        }
        let mut named = [None; 4];
        for (slot, (_, key)) in named.iter_mut().zip(NAMED) {
            *slot = match token_id(keys, key)? {
                Some(id) if id >= texts.len() as u64 => {
                    return Err(keys.refuse(key, format!("but there are {} tokens", texts.len())));
                }
                id => id.map(|id| id as usize),
            };
        }
        Ok(Self {
            texts,
            kinds,
            named,
        })
    }

    /// The tokens to find in a text before it is split.
    fn added(&self) -> Vec<Value> {
        let all = self.texts.iter().zip(&self.kinds).enumerate();
        let added = all.filter(|(_, (_, kind))| [CONTROL, USER_DEFINED].contains(kind));
        let added = added.map(|(id, (text, &kind))| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL,
            })
        });
        added.collect()
    }
}

/// A tokenizer that merges pairs of bytes, and whether it puts bos before a text by default.
fn byte_pairs(keys: &Keys, tokens: &Tokens) -> Result<(Value, bool)> {
    let pre = PreTokenizer::find(keys)?;
    let merges = keys.texts(MERGES)?.ok_or_else(|| keys.missing(MERGES))?;
    let pairs = merges.iter().map(|merge| {
        // The first character may itself be a space.
        let at = merge.char_indices().skip(1).find(|(_, char)| *char == ' ');
        let (at, _) = at.ok_or_else(|| {
            let merge = Value::String(merge.clone());
            keys.refuse(
                MERGES,
                format!("but {merge} in it is not two tokens with a space between"),
            )
        })?;
        Ok([&merge[..at], &merge[at + 1..]])
    });
    let pairs: Vec<[&str; 2]> = pairs.collect::<Result<_>>()?;
    let split = |pattern: &&str| {
        json!({
            "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
        })
    };
    let mut steps: Vec<Value> = pre.splits.iter().map(split).collect();
    steps.push(byte_level(false, false));
    let vocab: HashMap<&str, usize> = tokens.texts.iter().map(String::as_str).zip(0..).collect();
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": tokens.added(),
        "normalizer": pre.normalizes.then(|| json!({"type": "NFC"})),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null,
        "decoder": byte_level(true, true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocab,
            "merges": pairs,
        },
    });
    Ok((json, pre.adds_bos))
}

/// A tokenizer that merges SentencePiece pieces, the likeliest first.
fn pieces(keys: &Keys, tokens: &Tokens) -> Result<Value> {
    let scores = match keys.list(SCORES)? {
        Some(List::F32(scores)) if scores.len() == tokens.texts.len() => scores,
        Some(_) => {
            let expected = format!("expected an f32 for each of {} tokens", tokens.texts.len());
            return Err(keys.refuse(SCORES, expected));
        }
        None => return Err(keys.missing(SCORES)),
    };
    let is_gemma = keys
        .text("general.architecture")?
        .is_some_and(|name| name.starts_with("gemma"));
    let all = tokens
        .texts
        .iter()
        .zip(&tokens.kinds)
        .zip(scores)
        .enumerate();
    let pieces = all.map(|(id, ((text, &kind), &score))| {
        // llama.cpp stores a token that is a run of spaces with real spaces.
        let is_spaces = !text.is_empty() && text.bytes().all(|byte| byte == b' ');
        let text = if is_spaces {
            text.replace(' ', "▁")
        } else {
            text.clone()
        };
        // Gemma's pieces merge in the order of their ids. llama.cpp does not store these scores for special kinds of
        // tokens.
        let score = if is_gemma { -(id as f32) } else { score };
        Piece { text, score, kind }
    });
    let pieces: Vec<Piece> = pieces.collect();
    let unk = tokens.named[2].unwrap_or(0);
    let unk_piece = pieces
        .get(unk)
        .map_or_else(String::new, |piece| piece.text.clone());
    let model = PieceModel::of_pairs(pieces, unk_piece);
    let prefix = keys
        .flag("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    Ok(model.to_json(prefix))
}

/// The tokens to put around a text.
fn template(tokens: &Tokens, begin: Option<usize>, end: Option<usize>) -> Value {
    let mut special = Map::new();
    let mut mark = |id: Option<usize>| {
        let id = id?;
        let text = &tokens.texts[id];
        special.insert(
            text.clone(),
            json!({"id": text, "ids": [id], "tokens": [text]}),
        );
        Some(json!({"SpecialToken": {"id": text, "type_id": 0}}))
    };
    let (begin, end) = (mark(begin), mark(end));
    if special.is_empty() {
        return Value::Null;
    }
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let around = |inner: Vec<Value>| -> Vec<Value> {
        begin
            .iter()
            .cloned()
            .chain(inner)
            .chain(end.clone())
            .collect()
    };
    json!({
        "type": "TemplateProcessing",
        "single": around(vec![sequence("A")]),
        "pair": around(vec![sequence("A"), sequence("B")]),
        "special_tokens": special,
    })
}

/// The chat template as a text, or as a list of texts if the file has named ones too.
pub(super) fn chat_template(keys: &Keys) -> Result<Option<Value>> {
    let default = keys.text(TEMPLATE)?;
    let mut all: Vec<Value> = Vec::new();
    let template = |name: &str, text: &str| json!({"name": name, "template": text});
    all.extend(default.map(|text| template("default", text)));
    for key in keys.metadata.keys() {
        let rest = key.strip_prefix(TEMPLATE);
        let Some(name) = rest.and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        all.extend(keys.text(key)?.map(|text| template(name, text)));
    }
    Ok(match (default, all.len()) {
        (Some(text), 1) => Some(text.into()),
        (_, 0) => None,
        _ => Some(all.into()),
    })
}
