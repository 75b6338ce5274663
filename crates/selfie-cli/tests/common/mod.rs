//! Running the program on the golden checkpoints of selfie-llama; see `golden/README.md` there.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

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
pub fn copy(name: &str) -> tempfile::TempDir {
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

/// Stdout of a run that has to succeed, and to be silent on stderr.
#[track_caller]
pub fn succeed(command: &str, model: &Path, args: &[&str]) -> String {
    let outcome = selfie(command, model, args);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{args:?}");
    outcome.stdout
}

/// The one line on stderr of a run that has to fail with `code`.
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
