//! The tokenizer against the golden data and against transformers; its streams and its errors.

use std::fs;
use std::path::Path;

use selfie_llama::{Bos, LlamaError, Note, Tokenizer};
use selfie_testkit::llama::{GOLDEN, dir, golden, ids};
use serde_json::{Value, json};
use tempfile::TempDir;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of a golden tokenizer, with its two files edited.
fn copy(name: &str, edit: impl FnOnce(&mut Value, &mut Value)) -> TempDir {
    let copy = TempDir::new().unwrap();
    let files = ["tokenizer.json", "tokenizer_config.json"];
    let [mut tokenizer, mut config] = files.map(|file| read(&dir(name).join(file)));
    edit(&mut tokenizer, &mut config);
    for (file, value) in files.iter().zip([tokenizer, config]) {
        fs::write(copy.path().join(file), value.to_string()).unwrap();
    }
    copy
}

/// LLaMA 2's `<0x00>` to `<0xFF>` as plain tokens; in the golden file they are special.
fn plain_bytes(tokenizer: &mut Value) {
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    added.retain(|token| !token["content"].as_str().unwrap().starts_with("<0x"));
    assert_eq!(added.len(), 3);
}

/// The golden tokenizer whose bytes are tokens `<0x00>`, and the one of byte-level BPE.
fn byte_fallback() -> Tokenizer {
    let copy = copy("llama2-mha", |tokenizer, _| plain_bytes(tokenizer));
    Tokenizer::open(copy.path()).unwrap()
}

fn byte_level() -> Tokenizer {
    Tokenizer::open(&dir("llama3-gqa")).unwrap()
}

/// What a stream returns for each id, then at the end.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut texts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    texts.push(stream.finish().unwrap());
    texts
}

#[test]
fn golden_texts_and_ids_agree() {
    for name in GOLDEN {
        let tokenizer = Tokenizer::open(&dir(name)).unwrap();
        let golden = golden(name);
        let list = |field: &str| golden[field].as_array().unwrap().clone();
        for case in list("forward") {
            let prompt = case["prompt"].as_str().unwrap();
            assert_eq!(tokenizer.encode(prompt).unwrap(), ids(&case["input_ids"]));
        }
        for case in list("generate") {
            let text = tokenizer.decode(&ids(&case["new_ids"])).unwrap();
            assert_eq!(text, case["text"].as_str().unwrap());
        }
        let mut rows = 0;
        for case in list("interpret") {
            let text = case["interpretation_text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["input_ids"]));
            let prompt = tokenizer.encode(case["prompt"].as_str().unwrap()).unwrap();
            for row in case["rows"].as_array().unwrap() {
                let text = tokenizer.decode(&ids(&row["new_ids"])).unwrap();
                assert_eq!(text, row["interpretation"].as_str().unwrap());
                let token = prompt[row["token"].as_u64().unwrap() as usize];
                let text = tokenizer.decode_all(&[token]).unwrap();
                assert_eq!(text, row["token_decoded"].as_str().unwrap());
                rows += 1;
            }
        }
        assert!(rows > 0);
    }
}

#[test]
fn texts_ids_streams_and_pieces_agree_with_transformers() {
    let reference: Value = serde_json::from_str(include_str!("tokenizer_reference.json")).unwrap();
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let name = format!(
            "{} {} {}",
            case["folder"], case["byte_tokens"], case["config"]
        );
        let copy = copy(case["folder"].as_str().unwrap(), |tokenizer, config| {
            if case["byte_tokens"] == json!(false) {
                plain_bytes(tokenizer);
            }
            for (field, value) in case["config"].as_object().unwrap() {
                config[field] = value.clone();
            }
        });
        let tokenizer = Tokenizer::open(copy.path()).unwrap();
        for text in case["texts"].as_array().unwrap() {
            let plain = tokenizer.encode_plain(text["text"].as_str().unwrap());
            assert_eq!(plain.unwrap(), ids(&text["encode_plain"]), "{name}");
            let all = tokenizer.encode(text["text"].as_str().unwrap());
            assert_eq!(all.unwrap(), ids(&text["encode"]), "{name}");
        }
        let decoded = case["decoded"].as_array().unwrap();
        assert_eq!(decoded.len(), 58);
        for decoded in decoded {
            let ids = ids(&decoded["ids"]);
            let (text, all) = (&decoded["decode"], &decoded["decode_all"]);
            assert_eq!(&json!(tokenizer.decode(&ids).unwrap()), text, "{name}");
            assert_eq!(&json!(tokenizer.decode_all(&ids).unwrap()), all, "{name}");
            assert_eq!(&json!(streamed(&tokenizer, &ids).concat()), text, "{name}");
            let pieces = tokenizer.pieces(&ids).unwrap();
            assert_eq!(pieces.len(), ids.len());
            assert_eq!(&json!(pieces.concat()), all, "{name}");
        }
    }
}

/// The ids of the bytes of 京 and of 🙂 between `a` and `b`, from the vocabulary of `tokenizer.json`.
const FALLBACK: [u32; 9] = [292, 231, 189, 175, 243, 162, 156, 133, 293];
const LEVEL: [u32; 9] = [64, 160, 118, 105, 172, 253, 247, 224, 65];

#[test]
fn streams_never_give_a_part_of_a_character() {
    // Bytes are returned once their character is complete.
    let found = streamed(&byte_level(), &LEVEL);
    assert_eq!(found, ["a", "", "", "京", "", "", "", "🙂", "b", ""]);
    // Byte tokens are returned when something else follows: a wrong one would turn all of them into U+FFFD.
    let tokenizer = byte_fallback();
    let found = streamed(&tokenizer, &FALLBACK);
    assert_eq!(found, ["a", "", "", "", "", "", "", "", "京🙂b", ""]);
    let found = streamed(&tokenizer, &FALLBACK[..4]);
    assert_eq!(found, ["a", "", "", "", "京"]);
    let found = streamed(&tokenizer, &[231, 189, 175, 258]);
    assert_eq!(found, ["", "", "", "", "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}"]);
    // A special token between two bytes is not text, and does not separate them.
    let found = streamed(&tokenizer, &[231, 2, 189, 1, 175, FALLBACK[8]]);
    assert_eq!(found, ["", "", "", "", "", "京b", ""]);
}

#[test]
fn streams_end_with_what_is_not_whole() {
    assert_eq!(
        streamed(&byte_level(), &LEVEL[..3]),
        ["a", "", "", "\u{FFFD}"]
    );
    let found = streamed(&byte_fallback(), &FALLBACK[..3]);
    assert_eq!(found, ["a", "", "", "\u{FFFD}\u{FFFD}"]);
    // A run of bytes that are not UTF-8 is returned as it arrives, one token late.
    let found = streamed(&byte_level(), &[LEVEL[2]; 4]);
    assert_eq!(found, ["", "\u{FFFD}", "\u{FFFD}", "\u{FFFD}", "\u{FFFD}"]);
    assert_eq!(streamed(&byte_level(), &[]), [""]);
}

#[test]
fn pieces_give_a_character_to_the_token_that_completes_it() {
    let pieces = byte_level().pieces(&LEVEL).unwrap();
    assert_eq!(pieces, ["a", "", "", "京", "", "", "", "🙂", "b"]);
    let tokenizer = byte_fallback();
    let pieces = tokenizer.pieces(&FALLBACK).unwrap();
    assert_eq!(pieces, ["a", "", "", "京", "", "", "", "🙂", "b"]);
    // The text of special tokens is included. The first token's space is not, as in the decoded text.
    let pieces = tokenizer.pieces(&[329, 329, 2]).unwrap();
    assert_eq!(pieces, ["the", " the", "</s>"]);
    assert_eq!(tokenizer.pieces(&[]).unwrap(), [""; 0]);
}

#[test]
fn streams_are_whole_where_spaces_are_cleaned_up() {
    let copy = copy("llama3-gqa", |_, config| {
        config["clean_up_tokenization_spaces"] = json!(true);
    });
    let tokenizer = Tokenizer::open(copy.path()).unwrap();
    // Every character that the replacements look at, and an x: ␣␣␣'ntsmver.,!?x
    let tokens = [
        220, 220, 220, 6, 6, 77, 83, 82, 76, 85, 68, 81, 13, 11, 0, 30, 87,
    ];
    let mut state = 1_u64;
    for _ in 0..4000 {
        let random: Vec<u32> = (0..14)
            .map(|_| {
                // Knuth's MMIX generator.
                state = state.wrapping_mul(6_364_136_223_846_793_005);
                state = state.wrapping_add(1_442_695_040_888_963_407);
                tokens[(state >> 33) as usize % tokens.len()]
            })
            .collect();
        let text = tokenizer.decode(&random).unwrap();
        assert_eq!(streamed(&tokenizer, &random).concat(), text);
    }
    // Only text that can still change is held back: x␣'s␣.x
    let found = streamed(&tokenizer, &[87, 220, 6, 82, 220, 13, 87]);
    assert_eq!(found, ["x", "", "", "'s", "", ".", "x", ""]);
}

#[test]
fn vocabulary_and_special_tokens() {
    let tokenizer = byte_fallback();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.vocab_size(), 560);
    assert_eq!(tokenizer.piece(329).as_deref(), Some("▁the"));
    assert_eq!(tokenizer.piece(2).as_deref(), Some("</s>"));
    assert_eq!(tokenizer.piece(560), None);
    let tokenizer = byte_level();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(568), Some(572)));
    assert_eq!(tokenizer.vocab_size(), 573);
    assert_eq!(tokenizer.piece(544).as_deref(), Some("ĠæĿ±äº¬"));
    assert_eq!(tokenizer.piece(570).as_deref(), Some("<|start_header_id|>"));
}

#[test]
fn tokenizer_config_may_be_written_in_other_ways() {
    let open = |mut config: Value| {
        config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
        let copy = copy("llama2-mha", |_, old| *old = config);
        let tokenizer = Tokenizer::open(copy.path()).unwrap();
        (tokenizer.bos(), tokenizer.eos())
    };
    let object = json!({"__type": "AddedToken", "content": "</s>", "lstrip": false});
    assert_eq!(open(json!({"eos_token": object})), (None, Some(2)));
    assert_eq!(
        open(json!({"bos_token": null, "eos_token": "<s>"})),
        (None, Some(1))
    );
    assert_eq!(open(json!({})), (None, None));
    // Python writes NaN and Infinity, which are not JSON.
    let copy = copy("llama2-mha", |_, _| {});
    let config = r#"{"tokenizer_class": "LlamaTokenizer", "model_max_length": Infinity, "x": [NaN, -Infinity, "NaN"]}"#;
    fs::write(copy.path().join("tokenizer_config.json"), config).unwrap();
    assert_eq!(Tokenizer::open(copy.path()).unwrap().bos(), Some(1));
}

#[test]
fn the_class_is_that_of_the_model_where_the_tokenizer_names_none() {
    let open = |config: Value| {
        let copy = copy("llama2-mha", |tokenizer, old| {
            tokenizer["post_processor"] = Value::Null;
            *old = json!({"bos_token": "<s>"});
        });
        fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        Tokenizer::open(copy.path()).map(|tokenizer| tokenizer.encode("The").unwrap()[0])
    };
    assert_eq!(open(json!({"model_type": "llama"})).unwrap(), 1);
    assert_ne!(open(json!({"model_type": "qwen2"})).unwrap(), 1);
    let class = json!({"model_type": "llama", "tokenizer_class": "PreTrainedTokenizerFast"});
    assert_ne!(open(class).unwrap(), 1);
    let unknown = open(json!({"model_type": "bert"})).unwrap_err().to_string();
    assert!(
        unknown.contains("\"bert\"") && unknown.contains("tokenizer_class"),
        "{unknown}"
    );
    let copy = copy("llama2-mha", |_, old| *old = json!({}));
    let (error, message) = refused(&copy);
    assert!(matches!(error, LlamaError::NoTokenizerClass { .. }));
    assert!(
        message.starts_with("DIR names no tokenizer_class"),
        "{message}"
    );
}

#[test]
fn an_eos_that_is_only_in_the_vocabulary_is_special() {
    let copy = copy("llama2-mha", |tokenizer, _| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        added.retain(|token| token["content"] != "</s>");
    });
    let tokenizer = Tokenizer::open(copy.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 560);
    assert_eq!(tokenizer.decode(&[329, 2]).unwrap(), "the");
    assert_eq!(tokenizer.decode_all(&[329, 2]).unwrap(), "the</s>");
    assert_eq!(tokenizer.encode("</s>").unwrap(), [1, 2]);
}

#[test]
fn truncation_and_padding_are_left_out() {
    let copy = copy("llama2-mha", |tokenizer, _| {
        tokenizer["truncation"] = json!({
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
        });
        tokenizer["padding"] = json!({
            "strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"
        });
    });
    let tokenizer = Tokenizer::open(copy.path()).unwrap();
    for case in golden("llama2-mha")["forward"].as_array().unwrap() {
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(tokenizer.encode(prompt).unwrap(), ids(&case["input_ids"]));
    }
}

/// The error of opening a folder, and its message without the folder's name.
fn refused(dir: &TempDir) -> (LlamaError, String) {
    let error = Tokenizer::open(dir.path()).err().unwrap();
    let message = error.to_string();
    let name = dir.path().display().to_string();
    assert!(message.contains(&name), "{message}");
    (error, message.replace(&name, "DIR"))
}

#[test]
fn folders_without_a_tokenizer_are_told_what_to_do() {
    let dir = TempDir::new().unwrap();
    let says = |class: &str, files: &[&str], words: &[&str]| {
        let config = json!({"tokenizer_class": class}).to_string();
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        for file in files {
            fs::write(dir.path().join(file), "{}").unwrap();
        }
        let (error, message) = refused(&dir);
        assert!(matches!(error, LlamaError::NoTokenizer { .. }), "{message}");
        for word in words {
            assert!(message.contains(word), "{message}");
        }
        for file in files {
            fs::remove_file(dir.path().join(file)).unwrap();
        }
    };
    says(
        "LlamaTokenizer",
        &[],
        &["DIR holds no tokenizer.json; download it into the folder"],
    );
    let pair = ["vocab.json", "merges.txt"];
    says(
        "LlamaTokenizer",
        &pair,
        &[
            "GPT2Tokenizer and Qwen2Tokenizer",
            "write the right one as tokenizer_class",
        ],
    );
    says("GPT2Tokenizer", &pair[..1], &["download it"]);
    // Both ways were tried with transformers 4.57.1.
    says(
        "LlamaTokenizer",
        &["tekken.json"],
        &[
            "mistral-common==1.5.4",
            "convert_tekken_tokenizer(\"DIR/tekken.json\")",
        ],
    );
    says(
        "GemmaTokenizer",
        &["tokenizer.model"],
        &["AutoTokenizer.from_pretrained(\"DIR\").save_pretrained(\"DIR\")"],
    );
    says(
        "PreTrainedTokenizerFast",
        &["tokenizer.model"],
        &["write LlamaTokenizer as tokenizer_class"],
    );

    let error = Tokenizer::open(&dir.path().join("nowhere")).err().unwrap();
    assert!(matches!(error, LlamaError::NoFolder { .. }));

    fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    let (error, message) = refused(&dir);
    assert!(matches!(error, LlamaError::Read { .. }));
    assert!(
        message.starts_with("cannot read DIR/tokenizer.json: "),
        "{message}"
    );
}

#[test]
fn broken_tokenizers_are_named_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let config = r#"{"tokenizer_class": "LlamaTokenizer"}"#;
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    for (content, reason) in [
        (
            &b"{\"version\": "[..],
            "EOF while parsing a value at line 1 column 12",
        ),
        (b"\xFF\xFE{", "expected value at line 1 column 1"),
        (b"{\"version\": \"1.0\"}", "missing field `added_tokens`"),
        (
            b"{\"version\": \"1.0\", \"added_tokens\": []}",
            "Model missing.",
        ),
    ] {
        fs::write(dir.path().join("tokenizer.json"), content).unwrap();
        let (error, message) = refused(&dir);
        assert!(matches!(error, LlamaError::Tokenizer { .. }));
        let begin = format!("the tokenizer DIR/tokenizer.json fails: {reason}");
        assert!(message.starts_with(&begin), "{message}");
    }
}

/// Files that the tokenizers library panics at, or would take gigabytes for.
#[test]
fn tokenizers_that_contradict_themselves_are_errors() {
    let strip = json!({"type": "Strip", "content": "a", "start": 1, "stop": 1u64 << 60});
    let copy_with = |field: &str, value: &Value| {
        copy("llama2-mha", |tokenizer, _| {
            tokenizer[field] = value.clone();
        })
    };
    for (field, value, says) in [
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            "its precompiled_charsmap is cut off",
        ),
        (
            "normalizer",
            json!({"type": "Sequence", "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": "//////8="}]}),
            "its precompiled_charsmap is cut off",
        ),
    ] {
        let (_, message) = refused(&copy_with(field, &value));
        assert!(message.contains("tokenizer.json"), "{message}");
        assert!(message.contains(says), "{message}");
    }
    let tokenizer = Tokenizer::open(copy_with("decoder", &strip).path()).unwrap();
    // A token that is nothing but what the decoder strips.
    let all = 0..tokenizer.vocab_size() as u32;
    let id = all
        .into_iter()
        .find(|&id| tokenizer.piece(id).as_deref() == Some("a"));
    let message = tokenizer.decode(&[id.unwrap()]).unwrap_err().to_string();
    assert!(message.contains("it contradicts itself: "), "{message}");
}

#[test]
fn broken_configurations_name_the_field() {
    let dir = copy("llama2-mha", |_, _| {});
    for (config, reason) in [
        (
            "{",
            " is not valid JSON: EOF while parsing an object at line 1 column 1",
        ),
        (
            r#"{"tokenizer_class": "BertTokenizer"}"#,
            ": field \"tokenizer_class\" is \"BertTokenizer\"; supported: LlamaTokenizer, CodeLlamaTokenizer, \
             GemmaTokenizer, GPTNeoXTokenizer, GPT2Tokenizer, Qwen2Tokenizer, PreTrainedTokenizer (each also with \
             Fast); if tokenizer.json is complete by itself, write PreTrainedTokenizerFast here",
        ),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "eos_token": 2}"#,
            ": field \"eos_token\" is 2; expected a token's text, or an object with \"__type\": \"AddedToken\"",
        ),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "bos_token": {"lstrip": false}}"#,
            ": field \"bos_token\" is {\"lstrip\":false}; expected a token's text, or an object with \
             \"__type\": \"AddedToken\"",
        ),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "bos_token": null}"#,
            ": field \"bos_token\" is null; expected a token, or add_bos_token to be false",
        ),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "split_special_tokens": "yes"}"#,
            ": field \"split_special_tokens\" is \"yes\"; expected true or false",
        ),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "tokenizer_file": "/home/me/tokenizer.json"}"#,
            ": field \"tokenizer_file\" is \"/home/me/tokenizer.json\"; which is a path of the machine that it was \
             written on: remove the field",
        ),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": ["<x>"]}"#,
            ": field \"extra_special_tokens\" is [\"<x>\"]; expected an object of tokens (a list is of transformers 5: \
             name them as additional_special_tokens instead)",
        ),
        (
            r#"{"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {"x": {"content": "a"}}}"#,
            ": field \"added_tokens_decoder.x\" is {\"content\":\"a\"}; expected an added token",
        ),
    ] {
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let (_, message) = refused(&dir);
        assert_eq!(message, format!("DIR/tokenizer_config.json{reason}"));
    }
}

#[test]
fn ids_of_public_reports() {
    // huggingface/swift-transformers#161: DeepSeek-R1-Distill-Qwen-7B has no template, and its class adds bos.
    let ids = |edit: &dyn Fn(&mut Value, &mut Value), text| {
        let copy = copy("llama2-mha", edit);
        Tokenizer::open(copy.path()).unwrap().encode(text).unwrap()
    };
    let edit = |tokenizer: &mut Value, config: &mut Value| {
        tokenizer["post_processor"] = Value::Null;
        config["tokenizer_class"] = json!("LlamaTokenizerFast");
    };
    assert_eq!(ids(&edit, "Who are you?"), [1, 417, 306, 422, 419, 275]);
    // add_bos_token is false, but the template adds it.
    let edit = |_: &mut Value, config: &mut Value| config["add_bos_token"] = json!(false);
    assert_eq!(ids(&edit, "Hello"), [322, 281, 296, 369, 306]);
    // Added tokens outside tokenizer.json.
    let token = json!({
        "content": "<|im_start|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
        "special": true,
    });
    for (field, value) in [
        ("additional_special_tokens", json!(["<|im_start|>"])),
        ("added_tokens_decoder", json!({"560": token})),
        ("pad_token", json!("<|im_start|>")),
        ("eos_token", json!("<|im_start|>")),
    ] {
        let edit = |_: &mut Value, config: &mut Value| config[field] = value.clone();
        assert_eq!(
            ids(&edit, "a<|im_start|>b"),
            [1, 330, 560, 322, 293],
            "{field}"
        );
    }
    // add_prefix_space of a class that reads it from there.
    let copy = copy("llama3-gqa", |tokenizer, config| {
        config["tokenizer_class"] = json!("GPT2Tokenizer");
        config["add_prefix_space"] = json!(true);
        tokenizer["pre_tokenizer"] = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
        });
    });
    let found = Tokenizer::open(copy.path()).unwrap().encode("Hello");
    assert_eq!(found.unwrap(), [568, 220, 39, 68, 296, 78]);
}

#[test]
fn bos_is_as_the_files_say_or_as_one_asks() {
    let all = |tokenizer: &Tokenizer, text| {
        [Bos::Auto, Bos::Always, Bos::Never].map(|bos| tokenizer.encode_as(text, bos).unwrap())
    };
    let with = |tokenizer: &Tokenizer, text, bos: u32| {
        let plain = tokenizer.encode_plain(text).unwrap();
        [&[bos][..], &plain].concat()
    };
    let (tokenizer, text) = (byte_level(), "The capital");
    let (plain, begun) = (
        tokenizer.encode_plain(text).unwrap(),
        with(&tokenizer, text, 568),
    );
    assert_eq!(all(&tokenizer, text), [begun.clone(), begun, plain]);
    assert_eq!(all(&tokenizer, ""), [vec![568], vec![568], vec![]]);

    let copy_ = copy("llama2-mha", |_, config| {
        config["add_bos_token"] = json!(false);
        config["add_eos_token"] = json!(true);
    });
    let tokenizer = Tokenizer::open(copy_.path()).unwrap();
    let auto = [&tokenizer.encode_plain(text).unwrap()[..], &[2]].concat();
    let always = [&[1], &auto[..]].concat();
    assert_eq!(all(&tokenizer, text), [auto.clone(), always, auto]);
    assert_eq!(all(&tokenizer, ""), [vec![2], vec![1, 2], vec![2]]);

    let copy = copy("llama3-gqa", |_, config| config["bos_token"] = Value::Null);
    let error = Tokenizer::open(copy.path())
        .unwrap()
        .encode_as(text, Bos::Always);
    assert!(matches!(error, Err(LlamaError::NoBos { .. })));
}

#[test]
fn a_second_bos_is_noted() {
    let tokenizer = byte_level();
    let note = |text, bos| tokenizer.bos_note(text, bos).unwrap();
    let doubled = Note::DoubledBos {
        bos: "<|begin_of_text|>".to_owned(),
    };
    for bos in [Bos::Auto, Bos::Always] {
        assert_eq!(note("<|begin_of_text|>Hello", bos), Some(doubled.clone()));
        for text in ["Hello", "", "Hello<|begin_of_text|>", "<|eot_id|>"] {
            assert_eq!(note(text, bos), None, "{text}");
        }
    }
    assert_eq!(note("<|begin_of_text|>Hello", Bos::Never), None);
    let message = doubled.to_string();
    assert!(
        message.contains("<|begin_of_text|>") && message.contains("two"),
        "{message}"
    );
}

#[test]
fn a_chat_without_bos_is_noted() {
    let tokenizer = byte_level();
    let note = |text| tokenizer.missing_bos_note(text).unwrap();
    let missing = Note::MissingBos {
        bos: "<|begin_of_text|>".to_owned(),
    };
    assert_eq!(note("Hello<|begin_of_text|>"), Some(missing));
    assert_eq!(note("<|begin_of_text|>Hello"), None);
    assert_eq!(note(""), None);
}

#[test]
fn tokens_show_what_is_special() {
    let tokenizer = byte_level();
    let ids = tokenizer.encode("a<|eot_id|> 京").unwrap();
    let shown: Vec<_> = tokenizer.tokens(&ids).unwrap();
    let shown: Vec<_> = shown
        .iter()
        .map(|t| (&*t.piece, &*t.text, t.special))
        .collect();
    assert_eq!(shown[0], ("<|begin_of_text|>", "<|begin_of_text|>", true));
    assert_eq!(shown[1], ("a", "a", false));
    assert_eq!(shown[2], ("<|eot_id|>", "<|eot_id|>", true));
    assert!(shown[3..].iter().all(|(_, _, special)| !special));
    let texts: String = shown[3..].iter().map(|(_, text, _)| *text).collect();
    assert_eq!(texts, " 京");
    assert!(!tokenizer.is_special(100_000));
}

#[test]
fn spans_are_the_bytes_of_the_text() {
    for tokenizer in [byte_level(), byte_fallback()] {
        let text = "The  capital, é 京 <s> x";
        let tokens = tokenizer.encode_spans(text).unwrap();
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, tokenizer.encode_plain(text).unwrap());
        let mut end = 0;
        for (id, span) in &tokens {
            // The bytes of one character share it.
            assert!(span.start <= end && span.end >= end, "{tokens:?}");
            end = span.end;
            let piece = tokenizer.piece(*id).unwrap();
            let plain = piece.trim_start_matches(['▁', 'Ġ']);
            if plain.is_ascii() && !plain.starts_with('<') {
                assert!(text[span.clone()].ends_with(plain), "{piece}: {span:?}");
            }
        }
        assert_eq!(end, text.len());
    }
}

#[test]
fn a_continuation_has_no_space_of_its_own() {
    let pieces = |tokenizer: &Tokenizer, text| {
        let tokens = tokenizer.encode_continuation(text).unwrap();
        let mut pieces = Vec::new();
        for (id, span) in &tokens {
            assert!(span.end <= text.len(), "{span:?}");
            pieces.push(tokenizer.piece(*id).unwrap());
        }
        pieces
    };
    let tokenizer = byte_fallback();
    assert_eq!(pieces(&tokenizer, "the").concat(), "the");
    assert_eq!(pieces(&tokenizer, " the"), ["▁the"]);
    assert_eq!(pieces(&tokenizer, ""), [""; 0]);
    let first = tokenizer.encode_plain("the").unwrap();
    let first: Vec<String> = first
        .iter()
        .map(|&id| tokenizer.piece(id).unwrap())
        .collect();
    assert_eq!(first, ["▁the"]);
    let tokenizer = byte_level();
    let plain = |text| tokenizer.encode_plain(text).unwrap();
    for text in ["the", " the", "_ _ ", "[/INST] Sure", "a\nb"] {
        let tokens = tokenizer.encode_continuation(text).unwrap();
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, plain(text), "{text}");
    }
    // The text could merge with the line break that stands for the preceding text, but it is encoded by itself.
    assert_eq!(pieces(&tokenizer, "\n\nthe").concat(), "ĊĊthe");
}

#[test]
fn infilling_is_refused() {
    let copy = copy("llama2-mha", |_, config| {
        config["tokenizer_class"] = json!("CodeLlamaTokenizer")
    });
    let tokenizer = Tokenizer::open(copy.path()).unwrap();
    assert!(tokenizer.encode("def f():").is_ok());
    for result in [
        tokenizer.encode("def <FILL_ME>"),
        tokenizer.encode_plain("<FILL_ME>"),
    ] {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("<FILL_ME>"), "{message}");
    }
}
