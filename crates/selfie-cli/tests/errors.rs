//! Wrong input gives one line with the numbers, and the exit code.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{copy, dir, fail};
use serde_json::{Value, json};

const INTERPRET: [&str; 4] = ["--prompt", "a type of drink", "--max-new-tokens", "4"];

/// The message of `selfie interpret` with these arguments.
#[track_caller]
fn interpret(code: i32, model: &Path, args: &[&str]) -> String {
    fail(code, "interpret", model, &[&INTERPRET[..], args].concat())
}

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

fn edit_config(model: &Path, field: &str, value: Value) {
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[field] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn folders_and_configurations() {
    let cell = ["--cells", "1:2"];
    let message = interpret(1, Path::new("no/such/folder"), &cell);
    assert_says(&message, &["no/such/folder", "no folder"]);

    let model = copy("llama2-mha");
    let config = model.path().join("config.json");
    edit_config(model.path(), "model_type", json!("gpt2"));
    let message = interpret(1, model.path(), &cell);
    assert_says(
        &message,
        &[
            "model_type",
            "gpt2",
            "llama, mistral, ministral, qwen2, qwen3, gemma2",
        ],
    );
    fs::write(&config, "{ broken").unwrap();
    assert_says(
        &interpret(1, model.path(), &cell),
        &["config.json", "not valid JSON", "line 1"],
    );
    fs::remove_file(&config).unwrap();
    assert_says(
        &interpret(1, model.path(), &cell),
        &["config.json", "No such file"],
    );
}

#[test]
fn weights() {
    let cell = ["--cells", "1:2"];
    let model = copy("llama2-mha");
    edit_config(model.path(), "intermediate_size", json!(180));
    let message = interpret(1, model.path(), &cell);
    assert_says(
        &message,
        &["mlp.gate_proj.weight", "[172, 64]", "[180, 64]"],
    );

    let model = copy("llama2-mha");
    let weights = model.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1000]).unwrap();
    let message = interpret(1, model.path(), &cell);
    assert_says(
        &message,
        &["model.safetensors", "cut off", &bytes.len().to_string()],
    );

    let text = String::from_utf8_lossy(&bytes[8..4000]).into_owned();
    assert!(text.contains("\"F32\""));
    let mut damaged = bytes.clone();
    let at = bytes.windows(5).position(|w| w == b"\"F32\"").unwrap();
    damaged[at..at + 5].copy_from_slice(b"\"I32\"");
    fs::write(&weights, &damaged).unwrap();
    assert_says(
        &interpret(1, model.path(), &cell),
        &["I32", "F32, BF16 and F16"],
    );

    // The last value of the file is in a matrix or in a norm; both are checked.
    let mut damaged = bytes;
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, &damaged).unwrap();
    assert_says(
        &interpret(1, model.path(), &cell),
        &["model.safetensors", "NaN", "finite"],
    );

    fs::rename(&weights, model.path().join("pytorch_model.bin")).unwrap();
    assert_says(
        &interpret(1, model.path(), &cell),
        &["pytorch_model.bin", "save_pretrained"],
    );

    let model = copy("llama3-gqa");
    fs::remove_file(model.path().join("model-00004-of-00011.safetensors")).unwrap();
    let message = interpret(1, model.path(), &cell);
    assert_says(
        &message,
        &["model-00004-of-00011.safetensors", "index.json"],
    );

    let model = copy("llama3-gqa");
    fs::remove_file(model.path().join("tokenizer.json")).unwrap();
    assert_says(&interpret(1, model.path(), &cell), &["tokenizer.json"]);
}

#[test]
fn cells() {
    let model = dir("llama2-mha");
    let says = |args: &[&str], parts: &[&str]| assert_says(&interpret(2, &model, args), parts);
    says(&["--cells", "5:2"], &["layer 5", "0..=4"]);
    says(&["--cells", "1:6"], &["token 6", "0..6"]);
    says(&["--cells", "1-2"], &["1-2", "LAYER:TOKEN"]);
    says(&["--cells", ""], &["LAYER:TOKEN"]);
    says(&["--layers", "0..6", "--tokens", "1"], &["5", "0..5"]);
    says(&["--layers", "1", "--tokens", "2..9"], &["8", "0..6"]);
    says(&["--layers", "1", "--tokens", "x"], &["\"x\""]);
    says(
        &["--controls", "none,nothing"],
        &["nothing", "none, random, shuffled"],
    );
    says(&["--controls", "none,none"], &["none", "twice"]);
    says(
        &["--cells", "1:2", "--layers", "1", "--tokens", "2"],
        &["cannot be used with"],
    );
}

#[test]
fn prompts() {
    let model = dir("llama2-mha");
    let cell = ["--cells", "1:0"];
    let says = |code, prompt: &str, parts: &[&str]| {
        let args = [&["--prompt", prompt][..], &cell].concat();
        assert_says(&fail(code, "interpret", &model, &args), parts);
    };
    says(2, "", &["empty"]);
    says(1, &"drink ".repeat(600), &["max_position_embeddings 512"]);
    assert_says(&fail(2, "generate", &model, &["--prompt", ""]), &["empty"]);
    assert_says(&fail(2, "tokens", &model, &["--prompt", ""]), &["empty"]);
    let args = ["--prompt", "a", "--max-new-tokens", "600"];
    assert_says(&fail(1, "generate", &model, &args), &["512", "602"]);
}

#[test]
fn interpretation_prompts() {
    let model = dir("llama2-mha");
    let says = |args: &[&str], parts: &[&str]| {
        let args = [&["--cells", "1:2"], args].concat();
        assert_says(&interpret(2, &model, &args), parts);
    };
    says(
        &["--interpretation-prompt", r#"["no place"]"#],
        &["no placeholder"],
    );
    says(&["--interpretation-prompt", "[0,"], &["JSON"]);
    says(
        &["--interpretation-prompt", r#"["a", 1]"#],
        &["part 1", "1"],
    );
    says(&["--template", "haiku"], &["haiku", "summarize, materials"]);
    says(&["--inject-layer", "4"], &["inject layer 4", "0..4"]);
    says(&["--inject-layer", "-1"], &["-1"]);
    says(&["--strength", "nan"], &["NaN", "finite"]);
    says(&["--strength", "inf"], &["inf", "finite"]);
    says(&["--strength", "strong"], &["strong"]);
    says(&["--max-new-tokens", "0"], &["max"]);
    says(&["--batch-size", "0"], &["batch size", "1"]);
    says(&["--batch-size", "many"], &["many"]);
    says(&["--temperature", "-1"], &["temperature", "-1"]);
    says(&["--top-p", "2"], &["top_p", "2"]);
}

#[test]
fn options() {
    let model = dir("llama2-mha");
    let says = |args: &[&str], parts: &[&str]| {
        let args = [&["--cells", "1:2"], args].concat();
        assert_says(&interpret(2, &model, &args), parts);
    };
    says(&["--device", "tpu"], &["tpu"]);
    says(&["--device", "cuda:x"], &["cuda:x", "cuda:N"]);
    says(&["--dtype", "int8"], &["int8"]);
    says(&["--threads", "0"], &["--threads 0"]);
    says(&["--out", "rows.xlsx"], &["rows.xlsx", ".jsonl"]);
    says(&["--no-such-option"], &["--no-such-option"]);
}

/// Without a GPU, the message says what is missing; with one, that there are not a hundred.
#[test]
fn devices() {
    let model = dir("llama2-mha");
    for command in ["generate", "trace", "info"] {
        let args: &[&str] = match command {
            "generate" => &["--prompt", "a"],
            "trace" => &["--prompt", "a", "--out", "/dev/null"],
            _ => &[],
        };
        let args = [args, &["--device", "cuda:99"]].concat();
        let message = fail(2, command, &model, &args);
        assert_says(&message, &["CUDA driver"]);
        if message.contains("libcuda.so.1") {
            assert_says(&message, &["no CUDA driver", "install", "use the CPU"]);
        } else {
            assert_says(&message, &["cuda:99", "sees"]);
        }
    }
    let message = interpret(2, &model, &["--cells", "1:2", "--device", "cuda:99"]);
    assert_says(&message, &["CUDA driver"]);
}

#[test]
fn random_checkpoints() {
    let out = tempfile::tempdir().unwrap();
    let random = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_selfie"))
            .arg("random-checkpoint")
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let (tokenizer, out) = (dir("llama2-mha"), out.path().join("model"));
    let (tokenizer, out) = (tokenizer.to_str().unwrap(), out.to_str().unwrap());
    let folders = ["--tokenizer", tokenizer, "--out", out];
    let message = random(&[&["--shape", "gpt-5"][..], &folders].concat());
    assert_says(&message, &["gpt-5", "llama-2-7b"]);
    let family = ["--shape", "smollm2-135m", "--family", "gpt2"];
    let message = random(&[&family[..], &folders].concat());
    assert_says(&message, &["--family", "gpt2", "gemma3_text"]);
    let taken = [
        "--shape",
        "llama-2-7b",
        "--tokenizer",
        tokenizer,
        "--out",
        tokenizer,
    ];
    assert_says(&random(&taken), &["already has a checkpoint"]);
}

#[test]
fn outputs() {
    let model = dir("llama2-mha");
    let args = ["--cells", "1:2", "--out", "no/such/folder/rows.jsonl"];
    assert_says(&interpret(1, &model, &args), &["no/such/folder/rows.jsonl"]);
    let args = ["--prompt", "a", "--out", "no/such/folder/t.safetensors"];
    assert_says(
        &fail(1, "trace", &model, &args),
        &["no/such/folder/t.safetensors"],
    );
}

#[test]
fn vectors() {
    let model = dir("llama2-mha");
    let vectors = |code, path: &Path, extra: &[&str]| {
        let args = [&["--vectors", path.to_str().unwrap()][..], extra].concat();
        fail(code, "interpret-vectors", &model, &args)
    };
    assert_says(
        &vectors(1, Path::new("none.safetensors"), &[]),
        &["none.safetensors"],
    );
    let golden = model.join("golden.safetensors");
    let message = vectors(2, &golden, &["--tensor", "forward.0.logits"]);
    assert_says(&message, &["forward.0.logits", "[11, 560]", "64"]);
    let message = vectors(2, &golden, &["--tensor", "none"]);
    assert_says(&message, &["none", "forward.0.logits"]);
    assert_says(
        &vectors(1, &model.join("config.json"), &[]),
        &["config.json"],
    );
}

#[test]
fn the_environment_is_checked() {
    for (name, value, says) in [
        ("SELFIE_CUDA_GRAPHS", "maybe", "on or off"),
        ("SELFIE_CPU_PATH", "sse9", "there is no such path"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_selfie"))
            .args(["info", "--quiet"])
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(value) && error.contains(says), "{error}");
    }
}
