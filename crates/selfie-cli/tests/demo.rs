//! The program without `--model`: the demo checkpoint.

mod common;

use common::{Outcome, run, succeed};
use serde_json::Value;

const PROMPT: &str = "[INST] What is the capital of the country of the Colosseum? [/INST]";

fn demo(command: &str, args: &[&str]) -> Outcome {
    run(&[&[command], args].concat())
}

#[test]
fn a_prompt_is_enough() {
    let outcome = demo("interpret", &["--prompt", PROMPT]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{}", outcome.stderr);
    assert!(lines[0].starts_with("note: ") && lines[0].contains("demo checkpoint"));
    let rows: Vec<Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // All layers and the final norm, at the last token: the prompt does not say which country it asks about.
    let layers: Vec<u64> = rows.iter().map(|r| r["layer"].as_u64().unwrap()).collect();
    assert_eq!(layers, [0, 1, 2, 3, 4, 5, 6]);
    assert!(
        rows.iter()
            .all(|row| row["token"] == 15 && row["model"] == "demo")
    );
    let names = |row: &&Value| row["interpretation"].as_str().unwrap().contains("Italy");
    assert!(rows.iter().filter(names).count() >= 3, "{}", outcome.stdout);
}

#[test]
fn every_command_runs_on_it() {
    let quiet = |command: &str, args: &[&str]| {
        let outcome = demo(command, &[args, &["--quiet"]].concat());
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
        outcome.stdout
    };
    assert!(quiet("info", &[]).starts_with("model        demo\n"));
    assert!(quiet("tokens", &["--prompt", PROMPT]).contains("Colosseum"));
    assert_eq!(quiet("generate", &["--prompt", PROMPT]).trim(), "Rome.");
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.safetensors");
    quiet(
        "trace",
        &["--prompt", PROMPT, "--out", trace.to_str().unwrap()],
    );
    assert!(trace.is_file());
}

#[test]
fn it_gives_the_same_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    selfie_demo::write(folder.path()).unwrap();
    let args = ["--prompt", PROMPT, "--json"];
    let from_folder = succeed("generate", folder.path(), &args);
    assert_eq!(demo("generate", &args).stdout, from_folder);
}
