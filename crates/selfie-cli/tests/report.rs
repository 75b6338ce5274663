//! `selfie report`: existing rows as pages and figures.

mod common;

use std::fs;

use common::{Folder, copy, dir, run, strs};
use serde_json::Value;

const PROMPT: &str = "[INST] What is the capital of the country of the Colosseum? [/INST]";

/// Runs `selfie interpret` on the demo into a file; returns its path.
fn interpret(folder: &Folder, name: &str, args: &[&str]) -> String {
    let path = folder.at(name);
    let begin = [
        "interpret",
        "--quiet",
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        "12",
    ];
    let outcome = run(&[&begin[..], args, &["--out", &path]].concat());
    assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{args:?}");
    path
}

fn report(args: &[&str]) {
    let outcome = run(&[&["report"], args].concat());
    let said = (outcome.code, &*outcome.stdout, &*outcome.stderr);
    assert_eq!(said, (0, "", ""), "{args:?}");
}

/// The data of a page.
fn data(page: &str) -> Value {
    let page = fs::read_to_string(page).unwrap();
    let (_, from) = page
        .split_once("<script type=\"application/json\" id=\"data\">")
        .unwrap();
    serde_json::from_str(from.split_once("</script>").unwrap().0).unwrap()
}

const GRID: [&str; 4] = ["--layers", "1..4", "--tokens", "11..14"];

#[test]
fn every_file_of_rows_makes_the_same_page() {
    let folder = Folder::new();
    let controls = ["--controls", "none,random"];
    let pages = ["rows.jsonl", "rows.parquet"].map(|name| {
        let rows = interpret(&folder, name, &[&GRID[..], &controls].concat());
        let page = folder.at("page.html");
        report(&[&rows, "--out", &page]);
        let mut data = data(&page);
        assert_eq!(data["runs"], serde_json::json!([name]));
        data["runs"].take();
        data
    });
    assert_eq!(pages[0], pages[1]);
    let page = interpret(&folder, "direct.html", &[&GRID[..], &controls].concat());
    let direct = data(&page);
    for part in ["grids", "pieces", "settings", "controls", "models"] {
        assert_eq!(direct[part], pages[0][part], "{part}");
    }
    // Files that each hold some of the rows make one grid.
    let parts = ["1..3", "3..4"].map(|layers| {
        let grid = ["--layers", layers, "--tokens", "11..14"];
        interpret(
            &folder,
            &format!("{}.jsonl", &layers[..1]),
            &[&grid[..], &controls].concat(),
        )
    });
    report(&[&parts[0], &parts[1], "--out", &page]);
    assert_eq!(data(&page)["grids"], pages[0]["grids"]);
}

/// The words of a command, as a shell splits them.
fn words(command: &str) -> Vec<String> {
    let script = format!("printf '%s\\0' {command}");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// The command of a cell in the first grid, as the page builds it.
fn command(page: &Value, layer: usize, token: usize) -> Vec<String> {
    let (prompt, setting) = (&page["prompts"][0], &page["settings"][0]);
    words(&format!(
        "{} --cells {layer}:{token} {}",
        prompt["command"].as_str().unwrap(),
        setting["options"].as_str().unwrap()
    ))
}

#[test]
fn the_command_of_a_cell_gives_its_row() {
    let folder = Folder::new();
    let settings = ["--inject-layer", "2", "--mode", "add", "--strength", "1.5"];
    let controls = ["--controls", "random"];
    let args = [&GRID[..], &settings, &controls].concat();
    let rows = interpret(&folder, "rows.jsonl", &args);
    let of_rows = folder.at("of-rows.html");
    report(&[&rows, "--out", &of_rows]);
    let rows = fs::read_to_string(rows).unwrap();
    let want = rows.lines().find(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["layer"].as_u64(), row["token"].as_u64()) == (Some(3), Some(12))
    });
    for page in [of_rows, interpret(&folder, "of-run.html", &args)] {
        let command = command(&data(&page), 3, 12);
        assert_eq!(command[0], "selfie");
        let outcome = run(&strs(&command[1..]));
        assert_eq!(outcome.code, 0, "{command:?}: {}", outcome.stderr);
        assert_eq!(Some(outcome.stdout.trim_end()), want, "{command:?}");
    }
}

#[test]
fn the_command_of_a_chat_has_what_the_user_said() {
    let model = copy("llama2-mha");
    let template =
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}";
    fs::write(model.path().join("chat_template.jinja"), template).unwrap();
    let folder = Folder::new();
    let page = folder.at("page.html");
    let chat = [
        "interpret",
        "--quiet",
        "--model",
        model.path().to_str().unwrap(),
        "--chat",
    ];
    // A value that begins with a dash is joined with `=`.
    let chat = [
        &chat[..],
        &[
            "--prompt=- a type",
            "--max-new-tokens",
            "3",
            "--cells",
            "1:2",
        ],
    ]
    .concat();
    let want = run(&chat);
    assert_eq!((want.code, &*want.stderr), (0, ""));
    assert_eq!(run(&[&chat[..], &["--out", &page]].concat()).code, 0);
    let page = data(&page);
    assert!(
        page["prompts"][0]["text"]
            .as_str()
            .unwrap()
            .contains("<user> - a type")
    );
    let command = command(&page, 1, 2);
    assert!(
        command.contains(&"--prompt=- a type".to_owned()),
        "{command:?}"
    );
    assert_eq!(run(&strs(&command[1..])).stdout, want.stdout);
}

#[test]
fn the_command_of_vectors_gives_those_of_their_tensor() {
    let folder = Folder::new();
    let page = folder.at("page.html");
    let model = dir("llama2-mha");
    let vectors = model.join("golden.safetensors");
    let tensor = "forward.0.hidden_states";
    let args = [
        "interpret-vectors",
        "--quiet",
        "--model",
        model.to_str().unwrap(),
        "--vectors",
        vectors.to_str().unwrap(),
        "--tensor",
        tensor,
        "--max-new-tokens",
        "2",
    ];
    let want = run(&args);
    assert_eq!((want.code, &*want.stderr), (0, ""));
    assert_eq!(run(&[&args[..], &["--out", &page]].concat()).code, 0);
    let page = data(&page);
    assert_eq!(page["prompts"][0]["text"], tensor);
    assert_eq!(page["grids"][0]["layers"], serde_json::json!([null]));
    let command = page["prompts"][0]["command"].as_str().unwrap();
    let command = words(&format!(
        "{command} {}",
        page["settings"][0]["options"].as_str().unwrap()
    ));
    assert_eq!(run(&strs(&command[1..])).stdout, want.stdout);
}

#[test]
fn layers_and_tokens_are_chosen() {
    let folder = Folder::new();
    let rows = interpret(&folder, "rows.jsonl", &GRID);
    let page = folder.at("page.html");
    report(&[
        &rows, "--layers", "2..=3", "--tokens", "-2..", "--out", &page,
    ]);
    let grid = data(&page)["grids"][0].clone();
    assert_eq!(grid["layers"], serde_json::json!([2, 3]));
    let tokens = grid["tokens"].as_array().unwrap().iter();
    let tokens: Vec<_> = tokens
        .map(|token| token["index"].as_u64().unwrap())
        .collect();
    assert_eq!(tokens, [12, 13]);
    let figure = folder.at("figure.svg");
    report(&[&rows, "--layers", "2", "--tokens", "12", "--out", &figure]);
    let figure = fs::read_to_string(figure).unwrap();
    let drawn = figure.matches("fill=\"none\" stroke").count();
    assert_eq!(drawn, 1, "{figure}");
    assert!(figure.contains(">Colosseum</text>") && figure.contains("relevancy 0"));
}

#[test]
fn two_runs_are_side_by_side() {
    let folder = Folder::new();
    let before = interpret(&folder, "before.jsonl", &GRID);
    fs::create_dir(folder.at("edited")).unwrap();
    let after = interpret(
        &folder,
        "edited/before.jsonl",
        &[&GRID[..], &["--template", "repeat"]].concat(),
    );
    let page = folder.at("page.html");
    report(&[&before, "--against", &after, "--out", &page]);
    let data = data(&page);
    // Files with the same name are told apart by their paths.
    assert_eq!(data["runs"], serde_json::json!([before, after]));
    let rows = |path: &str| fs::read_to_string(path).unwrap().lines().count();
    let pairs = data["grids"][0]["cells"].as_array().unwrap().iter();
    let pairs = pairs.flat_map(|row| row.as_array().unwrap());
    let both = |pair: &&Value| pair[0].is_object() && pair[1].is_object();
    assert_eq!((pairs.filter(both).count(), rows(&after)), (9, 9));
}

#[test]
fn wrong_input_is_one_line() {
    let folder = Folder::new();
    let rows = interpret(&folder, "rows.jsonl", &["--cells", "1:2"]);
    let text = fs::read_to_string(&rows).unwrap();
    let write = |name: &str, text: &str| {
        fs::write(folder.at(name), text).unwrap();
        folder.at(name)
    };
    let no_rows = write("no-rows.jsonl", "{\"a\": 1}\n");
    let empty = write("empty.jsonl", "");
    let other = write("other.jsonl", &text.replace("\"demo\"", "\"another\""));
    let csv = write("rows.csv", &text);
    let broken = write("broken.parquet", &text);
    let elsewhere = interpret(&folder, "elsewhere.jsonl", &["--cells", "2:3"]);
    let page = folder.at("page.html");
    let refused: [(i32, &[&str], &[&str]); 11] = [
        (
            1,
            &["/no/such.jsonl"],
            &["/no/such.jsonl: No such file", "selfie interpret"],
        ),
        (
            1,
            &[&no_rows],
            &["no-rows.jsonl: line 1 is not a row", "`prompt`"],
        ),
        (1, &[&empty], &["there are no rows"]),
        (1, &[&broken], &["broken.parquet: not a Parquet file"]),
        (
            2,
            &[&csv],
            &["rows.csv: the name must end in .jsonl or .parquet"],
        ),
        (
            2,
            &[&rows, &other],
            &["the rows are of two models, demo and another", "--against"],
        ),
        (2, &[&rows, "--against", &elsewhere], &["no cell in common"]),
        (
            2,
            &[&rows, "--layers", "4"],
            &["--layers 4: 4 is out of range 0..2"],
        ),
        (2, &[&rows, "--tokens", "x"], &["--tokens x"]),
        (
            1,
            &[&rows, "--layers", "0"],
            &["rows.jsonl: there are no rows"],
        ),
        (2, &["--against", &rows], &["<ROWS>"]),
    ];
    for (code, args, parts) in refused {
        fails_as_report(code, &[args, &["--out", &page]].concat(), parts);
        assert!(!fs::exists(&page).unwrap(), "{args:?}");
    }
    let out = folder.at("page.pdf");
    fails_as_report(2, &[&rows, "--out", &out], &["must end in .html", ".svg"]);
    fails_as_report(
        1,
        &[&rows, "--out", "/no/such/page.html"],
        &["/no/such/page.html"],
    );
    // Two models can be compared.
    report(&[&rows, "--against", &other, "--out", &page]);
    // A failed run keeps the older page.
    let before = fs::read(&page).unwrap();
    fails_as_report(1, &[&empty, "--out", &page], &["no row"]);
    assert_eq!(fs::read(&page).unwrap(), before);
}

#[track_caller]
fn fails_as_report(code: i32, args: &[&str], parts: &[&str]) {
    let outcome = run(&[&["report"], args].concat());
    assert_eq!(outcome.code, code, "{args:?}: {}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
    for part in parts {
        assert!(
            outcome.stderr.contains(part),
            "`{}` does not say `{part}`",
            outcome.stderr
        );
    }
}
