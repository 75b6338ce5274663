//! `selfie control`, `edit` and `eval` on the golden checkpoints, and what they say of wrong input.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{GOLDEN, dir, golden, selfie_of as selfie, succeed};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROMPT: &str = "[INST] What's highest mountain in the world? [/INST]";

#[track_caller]
fn works(commands: &[&str], model: &Path, args: &[&str]) -> String {
    let outcome = selfie(commands, model, args);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{args:?}");
    outcome.stdout
}

/// The one line on stderr of a run that fails, which says all of `parts`.
#[track_caller]
fn fails(code: i32, commands: &[&str], model: &Path, args: &[&str], parts: &[&str]) {
    let outcome = selfie(commands, model, args);
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

/// A folder for results, and a path in it as text.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.at(name)
    }

    fn jsonl(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = files
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[track_caller]
fn assert_losses(got: &[Value], field: &str, want: &Value) {
    let want = want.as_array().unwrap();
    assert_eq!(got.len(), want.len());
    for (step, want) in got.iter().zip(want) {
        let (got, want) = (step[field].as_f64().unwrap(), want.as_f64().unwrap());
        assert!(
            (got - want).abs() <= 1e-6 + 1e-4 * want.abs(),
            "{got}, expected {want}"
        );
    }
}

/// The arguments of a supervised case of the golden data.
fn supervised(case: &Value, folder: &Folder) -> Vec<String> {
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

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn supervised_control_agrees_with_pytorch() {
    for name in GOLDEN {
        let model = dir(name);
        for case in golden(name)["supervised"].as_array().unwrap() {
            let folder = Folder::new();
            let stdout = works(
                &["control", "supervised"],
                &model,
                &strs(&supervised(case, &folder)),
            );
            let log = folder.jsonl("log.jsonl");
            let fields: Vec<&String> = log[0].as_object().unwrap().keys().collect();
            let contract = [
                "step",
                "loss",
                "keep_loss",
                "drift",
                "rewards",
                "interpretations",
            ];
            assert_eq!(fields[..6], contract);
            assert_losses(&log, "loss", &case["losses"]);
            match case["reference_prompts"].is_array() {
                true => assert_losses(&log, "keep_loss", &case["keep_losses"]),
                false => assert!(log.iter().all(|step| step["keep_loss"].is_null())),
            }
            assert_eq!(stdout.lines().count(), log.len() + 2, "{stdout}");

            // The edit on another command: the text that PyTorch has after the edit.
            let edit = folder.at("edit.safetensors");
            let count = case["after_new_ids"].as_array().unwrap().len().to_string();
            let generate = |model: &Path, edit: &[&str]| -> Value {
                let args = [
                    "--dtype",
                    "f32",
                    "--prompt",
                    PROMPT,
                    "--max-new-tokens",
                    &count,
                    "--json",
                ];
                let args = [&args[..], edit].concat();
                serde_json::from_str(&succeed("generate", model, &args)).unwrap()
            };
            assert_eq!(
                generate(&model, &["--edit", &edit])["new_ids"],
                case["after_new_ids"]
            );
            let exported = folder.at("exported");
            let args = ["--edit", &edit, "--out", &exported, "--quiet"];
            let said = works(&["edit", "export"], &model, &args);
            assert!(said.starts_with(&exported), "{said}");
            let exported = Path::new(&exported);
            assert_eq!(generate(exported, &[])["new_ids"], case["after_new_ids"]);
        }
    }
}

#[cfg(unix)]
#[test]
fn reinforcement_by_a_program_agrees_with_pytorch() {
    for name in GOLDEN {
        for case in golden(name)["reinforcement"].as_array().unwrap() {
            let folder = Folder::new();
            let steps = case["rewards"].as_array().unwrap();
            let answers: Vec<String> = steps
                .iter()
                .flat_map(|step| step.as_array().unwrap())
                .map(|reward| json!({"reward": reward}).to_string())
                .collect();
            let answers = folder.write("answers", &(answers.join("\n") + "\n"));
            let heard = folder.at("heard");
            let command = format!(
                "while read -r q; do printf '%s\\n' \"$q\" >> '{heard}'; read -r a <&3; echo \"$a\"; done 3< '{answers}'"
            );
            let args = [
                "--dtype",
                "f32",
                "--prompt",
                case["prompt"].as_str().unwrap(),
                "--layer",
                &case["source_layer"].to_string(),
                "--steps",
                &steps.len().to_string(),
                "--lr",
                &case["lr"].to_string(),
                "--max-new-tokens",
                "4",
                "--reward-command",
                &command,
                "--out",
                &folder.at("edit.safetensors"),
                "--log",
                &folder.at("log.jsonl"),
            ];
            works(&["control", "reinforce"], &dir(name), &args);
            let log = folder.jsonl("log.jsonl");
            assert_losses(&log, "loss", &case["losses"]);
            let rewards: Vec<Vec<f64>> = log
                .iter()
                .map(|step| {
                    step["rewards"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|r| r.as_f64().unwrap())
                        .collect()
                })
                .collect();
            let want: Vec<Vec<f64>> = steps
                .iter()
                .map(|step| {
                    step.as_array()
                        .unwrap()
                        .iter()
                        .map(|r| r.as_f64().unwrap())
                        .collect()
                })
                .collect();
            assert_eq!(rewards, want);
            let heard = folder.jsonl("heard");
            let tokens = log[0]["interpretations"].as_array().unwrap().len();
            assert_eq!(heard.len(), steps.len() * tokens);
            for (at, line) in heard.iter().enumerate() {
                let (step, token) = (at / tokens, at % tokens);
                let want = json!({"step": step, "layer": case["source_layer"], "token": token,
                    "interpretation": log[step]["interpretations"][token]});
                assert_eq!(*line, want);
            }
        }
    }
}

const REINFORCE: [&str; 8] = [
    "--prompt",
    "a type of drink",
    "--layer",
    "2",
    "--max-new-tokens",
    "4",
    "--steps",
    "3",
];

#[test]
fn a_run_is_its_seed() {
    let folder = Folder::new();
    let run = |name: &str, seed: &str| {
        let edit = folder.at(name);
        let args = [
            "--reward-words",
            "e,the",
            "--temperature",
            "1",
            "--seed",
            seed,
            "--out",
            &edit,
        ];
        let args = [&REINFORCE[..], &args].concat();
        let stdout = works(&["control", "reinforce"], &dir("llama2-mha"), &args);
        // All but the line that names the file.
        let steps = stdout.trim_end().rsplit_once('\n').unwrap().0.to_owned();
        (steps, fs::read(&edit).unwrap())
    };
    let first = run("a", "1");
    assert!(run("b", "1") == first);
    assert!(run("c", "2").0 != first.0);
}

#[test]
fn edits_are_shown_stacked_and_refused() {
    let folder = Folder::new();
    let model = dir("llama2-mha");
    let case = &golden("llama2-mha")["supervised"][0];
    let mut args = supervised(case, &folder);
    works(&["control", "supervised"], &model, &strs(&args));
    let first = folder.at("edit.safetensors");
    let on_top = folder.at("on_top.safetensors");
    *args.iter_mut().find(|arg| **arg == first).unwrap() = on_top.clone();
    args.extend(["--edit".to_owned(), first.clone()]);
    works(&["control", "supervised"], &model, &strs(&args));

    let shown = Command::new(env!("CARGO_BIN_EXE_selfie"))
        .args(["edit", "show", "--json", &first, &on_top])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let shown: Vec<Value> = shown
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(shown.len(), 2);
    let gate = "model.layers.1.mlp.gate_proj.weight";
    assert_eq!(shown[0]["method"], "supervised");
    assert_eq!(shown[0]["layer"], 2);
    assert_eq!(shown[0]["updates"], 5);
    assert_eq!(
        shown[0]["tensors"][0],
        json!({"name": gate, "dtype": "f32", "shape": [172, 64]})
    );
    assert_eq!(shown[0]["options"]["training"]["lr"], case["lr"]);

    let generate = |edits: &[&str]| {
        let edits = edits.iter().flat_map(|edit| ["--edit", edit]);
        let args: Vec<&str> = ["--prompt", PROMPT, "--dtype", "f32"]
            .into_iter()
            .chain(edits)
            .collect();
        selfie(&["generate"], &model, &args)
    };
    assert_eq!(generate(&[&first, &on_top]).code, 0);
    let refused = generate(&[&on_top]);
    assert_eq!(refused.code, 1);
    for side in [&shown[0], &shown[1]] {
        let hash = side["base_sha256"][gate].as_str().unwrap();
        assert!(
            refused.stderr.contains(hash),
            "{} without {hash}",
            refused.stderr
        );
    }
    let prompt = ["--prompt", "a", "--edit", &first];
    let bf16 = [&prompt[..], &["--dtype", "bf16"]].concat();
    fails(
        2,
        &["generate"],
        &model,
        &bf16,
        &["edit.safetensors", "f32", "bf16"],
    );
    fails(
        2,
        &["generate"],
        &dir("llama3-gqa"),
        &prompt,
        &["n_layers 4", "5"],
    );
    let none = ["--prompt", "a", "--edit", "none.safetensors"];
    fails(1, &["generate"], &model, &none, &["none.safetensors"]);
    let weights = model.join("model.safetensors");
    let weights = ["--prompt", "a", "--edit", weights.to_str().unwrap()];
    fails(
        1,
        &["generate"],
        &model,
        &weights,
        &["model.safetensors", "not an edit"],
    );
    let busy = ["--edit", &first, "--out", folder.0.path().to_str().unwrap()];
    fails(2, &["edit", "export"], &model, &busy, &["exists"]);
    fails(
        2,
        &["edit", "export"],
        &model,
        &["--out", "x"],
        &["at least one edit"],
    );
}

#[test]
fn facts_and_choices_count_what_pytorch_generates() {
    for name in GOLDEN {
        let folder = Folder::new();
        let cases = golden(name)["generate"].clone();
        let cases: Vec<&Value> = cases.as_array().unwrap().iter().collect();
        let new = &cases[0]["max_new_tokens"];
        let cases: Vec<&Value> = cases
            .into_iter()
            .filter(|c| c["max_new_tokens"] == *new)
            .collect();
        let csv = |header: &[&str], rows: &[Vec<&str>]| {
            let mut writer = csv::Writer::from_writer(vec![]);
            writer.write_record(header).unwrap();
            rows.iter()
                .for_each(|row| writer.write_record(row).unwrap());
            String::from_utf8(writer.into_inner().unwrap()).unwrap()
        };
        // A piece of each text, but of the first case's a wrong one.
        let pieces: Vec<String> = cases
            .iter()
            .map(|c| c["text"].as_str().unwrap().trim().chars().take(6).collect())
            .collect();
        let rows: Vec<Vec<&str>> = cases
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let attribute = if i == 0 { "nowhere at all" } else { &pieces[i] };
                vec![c["prompt"].as_str().unwrap(), attribute]
            })
            .collect();
        let facts = folder.write("facts.csv", &csv(&["prompt", "attribute"], &rows));
        let out = folder.at("out.csv");
        let args = [
            "--dtype",
            "f32",
            "--data",
            &facts,
            "--max-new-tokens",
            &new.to_string(),
            "--out",
            &out,
        ];
        let table = works(&["eval", "facts"], &dir(name), &args);
        let share = 100.0 * (cases.len() - 1) as f64 / cases.len() as f64;
        assert!(table.contains(&format!("{share:.1}%")), "{table}");
        let mut reader = csv::Reader::from_path(&out).unwrap();
        assert_eq!(
            reader.headers().unwrap(),
            vec!["prompt", "attribute", "before", "before: attribute"]
        );
        for ((i, record), case) in reader.records().enumerate().zip(&cases) {
            let record = record.unwrap();
            assert_eq!(&record[2], case["text"].as_str().unwrap());
            assert_eq!(&record[3], if i == 0 { "0" } else { "1" });
        }

        // The same prompts, cut in two and put together again by the template.
        let rows: Vec<Vec<&str>> = cases
            .iter()
            .zip(&pieces)
            .map(|(case, piece)| {
                let (prompt, question) = case["prompt"].as_str().unwrap().split_at(1);
                vec![prompt, question, piece]
            })
            .collect();
        let header = ["prompt", "question", "answer"];
        let choices = folder.write("choices.csv", &csv(&header, &rows));
        let args = [
            "--dtype",
            "f32",
            "--data",
            &choices,
            "--max-new-tokens",
            &new.to_string(),
        ];
        let args = [
            &args[..],
            &[
                "--template",
                "{prompt}{question}",
                "--words",
                "nowhere at all",
            ],
        ]
        .concat();
        let table = works(&["eval", "choices"], &dir(name), &args);
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("answer").ends_with(" 100.0%"), "{table}");
        assert!(line("nowhere at all").ends_with(" 0.0%"), "{table}");
    }
}

#[test]
fn behaviours_and_drift_before_and_after() {
    let folder = Folder::new();
    let model = dir("llama2-mha");
    let case = &golden("llama2-mha")["supervised"][1];
    works(
        &["control", "supervised"],
        &model,
        &strs(&supervised(case, &folder)),
    );
    let edit = folder.at("edit.safetensors");

    let data = folder.write("instructions.txt", "make tea\n\nbuild a house\n");
    let args = [
        "--data",
        &data,
        "--template",
        "tell {}",
        "--template",
        "{}!",
        "--words",
        "nowhere,at all",
        "--max-new-tokens",
        "3",
        "--edit",
        &edit,
    ];
    let table = works(&["eval", "behaviours"], &model, &args);
    assert_eq!(table.matches("no match").count(), 2);
    assert_eq!(table.matches("100.0%   100.0%").count(), 2, "{table}");
    assert_eq!(table.matches(" 0.0%     0.0%").count(), 2, "{table}");

    // The drift that the run ended with, on the same prompts.
    let reference = folder.at("reference.txt");
    let out = folder.at("drift.csv");
    let args = ["--data", &reference, "--edit", &edit, "--out", &out];
    let said = works(&["eval", "drift"], &model, &args);
    assert!(
        said.contains("nats") && said.contains("texts           2"),
        "{said}"
    );
    let mut reader = csv::Reader::from_path(&out).unwrap();
    let record = reader.records().next().unwrap().unwrap();
    let shown = Command::new(env!("CARGO_BIN_EXE_selfie"))
        .args(["edit", "show", "--json", &edit])
        .output()
        .unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let (kl, want) = (
        record[2].parse::<f64>().unwrap(),
        shown["final_drift"].as_f64().unwrap(),
    );
    assert!(
        want > 1e-4 && (kl - want).abs() < 1e-9 + 1e-6 * want,
        "{kl}, {want}"
    );
    fails(
        2,
        &["eval", "drift"],
        &model,
        &["--data", &reference],
        &["--edit"],
    );
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = Folder::new();
    let args = [
        "--reward-words",
        "the",
        "--dry-run",
        "--out",
        &folder.at("edit.safetensors"),
        "--log",
        &folder.at("log.jsonl"),
    ];
    let args = [&REINFORCE[..], &args].concat();
    let said = works(&["control", "reinforce"], &dir("llama2-mha"), &args);
    assert!(
        said.contains("step 0") && !said.contains("step 1"),
        "{said}"
    );
    assert!(said.contains("nothing is written"), "{said}");
    assert!(folder.names().is_empty());
    let without = [&REINFORCE[..], &["--reward-words", "the", "--dry-run"]].concat();
    works(&["control", "reinforce"], &dir("llama2-mha"), &without);
}

#[cfg(unix)]
#[test]
fn a_reward_that_fails_leaves_the_edit_so_far() {
    let folder = Folder::new();
    let edit = folder.at("edit.safetensors");
    let log = folder.at("log.jsonl");
    let answer = "read -r q; echo '{\"reward\":-1}'; ".repeat(6);
    let command = format!("{answer} read -r q; exit 5");
    let args = ["--reward-command", &command, "--out", &edit, "--log", &log];
    let args = [&REINFORCE[..], &args].concat();
    let parts = [
        "exit status 5",
        "step 1, after 0 of 6",
        "edit of 1 updates",
        "edit.safetensors",
    ];
    fails(
        1,
        &["control", "reinforce"],
        &dir("llama2-mha"),
        &args,
        &parts,
    );
    assert_eq!(folder.jsonl("log.jsonl").len(), 1);
    works(
        &["generate"],
        &dir("llama2-mha"),
        &["--prompt", "a", "--edit", &edit],
    );

    // At the first step there is no edit yet.
    fs::remove_file(&edit).unwrap();
    let args = ["--reward-command", "read -r q; exit 5", "--out", &edit];
    let args = [&REINFORCE[..], &args].concat();
    fails(
        1,
        &["control", "reinforce"],
        &dir("llama2-mha"),
        &args,
        &["exit status 5"],
    );
    assert!(!Path::new(&edit).exists());
}

#[test]
fn the_drift_gate_says_so() {
    let folder = Folder::new();
    let case = &golden("llama2-mha")["supervised"][1];
    let mut args = supervised(case, &folder);
    args.extend(["--max-drift".to_owned(), "1e-9".to_owned()]);
    let model = dir("llama2-mha");
    fails(
        1,
        &["control", "supervised"],
        &model,
        &strs(&args),
        &["--max-drift", "--lr"],
    );
    assert!(!folder.path("edit.safetensors").exists());
    // A bound in the middle: the run ends well and says why.
    *args.last_mut().unwrap() = "0.01".to_owned();
    let outcome = selfie(&["control", "supervised"], &model, &strs(&args));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stderr.starts_with("note: the drift"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("0.01"), "{}", outcome.stderr);
    assert!(folder.path("edit.safetensors").exists());
}

#[test]
fn wrong_input_is_told_in_a_line() {
    let folder = Folder::new();
    let model = dir("llama2-mha");
    let out = folder.at("edit.safetensors");
    let base = [
        "--prompt",
        PROMPT,
        "--target-prompt",
        "a type of drink",
        "--out",
        &out,
    ];
    let says = |args: &[&str], parts: &[&str]| {
        let args = [&base[..], args].concat();
        fails(2, &["control", "supervised"], &model, &args, parts);
    };
    says(
        &["--source", "0:7", "--target", "3:3"],
        &["layer 0", "1..4"],
    );
    says(
        &["--source", "4:7", "--target", "3:3"],
        &["layer 4", "1..4"],
    );
    says(
        &["--source", "2:99", "--target", "3:3"],
        &["token 99", "0.."],
    );
    says(
        &["--source", "2:7", "--target", "9:3"],
        &["layer 9", "0..=4"],
    );
    says(&["--source", "2:7", "--target", "3:33"], &["token 33"]);
    says(
        &["--source", "2:7,3:7", "--target", "3:3"],
        &["2 and 3", "one layer"],
    );
    says(
        &["--source", "2", "--target", "3:3"],
        &["--source", "LAYER:TOKEN"],
    );
    says(&["--source", "2:7"], &["--target"]);
    let cell = ["--source", "2:7", "--target", "3:3"];
    let with = |args: &[&str], parts: &[&str]| says(&[&cell[..], args].concat(), parts);
    with(&["--lr", "nan"], &["lr", "NaN", "finite"]);
    with(&["--lr", "-1"], &["lr", "-1"]);
    with(&["--lr", "fast"], &["fast"]);
    with(&["--steps", "0"], &["steps", "at least 1"]);
    with(&["--betas", "0.9"], &["betas", "two numbers"]);
    with(&["--betas", "0.9,1"], &["betas", "below 1"]);
    with(&["--beta", "3"], &["--reference"]);
    with(&["--max-drift", "3"], &["--reference"]);
    with(&["--probe", ""], &["probe", "empty"]);
    with(&["--interpret", "--inject-layer", "4"], &["inject layer 4"]);
    let empty = folder.write("empty.txt", "\n\n");
    with(&["--reference", &empty], &["empty.txt", "no line"]);
    let texts = folder.write("texts.txt", "a\n");
    with(&["--reference", &texts, "--beta", "inf"], &["beta", "inf"]);
    with(
        &["--reference", &texts, "--max-drift", "-1"],
        &["max_drift", "-1"],
    );
    let args = [&base[..], &cell, &["--reference", "none.txt"]].concat();
    fails(1, &["control", "supervised"], &model, &args, &["none.txt"]);
    let args = [&base[..4], &cell].concat();
    fails(2, &["control", "supervised"], &model, &args, &["--out"]);
    let args = [&base[..4], &cell, &["--out", "no/such/edit.safetensors"]].concat();
    fails(1, &["control", "supervised"], &model, &args, &["no/such"]);
    // A target of another width.
    let vectors = dir("llama3-gqa").join("golden.safetensors");
    let vectors = vectors.to_str().unwrap();
    let args = [
        "--prompt",
        PROMPT,
        "--source",
        "2:7",
        "--target-vector",
        vectors,
        "--tensor",
        "supervised.0.target",
        "--out",
        &out,
    ];
    fails(2, &["control", "supervised"], &model, &args, &["128", "64"]);

    let says = |code, args: &[&str], parts: &[&str]| {
        let args = [&REINFORCE[..], &["--out", &out], args].concat();
        fails(code, &["control", "reinforce"], &model, &args, parts);
    };
    says(2, &[], &["--reward-words", "--judge", "--reward-command"]);
    says(2, &["--reward-words", "a,,b"], &["reward word"]);
    says(
        2,
        &["--reward-words", "a", "--reward-command", "cat"],
        &["cannot be used with"],
    );
    says(
        2,
        &["--reward-command", "no-such-program -x"],
        &["no-such-program"],
    );
    says(2, &["--reward-command", ""], &["empty"]);
    says(2, &["--judge", "x"], &["--judge-template"]);
    let template = folder.write("template.txt", "is it bad?\n");
    let here = model.to_str().unwrap();
    says(
        2,
        &["--judge", here, "--judge-template", &template],
        &["{interpretation}", "is it bad?"],
    );
    says(
        1,
        &["--judge", "no/folder", "--judge-template", &template],
        &["no/folder"],
    );
    says(
        1,
        &["--judge", here, "--judge-template", "none.txt"],
        &["none.txt"],
    );
    says(2, &["--reward-words", "a", "--tokens", "9"], &["9", "0..6"]);
    says(
        2,
        &["--reward-words", "a", "--inject-layer", "9"],
        &["inject layer 9"],
    );
    for layer in ["0", "4"] {
        let args = [
            "--prompt",
            "a",
            "--layer",
            layer,
            "--reward-words",
            "a",
            "--out",
            &out,
        ];
        fails(
            2,
            &["control", "reinforce"],
            &model,
            &args,
            &["layer", "1..4"],
        );
    }

    let eval = |kind: &str, code, args: &[&str], parts: &[&str]| {
        fails(code, &["eval", kind], &model, args, parts);
    };
    eval("facts", 1, &["--data", "none.csv"], &["none.csv"]);
    let data = folder.write("data.csv", "prompt,answer\na,b\n");
    eval(
        "facts",
        2,
        &["--data", &data],
        &["data.csv", "attribute", "prompt, answer"],
    );
    let data = folder.write("data.csv", "prompt,attribute\n");
    eval("facts", 2, &["--data", &data], &["data.csv", "no rows"]);
    let data = folder.write("data.csv", "prompt,attribute\na,\n");
    eval("facts", 2, &["--data", &data], &["line 2", "attribute"]);
    let data = folder.write("data.csv", "prompt,question,answer\na,b,c\n");
    eval(
        "choices",
        2,
        &["--data", &data, "--template", "{prompt}"],
        &["{question}"],
    );
    eval(
        "behaviours",
        2,
        &["--data", &texts, "--words", "a,", "--template", "{}"],
        &["--words"],
    );
    eval(
        "behaviours",
        2,
        &["--data", &texts, "--words", "a", "--template", "x"],
        &["{}"],
    );
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_judge_is_a_model_and_a_template() {
    let folder = Folder::new();
    let template = folder.write("template.txt", "Is this about a drink? {interpretation}\n");
    for judge in ["llama2-mha", "llama3-gqa"] {
        let judge = dir(judge);
        let args = [
            "--judge",
            judge.to_str().unwrap(),
            "--judge-template",
            &template,
            "--judge-good",
            "unheard",
            "--judge-bad",
            "unsaid",
            "--out",
            &folder.at("edit.safetensors"),
            "--log",
            &folder.at("log.jsonl"),
        ];
        let args = [&REINFORCE[..], &args].concat();
        let said = works(&["control", "reinforce"], &dir("llama2-mha"), &args);
        assert!(said.contains('?'), "{said}");
        let log = folder.jsonl("log.jsonl");
        assert_eq!(log[0]["undecided"], json!([0, 1, 2, 3, 4, 5]));
        assert_eq!(log[0]["rewards"], json!([0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    }
}
