//! Runs the program on the golden checkpoints of selfie-llama; see `golden/README.md` there.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

pub const GOLDEN: [&str; 2] = ["llama2-mha", "llama3-gqa"];

pub fn dir(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../selfie-llama/tests/golden")
        .join(name)
}

pub fn golden(name: &str) -> Value {
    let json = fs::read(dir(name).join("golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// A copy of a golden checkpoint that a test may damage.
pub fn copy(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(dir(name)).unwrap() {
        let file = file.unwrap();
        if !file.file_name().to_str().unwrap().starts_with("golden") {
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    copy
}

pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// `selfie ARGS`
pub fn run(args: &[&str]) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_selfie"))
        .args(args)
        .env_remove("SELFIE_CPU_PATH")
        .output()
        .unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `selfie COMMAND --model DIR ARGS`
pub fn selfie(command: &str, model: &Path, args: &[&str]) -> Outcome {
    selfie_of(&[command], model, args)
}

/// `selfie COMMANDS --model DIR ARGS`
pub fn selfie_of(commands: &[&str], model: &Path, args: &[&str]) -> Outcome {
    let model = model.to_str().unwrap();
    run(&[commands, &["--model", model], args].concat())
}

/// Stdout of a run that must succeed and print nothing on stderr.
#[track_caller]
pub fn succeed(command: &str, model: &Path, args: &[&str]) -> String {
    let outcome = selfie(command, model, args);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{args:?}");
    outcome.stdout
}

/// The single stderr line of a run that must fail with `code`.
#[track_caller]
pub fn fail(code: i32, command: &str, model: &Path, args: &[&str]) -> String {
    let outcome = selfie(command, model, args);
    assert_eq!(outcome.code, code, "{args:?}: {}", outcome.stderr);
    assert_eq!(outcome.stdout, "", "{args:?}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{args:?}: {}", outcome.stderr);
    let message = lines[0].strip_prefix("error: ");
    message.unwrap_or_else(|| panic!("{}", lines[0])).to_owned()
}

pub fn floats(value: &Value) -> Vec<f32> {
    let floats = value.as_array().unwrap().iter();
    floats.map(|x| x.as_f64().unwrap() as f32).collect()
}

#[track_caller]
pub fn assert_close(got: &[f32], want: &[f32], relative: f32) {
    assert_eq!(got.len(), want.len());
    for (a, b) in got.iter().zip(want) {
        assert!(
            (a - b).abs() <= 1e-4 + relative * b.abs(),
            "{a}, expected {b}"
        );
    }
}

/// A prompt of the golden data.
pub const PROMPT: &str = "[INST] What's highest mountain in the world? [/INST]";

/// A run of the published reinforcement control on llama2-mha, without its reward and its output.
pub const REINFORCE: [&str; 10] = [
    "--prompt",
    "a type of drink",
    "--layer",
    "2",
    "--max-new-tokens",
    "4",
    "--steps",
    "3",
    "--push",
    "always",
];

#[track_caller]
pub fn works(commands: &[&str], model: &Path, args: &[&str]) -> String {
    let outcome = selfie_of(commands, model, args);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{args:?}");
    outcome.stdout
}

/// Checks that a run fails with a single line that contains all of `parts`.
#[track_caller]
pub fn fails(code: i32, commands: &[&str], model: &Path, args: &[&str], parts: &[&str]) {
    let outcome = selfie_of(commands, model, args);
    assert_eq!(outcome.code, code, "{args:?}: {}", outcome.stderr);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{args:?}: {}", outcome.stderr);
    assert!(lines[0].starts_with("error: "), "{}", lines[0]);
    for part in parts {
        assert!(
            lines[0].contains(part),
            "`{}` does not say `{part}`",
            lines[0]
        );
    }
}

/// A folder for results, with its paths as text.
pub struct Folder(pub TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.at(name)
    }

    pub fn jsonl(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    pub fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = files
            .map(|f| f.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// The arguments of a supervised case of the golden data.
pub fn supervised(case: &Value, folder: &Folder) -> Vec<String> {
    let text = |field: &str| case[field].as_str().unwrap().to_owned();
    let cell = |at: &str| {
        format!(
            "{}:{}",
            case[format!("{at}_layer")],
            case[format!("{at}_token")]
        )
    };
    let mut args = vec![
        "--dtype".to_owned(),
        "f32".to_owned(),
        "--prompt".to_owned(),
        text("source_prompt"),
        "--source".to_owned(),
        cell("source"),
        "--target-prompt".to_owned(),
        text("target_prompt"),
        "--target".to_owned(),
        cell("target"),
        "--steps".to_owned(),
        case["steps"].to_string(),
        "--lr".to_owned(),
        case["lr"].to_string(),
        "--out".to_owned(),
        folder.at("edit.safetensors"),
        "--log".to_owned(),
        folder.at("log.jsonl"),
        "--write".to_owned(),
        "last".to_owned(),
        "--watch-tokens".to_owned(),
        "0".to_owned(),
    ];
    if let Some(prompts) = case["reference_prompts"].as_array() {
        let prompts: Vec<&str> = prompts.iter().map(|p| p.as_str().unwrap()).collect();
        let file = folder.write("reference.txt", &prompts.join("\n"));
        args.extend([
            "--reference".to_owned(),
            file,
            "--beta".to_owned(),
            case["beta"].to_string(),
        ]);
    }
    args
}

pub fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}
