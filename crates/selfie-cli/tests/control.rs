//! `selfie control` on the golden checkpoints.

mod common;

use std::fs;
use std::path::Path;

use common::{
    Folder, GOLDEN, PROMPT, REINFORCE, dir, fails, golden, selfie_of as selfie, strs, succeed,
    supervised, works,
};
use serde_json::{Value, json};

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
            if case["reference_prompts"].is_array() {
                assert_losses(&log, "keep_loss", &case["keep_losses"]);
            } else {
                assert!(log.iter().all(|step| step["keep_loss"].is_null()));
            }
            assert_eq!(stdout.lines().count(), log.len() + 2, "{stdout}");

            // With the edit, another command gives the text that PyTorch generates after its own.
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
                "--push",
                "always",
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
                    "interpretation": log[step]["interpretations"][token], "prompt": case["prompt"]});
                assert_eq!(*line, want);
            }
        }
    }
}

#[test]
fn a_run_is_determined_by_its_seed() {
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
    assert!(said.contains("nothing was written"), "{said}");
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
    // With a bound in the middle, the run ends well and says why.
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

/// The model already does what is asked: the run stops after its patience, and there is nothing to write. Two prompts,
/// with their own tokens.
#[test]
fn a_run_stops_when_it_has_its_reward() {
    let folder = Folder::new();
    let edit = folder.at("edit.safetensors");
    let args = [
        "--prompt",
        "a type of drink",
        "--prompt",
        "human and alien are equal",
        "--tokens",
        "1,2",
        "--tokens",
        "3",
        "--layer",
        "2",
        "--max-new-tokens",
        "4",
        "--reward-words",
        "unsaid",
        "--patience",
        "2",
        "--held-out",
        "a drink",
        "--out",
        &edit,
        "--log",
        &folder.at("log.jsonl"),
    ];
    let model = dir("llama2-mha");
    let outcome = selfie(&["control", "reinforce"], &model, &args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("mean reward 1"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome.stdout.contains("no edit was written"),
        "{}",
        outcome.stdout
    );
    assert!(
        outcome.stdout.contains("held out: a drink"),
        "{}",
        outcome.stdout
    );
    assert!(!Path::new(&edit).exists());
    let log = folder.jsonl("log.jsonl");
    assert_eq!(log.len(), 3);
    assert_eq!(log[0]["rewards"], json!([1.0, 1.0, 1.0]));
    assert_eq!(log[2]["norm_change"], json!(1.0));
}

#[test]
fn a_scan_resumes() {
    let folder = Folder::new();
    let table = folder.at("table.jsonl");
    let model = dir("llama2-mha");
    let scan = |lr: &str| {
        let args = ["control", "scan", "--layers", "1..=2", "--lr", lr];
        let rest = ["--table", &table, "supervised", "--model"];
        let cells = [
            "--quiet",
            "--prompt",
            "a type of drink",
            "--source",
            "9:2",
            "--target-prompt",
            "human and alien are equal",
            "--target",
            "9:3",
            "--steps",
            "2",
            "--watch-tokens",
            "0",
        ];
        let args = [&args[..], &rest, &[model.to_str().unwrap()], &cells].concat();
        let outcome = common::run(&args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    };
    scan("1e-3");
    let first = fs::read_to_string(&table).unwrap();
    assert_eq!(first.lines().count(), 2);
    let said = scan("1e-3,1e-2");
    let both = fs::read_to_string(&table).unwrap();
    assert!(both.starts_with(&first), "{both}");
    let rows = folder.jsonl("table.jsonl");
    assert_eq!(rows.len(), 4);
    // The best line has the smallest share of the first loss.
    let least = rows.iter().min_by(|a, b| {
        a["loss"]
            .as_f64()
            .unwrap()
            .total_cmp(&b["loss"].as_f64().unwrap())
    });
    let best = least.unwrap();
    let end = said.lines().last().unwrap();
    assert!(
        end.starts_with("best: selfie control supervised --model"),
        "{end}"
    );
    let layer = &best["layer"];
    assert!(end.contains(&format!("--source {layer}:2")), "{end}");
    assert!(
        end.ends_with(&format!("--lr {:e}", best["lr"].as_f64().unwrap())),
        "{end}"
    );
}

/// Neither the number of jobs nor a table with a truncated last line changes the rows.
#[test]
fn a_scan_has_the_same_rows_with_any_number_of_jobs() {
    let folder = Folder::new();
    let model = dir("llama2-mha");
    let scan = |table: &str, jobs: &str| {
        let table = folder.at(table);
        let args = [
            ["control", "scan", "--layers", "1..=2", "--lr", "1e-3,1e-2"].as_slice(),
            &["--jobs", jobs, "--table", &table, "reinforce", "--model"],
            &[
                model.to_str().unwrap(),
                "--quiet",
                "--prompt",
                "a type of drink",
            ],
            &["--tokens", "2,3", "--reward-words", "e", "--steps", "2"],
            &["--max-new-tokens", "3", "--watch-tokens", "3"],
        ]
        .concat();
        let outcome = common::run(&args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        (outcome.stdout, fs::read_to_string(table).unwrap())
    };
    let (alone, one) = scan("one.jsonl", "1");
    let (together, three) = scan("three.jsonl", "3");
    assert_eq!(alone, together);
    let sorted = |table: &str| {
        let mut lines: Vec<String> = table.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&one).len(), 4);
    assert_eq!(sorted(&one), sorted(&three));

    fs::write(folder.at("cut.jsonl"), &one[..one.len() - 20]).unwrap();
    let (again, mended) = scan("cut.jsonl", "2");
    assert_eq!(again, alone);
    assert_eq!(mended, one);
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
