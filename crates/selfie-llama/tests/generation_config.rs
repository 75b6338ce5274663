//! What generation_config.json means, how it is resolved, what is refused, and with which message.

use std::fs;
use std::path::Path;

use selfie_llama::{
    GenerationConfig, LlamaConfig, LlamaError, Sampling, SamplingOverrides, Tokenizer, eos_ids,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const NOTHING: GenerationConfig = GenerationConfig {
    eos: None,
    do_sample: false,
    temperature: None,
    top_k: None,
    top_p: None,
    min_p: None,
    repetition_penalty: None,
    ignored: Vec::new(),
};

fn parse(json: Value) -> GenerationConfig {
    GenerationConfig::parse(&json.to_string(), Path::new("m/generation_config.json")).unwrap()
}

/// A folder with one file.
fn folder(name: &str, text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(name), text).unwrap();
    dir
}

#[test]
fn fields() {
    assert_eq!(parse(json!({})), NOTHING);
    let nulls = json!({
        "eos_token_id": null, "do_sample": null, "temperature": null, "top_p": null, "min_p": null,
        "repetition_penalty": null,
    });
    assert_eq!(parse(nulls), NOTHING);
    let full = json!({
        "bos_token_id": 128000, "eos_token_id": [128001, 128009], "do_sample": true, "temperature": 0.6,
        "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1, "max_length": 4096,
        "max_new_tokens": 2048, "transformers_version": "4.57.1", "pad_token_id": 0, "unheard_of": {},
    });
    let expected = GenerationConfig {
        eos: Some(vec![128001, 128009]),
        do_sample: true,
        temperature: Some(0.6),
        top_k: Some(40),
        top_p: Some(0.9),
        min_p: Some(0.05),
        repetition_penalty: Some(1.1),
        ignored: Vec::new(),
    };
    assert_eq!(parse(full), expected);
    // null is not the same as missing here: it means all tokens, and a file without the field means 50.
    assert_eq!(parse(json!({"top_k": null})).top_k, Some(0));
    // A token id of -1 means none.
    assert_eq!(parse(json!({"eos_token_id": -1})).eos, Some(vec![]));
    assert_eq!(parse(json!({"eos_token_id": [-1, 2]})).eos, Some(vec![2]));
    let infinite = folder(
        "generation_config.json",
        r#"{"top_p": 1, "length_penalty": -Infinity, "x": NaN}"#,
    );
    assert!(GenerationConfig::open(infinite.path()).unwrap().is_some());
}

#[test]
fn values_that_do_not_do_are_named() {
    for (name, value) in [
        ("eos_token_id", "\"</s>\""),
        ("eos_token_id", "[2.5]"),
        ("eos_token_id", "-2"),
        ("do_sample", "\"yes\""),
        ("temperature", "\"hot\""),
        ("temperature", "-1"),
        ("top_k", "-1"),
        ("top_k", "1.5"),
        ("top_p", "1.5"),
        ("top_p", "[0.9]"),
        ("min_p", "-0.1"),
        ("min_p", "2"),
        ("repetition_penalty", "0"),
        ("repetition_penalty", "-1.1"),
        ("repetition_penalty", "1e300"),
    ] {
        let dir = folder(
            "generation_config.json",
            &format!("{{\"{name}\": {value}}}"),
        );
        let message = GenerationConfig::open(dir.path())
            .expect_err(name)
            .to_string();
        let value = if value == "1e300" { "1e+300" } else { value };
        let expected = format!("generation_config.json: field \"{name}\" is {value}; expected");
        assert!(message.contains(&expected), "{message}");
    }
    for value in ["NaN", "Infinity"] {
        let dir = folder(
            "generation_config.json",
            &format!("{{\"temperature\": {value}}}"),
        );
        let message = GenerationConfig::open(dir.path()).unwrap_err().to_string();
        assert!(
            message.contains(value) && message.contains("temperature"),
            "{message}"
        );
    }
    let dir = folder("generation_config.json", "{");
    assert!(matches!(
        GenerationConfig::open(dir.path()),
        Err(LlamaError::Json { .. })
    ));
}

#[test]
fn old_checkpoints_say_it_in_config_json() {
    let dir = TempDir::new().unwrap();
    assert_eq!(GenerationConfig::open(dir.path()).unwrap(), None);
    let dir = folder(
        "config.json",
        r#"{"model_type": "llama", "eos_token_id": 7, "vocab_size": 9}"#,
    );
    assert_eq!(GenerationConfig::open(dir.path()).unwrap(), None);
    let text = r#"{"model_type": "llama", "eos_token_id": 7, "do_sample": true, "temperature": 0.7, "top_k": null}"#;
    let dir = folder("config.json", text);
    let expected = GenerationConfig {
        do_sample: true,
        temperature: Some(0.7),
        ..NOTHING
    };
    assert_eq!(GenerationConfig::open(dir.path()).unwrap(), Some(expected));
    // If the folder has a generation_config.json, only that file counts.
    fs::write(dir.path().join("generation_config.json"), "{}").unwrap();
    assert_eq!(GenerationConfig::open(dir.path()).unwrap(), Some(NOTHING));
}

#[test]
fn what_is_done_is_what_transformers_does() {
    let draws = Sampling {
        top_k: 50,
        seed: 9,
        ..Sampling::default()
    };
    let greedy = Sampling {
        temperature: 0.0,
        top_k: 0,
        ..draws
    };
    let none = SamplingOverrides {
        seed: 9,
        ..SamplingOverrides::default()
    };
    let asked = |change: fn(&mut SamplingOverrides)| {
        let mut asked = none;
        change(&mut asked);
        asked
    };
    let cases = [
        // What the file says, what the user asks, the result, and which part of it the file decided.
        (json!({}), none, None, None),
        (json!({"temperature": 0.6, "top_p": 0.9}), none, None, None),
        (
            json!({"do_sample": true}),
            none,
            Some(draws),
            Some("tokens are drawn, top_k 50 by default"),
        ),
        (
            json!({"do_sample": true, "temperature": 0.6, "top_p": 0.9}),
            none,
            Some(Sampling {
                temperature: 0.6,
                top_p: 0.9,
                ..draws
            }),
            Some("tokens are drawn, temperature 0.6, top_k 50 by default, top_p 0.9"),
        ),
        (
            json!({"do_sample": true, "top_k": null, "min_p": 0.05, "repetition_penalty": 1.1}),
            none,
            Some(Sampling {
                top_k: 0,
                min_p: 0.05,
                repetition_penalty: 1.1,
                ..draws
            }),
            Some("tokens are drawn, repetition_penalty 1.1, top_k 0, min_p 0.05"),
        ),
        (
            json!({"do_sample": true, "top_p": 0}),
            none,
            Some(Sampling {
                top_p: f32::MIN_POSITIVE,
                ..draws
            }),
            Some("tokens are drawn, top_k 50 by default, top_p 0"),
        ),
        (
            json!({"repetition_penalty": 1.1}),
            none,
            Some(Sampling {
                repetition_penalty: 1.1,
                ..greedy
            }),
            Some("decoding is greedy, repetition_penalty 1.1"),
        ),
        (
            json!({"do_sample": true, "temperature": 0.0, "top_k": 7}),
            none,
            None,
            Some("decoding is greedy, temperature 0"),
        ),
        (
            json!({"do_sample": true, "top_k": 50, "temperature": 1.0}),
            none,
            Some(draws),
            Some("tokens are drawn, top_k 50"),
        ),
        // The user's choice takes precedence.
        (
            json!({"do_sample": true, "temperature": 0.6, "repetition_penalty": 1.2}),
            asked(|asked| asked.temperature = Some(0.0)),
            Some(Sampling {
                repetition_penalty: 1.2,
                ..greedy
            }),
            Some("decoding is greedy, repetition_penalty 1.2"),
        ),
        (
            json!({"do_sample": true, "temperature": 0.6, "repetition_penalty": 1.2}),
            asked(|asked| (asked.temperature, asked.repetition_penalty) = (Some(0.0), Some(1.0))),
            None,
            None,
        ),
        (
            json!({"do_sample": true, "top_k": 7}),
            asked(|asked| (asked.temperature, asked.top_k) = (Some(0.5), Some(0))),
            Some(Sampling {
                temperature: 0.5,
                top_k: 0,
                ..draws
            }),
            None,
        ),
        (
            json!({"top_p": 0.9}),
            asked(|asked| asked.temperature = Some(0.5)),
            Some(Sampling {
                temperature: 0.5,
                top_k: 0,
                top_p: 0.9,
                ..draws
            }),
            Some("tokens are drawn, top_p 0.9"),
        ),
        (
            json!({}),
            asked(|asked| asked.min_p = Some(0.2)),
            Some(Sampling {
                top_k: 0,
                min_p: 0.2,
                ..draws
            }),
            None,
        ),
        (
            json!({}),
            asked(|asked| asked.repetition_penalty = Some(1.3)),
            Some(Sampling {
                repetition_penalty: 1.3,
                ..greedy
            }),
            None,
        ),
    ];
    for (file, asked, sampling, taken) in cases {
        let resolved = GenerationConfig::resolve(Some(&parse(file.clone())), &asked).unwrap();
        assert_eq!(resolved.sampling, sampling, "{file}");
        let expected = taken.map(|taken| format!("as the checkpoint says, {taken}"));
        assert_eq!(resolved.taken, expected, "{file}");
        assert!(resolved.notes.is_empty());
    }
    let resolved = GenerationConfig::resolve(None, &none).unwrap();
    assert_eq!((resolved.sampling, resolved.taken), (None, None));
    let wrong = asked(|asked| asked.top_p = Some(0.0));
    assert!(matches!(
        GenerationConfig::resolve(None, &wrong),
        Err(LlamaError::SamplingValue { field: "top_p", .. })
    ));
}

#[test]
fn what_is_not_done_is_noted() {
    let notes = |file: Value| {
        let resolved = GenerationConfig::resolve(Some(&parse(file)), &SamplingOverrides::default());
        let notes = resolved
            .unwrap()
            .notes
            .into_iter()
            .map(|note| note.to_string());
        notes.collect::<Vec<_>>()
    };
    let asks = json!({
        "no_repeat_ngram_size": 3, "bad_words_ids": [[5], [6, 7]], "num_beams": 4, "suppress_tokens": [1],
        "guidance_scale": 1.5, "min_new_tokens": 2, "stop_strings": "END", "typical_p": 0.9, "eta_cutoff": 0.01,
    });
    let found = notes(asks.clone());
    let begin = "m/generation_config.json asks for ";
    assert_eq!(found.len(), 7, "{found:?}");
    assert!(found.contains(&format!("{begin}no_repeat_ngram_size 3, which is left out")));
    assert!(found.contains(&format!(
        "{begin}bad_words_ids [[5],[6,7]], which is left out"
    )));
    let mut drawn = asks;
    drawn["do_sample"] = json!(true);
    assert_eq!(notes(drawn).len(), 9);
    // The values that have no effect in transformers.
    let nothing = json!({
        "do_sample": true, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0, "no_repeat_ngram_size": 0,
        "encoder_repetition_penalty": 1.0, "bad_words_ids": null, "min_length": 0, "min_new_tokens": null,
        "suppress_tokens": [], "remove_invalid_values": false, "guidance_scale": 1, "num_beams": 1,
        "length_penalty": 2.0, "early_stopping": true, "renormalize_logits": true, "use_cache": false,
    });
    assert_eq!(notes(nothing), [""; 0]);
}

#[test]
fn texts_end_by_the_first_file_that_says_so() {
    let config = |eos: Value| {
        let config = json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 3,
            "num_attention_heads": 4, "vocab_size": 500, "eos_token_id": eos,
        });
        LlamaConfig::parse(&config.to_string(), Path::new("config.json")).unwrap()
    };
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama2-mha");
    let tokenizer = Tokenizer::open(&golden).unwrap();
    let generation = parse(json!({"eos_token_id": [7, 8]}));
    let silent = parse(json!({}));
    assert_eq!(
        eos_ids(Some(&generation), &config(json!(5)), &tokenizer),
        [7, 8]
    );
    assert_eq!(eos_ids(Some(&silent), &config(json!(5)), &tokenizer), [5]);
    assert_eq!(eos_ids(None, &config(json!([5, 6])), &tokenizer), [5, 6]);
    assert_eq!(eos_ids(None, &config(Value::Null), &tokenizer), [2]);
    assert_eq!(eos_ids(None, &config(json!(-1)), &tokenizer), [2]);
}

/// Programs that use the library's `LlamaConfig::eos` end texts where `selfie` does.
#[test]
fn a_folders_config_ends_texts_as_its_generation_config_says() {
    let folder = tempfile::tempdir().unwrap();
    let golden = selfie_testkit::llama::dir("llama2-mha");
    let config = std::fs::read_to_string(golden.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["eos_token_id"] = serde_json::json!(7);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("config.json", &config.to_string());
    let eos = || selfie_llama::LlamaConfig::open(folder.path()).unwrap().eos;
    assert_eq!(eos(), [7]);
    for (says, want) in [
        (r#"{"eos_token_id": [3, 5]}"#, vec![3, 5]),
        (r#"{"do_sample": true}"#, vec![7]),
        (r#"{"eos_token_id": null}"#, vec![7]),
    ] {
        write("generation_config.json", says);
        assert_eq!(eos(), want, "{says}");
    }
}
