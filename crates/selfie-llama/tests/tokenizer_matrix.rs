//! Compares realistic tokenizer folders with `AutoTokenizer`. tokenizer_matrix.py made the cases.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use selfie_llama::Tokenizer;
use serde_json::{Map, Value};
use tempfile::TempDir;

const MATRIX: &str = include_str!("tokenizer_matrix.jsonl");

/// Decodes base64.
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{byte} is no digit of base64"),
    };
    let mut bytes = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group
            .iter()
            .fold(0, |bits, &byte| bits << 6 | u32::from(digit(byte)));
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// A base folder with some files edited.
fn folder(case: &Value, bases: &HashMap<&str, &Value>) -> TempDir {
    let folder = TempDir::new().unwrap();
    let base = bases[case["base"].as_str().unwrap()];
    for name in case["files"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let content = match &base[name] {
            Value::String(text) if name == "tokenizer.model" => base64(text),
            Value::String(text) => text.clone().into_bytes(),
            object => object.to_string().into_bytes(),
        };
        fs::write(folder.path().join(name), content).unwrap();
    }
    for (name, fields) in case["edits"].as_object().unwrap() {
        let path = folder.path().join(name);
        let mut content: Map<String, Value> = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap(),
            Err(_) => Map::new(),
        };
        content.extend(fields.as_object().unwrap().clone());
        fs::write(path, Value::Object(content).to_string()).unwrap();
    }
    folder
}

/// How a folder's tokenizer differs from transformers; `None` if they agree.
fn fault(dir: &Path, case: &Value, prompts: &[&str], ids: &Value, texts: &Value) -> Option<String> {
    let tokenizer = match (Tokenizer::open(dir), case.get("error")) {
        (Err(_), Some(_)) => return None,
        (Err(error), None) => return Some(format!("refused: {error}")),
        (Ok(_), Some(error)) => return Some(format!("opened, where transformers says {error}")),
        (Ok(tokenizer), None) => tokenizer,
    };
    let named = [("bos", tokenizer.bos()), ("eos", tokenizer.eos())];
    for (name, found) in named {
        if found.map(u64::from) != case[name].as_u64() {
            return Some(format!("{name} is {found:?}, not {}", case[name]));
        }
    }
    for (at, prompt) in prompts.iter().enumerate() {
        let of = |field: &str| case[field][at].as_u64().unwrap() as usize;
        let found = match tokenizer.encode(prompt) {
            Ok(found) => found,
            Err(error) => return Some(format!("{prompt:?}: {error}")),
        };
        let expected: Vec<u32> = serde_json::from_value(ids[of("ids")].clone()).unwrap();
        if found != expected {
            return Some(format!("{prompt:?}: {found:?}, not {expected:?}"));
        }
        let all = tokenizer.decode_all(&found).unwrap();
        let plain = tokenizer.decode(&found).unwrap();
        for (found, expected) in [(all, &texts[of("texts")]), (plain, &texts[of("plain")])] {
            if found != expected.as_str().unwrap() {
                return Some(format!("{prompt:?}: decoded to {found:?}, not {expected}"));
            }
        }
    }
    None
}

#[test]
fn folders_agree_with_transformers() {
    let lines: Vec<Value> = MATRIX
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let field = |name: &str| lines.iter().find_map(|line| line.get(name)).unwrap();
    let prompts: Vec<&str> = field("prompts")
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p.as_str().unwrap())
        .collect();
    assert_eq!(prompts.len(), 30);
    let (ids, texts) = (field("ids"), field("texts"));
    let bases = lines.iter().filter(|line| line.get("content").is_some());
    let bases: HashMap<&str, &Value> = bases
        .map(|line| (line["base"].as_str().unwrap(), &line["content"]))
        .collect();
    assert_eq!(bases.len(), 6);
    let cases: Vec<&Value> = lines
        .iter()
        .filter(|line| line.get("case").is_some())
        .collect();
    assert!(cases.len() > 1000, "{}", cases.len());
    let mut faults = Vec::new();
    for case in &cases {
        let folder = folder(case, &bases);
        if let Some(fault) = fault(folder.path(), case, &prompts, ids, texts) {
            faults.push(format!(
                "{} {} {}: {fault}",
                case["base"], case["files"], case["edits"]
            ));
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        cases.len(),
        faults.join("\n")
    );
}
