//! Tokenizers from metadata. tokenizer.py made the cases.

use std::fs;

use selfie_llama::Tokenizer;
use serde::Deserialize;

use crate::file::{File, Meta, refusal};

const CASES: &str = include_str!("tokenizer.json");

#[derive(Deserialize)]
struct Case {
    model: String,
    pre: Option<String>,
    prefix: Option<bool>,
    tokens: Vec<String>,
    types: Vec<i32>,
    scores: Option<Vec<f32>>,
    merges: Option<Vec<String>>,
    cases: Vec<(String, Vec<u32>)>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(CASES).unwrap()
}

fn file(case: &Case) -> File {
    let mut file = File::model("llama", &[]);
    let mut set = |key: &str, value: Meta| file.set(&format!("tokenizer.ggml.{key}"), value);
    set("model", Meta::Text(case.model.clone().leak()));
    set("tokens", Meta::Texts(case.tokens.clone()));
    set("token_type", Meta::I32s(case.types.clone()));
    set("add_bos_token", Meta::Bool(false));
    if let Some(pre) = &case.pre {
        set("pre", Meta::Text(pre.clone().leak()));
    }
    if let Some(prefix) = case.prefix {
        set("add_space_prefix", Meta::Bool(prefix));
    }
    if let Some(scores) = &case.scores {
        set("scores", Meta::F32s(scores.clone()));
    }
    if let Some(merges) = &case.merges {
        set("merges", Meta::Texts(merges.clone()));
    }
    file
}

fn open(file: &File) -> selfie_llama::Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    Tokenizer::open(&path)
}

#[test]
fn ids_are_those_of_the_original() {
    let cases = cases();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let tokenizer = open(&file(&case)).unwrap();
        for (text, expected) in &case.cases {
            let found = tokenizer.encode(text).unwrap();
            assert_eq!(&found, expected, "{} {:?}: {text:?}", case.model, case.pre);
            // SentencePiece's decoder drops the first space, because the encoder puts one there.
            let decoded = tokenizer.decode_all(&found).unwrap();
            if case.pre.as_deref() != Some("qwen2") && case.model == "gpt2" {
                assert_eq!(&decoded, text);
            }
        }
    }
}

#[test]
fn bos_is_as_the_file_says() {
    let all = cases();
    let case = |pre: Option<&str>| all.iter().find(|case| case.pre.as_deref() == pre).unwrap();
    // By llama.cpp's defaults, texts of LLaMA 3 and SentencePiece begin with bos, those of Qwen 2 do not.
    for (pre, by_default) in [
        (Some("llama-bpe"), true),
        (Some("qwen2"), false),
        (None, true),
    ] {
        let mut file = file(case(pre));
        file.set("tokenizer.ggml.bos_token_id", Meta::U32(1));
        for said in [Some(true), Some(false), None] {
            file.metadata
                .retain(|(key, _)| key != "tokenizer.ggml.add_bos_token");
            if let Some(said) = said {
                file.set("tokenizer.ggml.add_bos_token", Meta::Bool(said));
            }
            let tokenizer = open(&file).unwrap();
            let plain = tokenizer.encode_plain("Hello").unwrap();
            let begin: &[u32] = if said.unwrap_or(by_default) {
                &[1]
            } else {
                &[]
            };
            assert_eq!(tokenizer.encode("Hello").unwrap(), [begin, &plain].concat());
            assert_eq!(tokenizer.bos(), Some(1));
        }
    }
}

#[test]
fn special_tokens_are_left_out_of_a_text_and_others_are_not() {
    let all = cases();
    let tokenizer = open(&file(&all[0])).unwrap();
    let ids = tokenizer.encode("<|begin|>Hi<tool>").unwrap();
    assert!(tokenizer.is_special(ids[0]));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "Hi<tool>");
}

#[test]
fn chat_templates_are_in_tokenizer_config() {
    let mut file = file(&cases()[0]);
    file.set("tokenizer.chat_template", Meta::Text("{{ messages }}"));
    file.set("tokenizer.ggml.eos_token_id", Meta::U32(1));
    let config = file.parse().unwrap().tokenizer().unwrap().1;
    assert_eq!(config["chat_template"], "{{ messages }}");
    assert_eq!(config["eos_token"], "<|end|>");
    assert_eq!(config["add_bos_token"], false);

    file.set("tokenizer.chat_template.tools", Meta::Text("{{ tools }}"));
    let config = file.parse().unwrap().tokenizer().unwrap().1;
    let expected = serde_json::json!([
        {"name": "default", "template": "{{ messages }}"}, {"name": "tools", "template": "{{ tools }}"},
    ]);
    assert_eq!(config["chat_template"], expected);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let case = &cases()[0];
    let n = case.tokens.len();
    let mut twice = case.tokens.clone();
    twice[3] = twice[4].clone();
    for (key, value, expected) in [
        (
            "pre",
            Meta::Text("klingon"),
            "\"tokenizer.ggml.pre\" is \"klingon\"; supported: llama-bpe, llama3".to_owned(),
        ),
        (
            "model",
            Meta::Text("bert"),
            "\"tokenizer.ggml.model\" is \"bert\"; supported: gpt2, llama".to_owned(),
        ),
        ("tokens", Meta::Texts(twice), "is in it twice".to_owned()),
        ("tokens", Meta::U32(1), "expected a list".to_owned()),
        (
            "token_type",
            Meta::I32s(vec![1]),
            format!("expected a kind from 1 to 6 for each of {n} tokens"),
        ),
        (
            "token_type",
            Meta::I32s(vec![7; n]),
            "expected a kind from 1 to 6".to_owned(),
        ),
        (
            "merges",
            Meta::Texts(vec!["one".to_owned()]),
            "but \"one\" in it is not two tokens".to_owned(),
        ),
        (
            "bos_token_id",
            Meta::U32(n as u32),
            format!("is {n}; but there are {n} tokens"),
        ),
    ] {
        let mut file = file(case);
        file.set(&format!("tokenizer.ggml.{key}"), value);
        let said = refusal(file.parse().unwrap().tokenizer());
        assert!(
            said.starts_with("model.gguf: ") && said.contains(&expected),
            "{said}"
        );
    }
    for key in ["pre", "model", "tokens", "merges"] {
        let (mut file, key) = (file(case), format!("tokenizer.ggml.{key}"));
        file.metadata.retain(|(there, _)| *there != key);
        let said = refusal(file.parse().unwrap().tokenizer());
        assert_eq!(said, format!("model.gguf: field \"{key}\" is missing"));
    }
    // Required, but missing.
    let mut file = file(case);
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    let said = refusal(file.parse().unwrap().tokenizer());
    assert_eq!(
        said,
        "model.gguf: field \"tokenizer.ggml.bos_token_id\" is missing"
    );
}
