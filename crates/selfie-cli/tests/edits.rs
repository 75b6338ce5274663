//! `selfie edit` and `selfie eval` on the golden checkpoints.

mod common;

use std::process::Command;

use common::{
    Folder, GOLDEN, PROMPT, dir, fails, golden, selfie_of as selfie, strs, supervised, works,
};
use serde_json::{Value, json};

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
        &["model.safetensors", "not a Selfie edit"],
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
        // A piece of each expected text; for the first case, a wrong one.
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

        // The same prompts, cut in two and joined by the template.
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
}
