//! Sweeps: the rows are those of `interpret`, whatever happens on the way.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Folder, dir, fail, run, succeed};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

const MODEL: &str = "llama2-mha";
const PROMPTS: [&str; 4] = [
    "a type of drink",
    "What's the highest mountain, in \"the world\"?",
    "drinks of the world\nin two lines, with ünïcode: 山",
    "a mountain",
];
const CELLS: [&str; 6] = [
    "--layers",
    "1..=3",
    "--tokens",
    "last,0",
    "--max-new-tokens",
    "6",
];

/// The prompts, one JSON string per line.
fn prompts(folder: &Folder) -> String {
    let lines = PROMPTS.map(|prompt| json!(prompt).to_string());
    folder.write("prompts.txt", &lines.join("\n"))
}

/// The rows in a folder, as JSON lines.
#[track_caller]
fn merged(dirs: &[&str]) -> String {
    let outcome = run(&[&["merge"], dirs].concat());
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    outcome.stdout
}

#[track_caller]
fn merge_fails(code: i32, dirs: &[&str]) -> String {
    let outcome = run(&[&["merge"], dirs].concat());
    assert_eq!(outcome.code, code, "{}", outcome.stderr);
    outcome.stderr
}

/// The command, without `--out`.
fn sweep<'a>(prompts: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--quiet", "--prompts", prompts], &CELLS[..], more].concat()
}

fn names(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}

fn manifest(dir: &str) -> Value {
    let text = fs::read_to_string(Path::new(dir).join("manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// By layer within each prompt, the order of the selector's tokens in a sweep.
fn sorted(jsonl: &str) -> Vec<&str> {
    let place = |line: &&str| {
        let row: Value = serde_json::from_str(line).unwrap();
        let number = |field: &str| row[field].as_u64().unwrap();
        (number("prompt_index"), number("layer"), number("token"))
    };
    let mut lines: Vec<&str> = jsonl.lines().collect();
    lines.sort_by_key(place);
    lines
}

#[test]
fn rows_are_those_of_interpret_in_parts_of_any_size() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    for more in [
        &[][..],
        &["--controls", "none,random,shuffled", "--strength", "0.5,1"],
    ] {
        let interpreted = succeed("interpret", &dir(MODEL), &sweep(&prompts, more));
        let want = sorted(&interpreted);
        for part_rows in ["5", "100"] {
            let out = folder.at(&format!("sweep-{part_rows}-{}", more.len()));
            let args = sweep(
                &prompts,
                &[more, &["--part-rows", part_rows, "--out", &out]].concat(),
            );
            assert_eq!(succeed("sweep", &dir(MODEL), &args), "");
            let rows = merged(&[&out]);
            assert_eq!(rows.lines().collect::<Vec<_>>(), want);
            let manifest = manifest(&out);
            assert_eq!(manifest["complete"], true);
            assert_eq!(manifest["done"], want.len());
            let parts = manifest["parts"].as_array().unwrap().len();
            assert_eq!(parts, want.len().div_ceil(part_rows.parse().unwrap()));
            // The folder holds only the parts and the manifest.
            assert_eq!(names(Path::new(&out)).len(), parts + 1);
            // A second run computes nothing.
            let before = fs::metadata(Path::new(&out).join("part-00000.parquet"))
                .unwrap()
                .modified()
                .unwrap();
            assert_eq!(succeed("sweep", &dir(MODEL), &args), "");
            let after = fs::metadata(Path::new(&out).join("part-00000.parquet"))
                .unwrap()
                .modified()
                .unwrap();
            assert_eq!(before, after);
        }
    }
}

#[test]
fn prompts_come_from_any_file() {
    let folder = Folder::new();
    let want = {
        let prompts = prompts(&folder);
        let out = folder.at("txt");
        succeed("sweep", &dir(MODEL), &sweep(&prompts, &["--out", &out]));
        merged(&[&out])
    };
    let rows = PROMPTS.map(|prompt| json!({"id": 1, "question": prompt}).to_string());
    let jsonl = folder.write("prompts.jsonl", &rows.join("\n"));
    let quoted = PROMPTS.map(|prompt| format!("1,\"{}\"", prompt.replace('"', "\"\"")));
    let csv = folder.write(
        "prompts.csv",
        &format!("id,question\n{}\n", quoted.join("\n")),
    );
    // A file of rows is a file of prompts: each prompt as often as it has rows.
    let cells = ["--layers", "1", "--tokens", "0", "--max-new-tokens", "1"];
    let parquet = folder.at("prompts.parquet");
    let args = [
        &[
            "--prompts",
            &jsonl,
            "--column",
            "question",
            "--out",
            &parquet,
        ],
        &cells[..],
    ]
    .concat();
    succeed("interpret", &dir(MODEL), &args);
    for (file, column) in [
        (&jsonl, "question"),
        (&csv, "question"),
        (&parquet, "prompt"),
    ] {
        let out = folder.at(&format!(
            "{column}-{}",
            Path::new(file).extension().unwrap().display()
        ));
        let args = sweep(file, &["--column", column, "--out", &out]);
        succeed("sweep", &dir(MODEL), &args);
        assert_eq!(merged(&[&out]), want, "{file}");
    }
    let out = folder.at("nothing");
    let message = fail(2, "sweep", &dir(MODEL), &sweep(&csv, &["--out", &out]));
    assert!(
        message.contains("no column \"prompt\"; it has: id, question"),
        "{message}"
    );
    assert!(!Path::new(&out).exists());
}

#[test]
fn missing_tokens_are_counted_and_other_prompts_go_on() {
    let folder = Folder::new();
    let long = "drink ".repeat(600);
    let csv = folder.write(
        "prompts.csv",
        &format!("prompt\na type of drink\n\"\"\na mountain\n{long}\n"),
    );
    let out = folder.at("out");
    let args = [
        "--prompts",
        &csv,
        "--layers",
        "1",
        "--max-new-tokens",
        "2",
        "--out",
        &out,
    ];
    let outcome = common::selfie(
        "sweep",
        &dir(MODEL),
        &[&args[..], &["--tokens", "0,word:drink"]].concat(),
    );
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    for note in [
        "note: \"word:drink\" is missing, in whole or in part, in 1 of 4 prompts: 2\n",
        "note: the prompt is empty, in 1 of 4 prompts: 1\n",
        "note: the prompt is longer than the model's context, in 1 of 4 prompts: 3\n",
        "note: 2 of 4 prompts have no rows: 1, 3\n",
    ] {
        assert!(outcome.stderr.contains(note), "{}", outcome.stderr);
    }
    let manifest = manifest(&out);
    assert_eq!(manifest["without_cells"]["prompts"], json!([1, 3]));
    assert_eq!(manifest["gaps"].as_array().unwrap().len(), 3);
    let rows = merged(&[&out]);
    let indices: Vec<Value> = rows
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["prompt_index"].clone())
        .collect();
    assert_eq!(indices.first().unwrap(), 0);
    assert_eq!(indices.last().unwrap(), 2);

    let none = folder.at("none");
    let args = [
        "--quiet",
        "--prompts",
        &csv,
        "--tokens",
        "word:tea",
        "--out",
        &none,
    ];
    let message = fail(2, "sweep", &dir(MODEL), &args);
    assert!(
        message.starts_with("none of 4 prompts has a selected cell"),
        "{message}"
    );
    assert!(
        message.contains("\"word:tea\" is missing, in whole or in part"),
        "{message}"
    );
}

#[test]
fn interpret_knows_the_same_selectors() {
    let rows = |tokens: &str| -> Vec<u64> {
        let args = [
            "--quiet",
            "--prompt",
            PROMPTS[0],
            "--layers",
            "1",
            "--max-new-tokens",
            "1",
            "--tokens",
            tokens,
        ];
        let jsonl = succeed("interpret", &dir(MODEL), &args);
        let tokens = jsonl
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["token"].clone());
        tokens.map(|token| token.as_u64().unwrap()).collect()
    };
    let (len, all) = (rows("all").len() as u64, rows("all"));
    assert_eq!(rows("-2.."), [len - 2, len - 1]);
    assert_eq!(
        rows("after:type"),
        rows("word:of")
            .into_iter()
            .chain(rows("word:drink"))
            .collect::<Vec<_>>()
    );
    assert_eq!(rows("word:drink").last(), all.last());
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let args = [
        "--prompts",
        &prompts,
        "--layers",
        "1",
        "--max-new-tokens",
        "1",
        "--tokens",
        "word:drink",
    ];
    let outcome = common::selfie("interpret", &dir(MODEL), &args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains(
            "note: --tokens: \"word:drink\" is missing, in whole or in part, from 3 of 4 prompts: 1, 2, 3"
        ),
        "{}",
        outcome.stderr
    );
    let args = ["--prompt", PROMPTS[3], "--tokens", "word:drink"];
    let message = fail(2, "interpret", &dir(MODEL), &args);
    assert_eq!(
        message,
        "--tokens word:drink: \"word:drink\" is not in the prompt"
    );
}

#[test]
fn a_folder_takes_only_its_own_sweep() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let out = folder.at("out");
    succeed("sweep", &dir(MODEL), &sweep(&prompts, &["--out", &out]));
    let before = merged(&[&out]);
    let refused = |model: &str, args: &[&str], difference: &str| {
        let message = fail(2, "sweep", &dir(model), &[args, &["--out", &out]].concat());
        assert!(message.contains("has another sweep: "), "{message}");
        assert!(message.contains(difference), "{message}");
    };
    refused("llama3-gqa", &sweep(&prompts, &[]), "model.weights is \"");
    refused(
        MODEL,
        &sweep(&prompts, &["--strength", "0.5"]),
        "injections is [",
    );
    refused(
        MODEL,
        &sweep(&prompts, &["--seed", "1"]),
        "control_seed is 0 there but 1 here",
    );
    refused(
        MODEL,
        &sweep(&prompts, &["--dtype", "bf16"]),
        "model.dtype is \"f32\" there but \"bf16\" here",
    );
    refused(
        MODEL,
        &sweep(&prompts, &["--kv", "bf16"]),
        "model.kv is \"f32\" there but \"bf16\" here",
    );
    refused(
        MODEL,
        &sweep(&prompts, &["--shard", "1/2"]),
        "the folder has a sweep without shards, but --shard is 1/2",
    );
    let fewer = folder.write("fewer.txt", "a type of drink\na mountain\n");
    refused(
        MODEL,
        &sweep(&fewer, &[]),
        "prompts.count is 4 there but 2 here",
    );
    assert_eq!(merged(&[&out]), before);

    // The same weights in another place are the same model.
    let copy = common::copy(MODEL);
    succeed("sweep", copy.path(), &sweep(&prompts, &["--out", &out]));
    let full = folder.at("full");
    fs::create_dir(&full).unwrap();
    folder.write("full/notes.txt", "mine");
    let message = fail(2, "sweep", &dir(MODEL), &sweep(&prompts, &["--out", &full]));
    assert!(
        message.contains("is not empty, but has no manifest.json"),
        "{message}"
    );
}

#[test]
fn shards_make_the_whole() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let (whole, out) = (folder.at("whole"), folder.at("shards"));
    let controls = ["--controls", "shuffled,random"];
    succeed(
        "sweep",
        &dir(MODEL),
        &sweep(&prompts, &[&controls[..], &["--out", &whole]].concat()),
    );
    let want = merged(&[&whole]);
    for shard in ["3/3", "1/3", "2/3"] {
        let args = sweep(
            &prompts,
            &[
                &controls[..],
                &["--shard", shard, "--part-rows", "3", "--out", &out],
            ]
            .concat(),
        );
        succeed("sweep", &dir(MODEL), &args);
    }
    assert_eq!(merged(&[&out]), want);
    let each = [
        "shard-0001-of-0003",
        "shard-0002-of-0003",
        "shard-0003-of-0003",
    ]
    .map(|name| format!("{out}/{name}"));
    assert_eq!(merged(&[&each[2], &each[0], &each[1]]), want);

    let said = merge_fails(1, &[&each[0], &each[2]]);
    assert!(said.contains("shards are missing: 2/3"), "{said}");
    let said = merge_fails(2, &[&each[0], &each[0]]);
    assert!(said.contains("shard 1/3 is given twice"), "{said}");
    let said = merge_fails(2, &[&each[0], &whole]);
    assert!(said.contains("are not of one sweep"), "{said}");
    let said = merge_fails(2, &[folder.0.path().to_str().unwrap()]);
    assert!(said.contains("has no sweep"), "{said}");
    // A deleted part.
    fs::remove_file(Path::new(&each[1]).join("part-00001.parquet")).unwrap();
    let said = merge_fails(1, &[&out]);
    assert!(said.contains("3 of 8 rows are missing in "), "{said}");
    let args = sweep(
        &prompts,
        &[
            &controls[..],
            &["--shard", "2/3", "--part-rows", "3", "--out", &out],
        ]
        .concat(),
    );
    succeed("sweep", &dir(MODEL), &args);
    assert_eq!(merged(&[&out]), want);
    for shard in ["0/3", "4/3", "1", "a/b", "1/0"] {
        fail(
            2,
            "sweep",
            &dir(MODEL),
            &sweep(&prompts, &["--shard", shard, "--out", &out]),
        );
    }
    let message = fail(
        2,
        "sweep",
        &dir(MODEL),
        &sweep(&prompts, &["--shard", "1/4", "--out", &out]),
    );
    assert!(
        message.contains("the folder has shard 1/3, but --shard is 1/4"),
        "{message}"
    );
}

#[test]
fn a_file_says_what_it_is_made_of() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let (out, file) = (folder.at("out"), folder.at("rows.parquet"));
    succeed("sweep", &dir(MODEL), &sweep(&prompts, &["--out", &out]));
    let outcome = run(&["merge", &out, "--out", &file]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    for file in [
        PathBuf::from(&file),
        Path::new(&out).join("part-00000.parquet"),
    ] {
        let reader = SerializedFileReader::new(fs::File::open(file).unwrap()).unwrap();
        let metadata = reader
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .unwrap();
        let value = |key: &str| {
            metadata
                .iter()
                .find(|entry| entry.key == key)
                .unwrap()
                .value
                .clone()
                .unwrap()
        };
        assert_eq!(value("selfie.version"), env!("CARGO_PKG_VERSION"));
        let settings: Value = serde_json::from_str(&value("selfie.settings")).unwrap();
        assert_eq!(settings["max_new_tokens"], 6);
        // Prompts are dictionary-encoded.
        let prompts = reader.metadata().row_group(0).column(0);
        assert!(prompts.dictionary_page_offset().is_some());
    }
    let page = folder.at("page.html");
    let outcome = run(&["report", &out, "--out", &page]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    let page = fs::read_to_string(&page).unwrap();
    assert!(page.contains("a mountain") && page.trim_end().ends_with("</html>"));
}

#[test]
fn torn_lines_are_computed_again_and_damaged_parts_are_named() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let out = folder.at("out");
    let args = sweep(&prompts, &["--part-rows", "5", "--out", &out]);
    succeed("sweep", &dir(MODEL), &args);
    let want = merged(&[&out]);
    let part = Path::new(&out).join("part-00002.parquet");
    let bytes = fs::read(&part).unwrap();
    fs::write(&part, &bytes[..bytes.len() / 2]).unwrap();
    let message = fail(1, "sweep", &dir(MODEL), &args);
    assert!(
        message.contains("part-00002.parquet is damaged"),
        "{message}"
    );
    fs::remove_file(&part).unwrap();
    // What a power cut may leave: half a line, zeros, and a part under its temporary name.
    for torn in [
        &b"{\"row\":10,\"what\":{\"sa"[..],
        b"\0\0\0\0\0\0\n",
        b"{\"row\":10}\n",
    ] {
        fs::write(Path::new(&out).join("part-00009.open.jsonl"), torn).unwrap();
        fs::write(Path::new(&out).join("part-00009.parquet.partial"), b"PAR1").unwrap();
        succeed("sweep", &dir(MODEL), &args);
        assert_eq!(merged(&[&out]), want);
        let last = names(Path::new(&out)).pop().unwrap();
        fs::remove_file(Path::new(&out).join(last)).unwrap();
    }
}

#[test]
fn rows_that_overflow_are_counted_and_not_tried_again() {
    let folder = Folder::new();
    let prompts = folder.write("prompts.txt", "a type of drink\n");
    let out = folder.at("out");
    let args = [
        "--quiet",
        "--prompts",
        &prompts,
        "--layers",
        "1,2",
        "--mode",
        "add",
        "--strength",
        "1,3e38",
        "--max-new-tokens",
        "2",
        "--out",
        &out,
    ];
    for _ in 0..2 {
        let message = fail(1, "sweep", &dir(MODEL), &args);
        assert!(
            message.starts_with("2 of 4 rows are missing because activations overflowed"),
            "{message}"
        );
    }
    let manifest = manifest(&out);
    assert_eq!(manifest["complete"], true);
    assert_eq!(manifest["failed"].as_array().unwrap().len(), 2);
    let outcome = run(&["merge", &out]);
    assert_eq!(outcome.code, 0);
    assert_eq!(outcome.stdout.lines().count(), 2);
    assert!(
        outcome.stderr.contains("2 of 4 rows are missing"),
        "{}",
        outcome.stderr
    );
}
