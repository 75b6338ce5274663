//! From rows to grids, pages and figures.

use std::fs;
use std::path::{Path, PathBuf};

use selfie_explorer::{Commands, Explorer, ExplorerError, Row, Run, read_rows};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A row at a layer and token of a prompt. `pieces` is its text; the last piece ended it.
fn row(prompt: &str, layer: usize, token: usize, pieces: &[&str]) -> Value {
    json!({
        "prompt": prompt, "interpretation": pieces[..pieces.len() - 1].concat().trim(), "layer": layer, "token": token,
        "token_decoded": format!(" t{token}"), "relevancy_score": vec![0.25; pieces.len()],
        "new_ids": vec![7; pieces.len()], "pieces": pieces, "inject_layer": 1, "mode": "replace", "strength": 1.0,
        "model": "demo", "prompt_index": 0, "key": "00000000000000ab", "reader": null, "map": null,
        "logprobs": vec![-0.5; pieces.len()],
    })
}

fn with(mut row: Value, field: &str, value: impl Into<Value>) -> Value {
    row[field] = value.into();
    row
}

fn run(rows: impl IntoIterator<Item = Value>) -> Run {
    let row = |row| serde_json::from_value::<Row>(row).unwrap();
    Run {
        name: "rows.jsonl".to_owned(),
        rows: rows.into_iter().map(row).collect(),
    }
}

fn explorer(rows: impl IntoIterator<Item = Value>) -> Explorer {
    Explorer::new(run(rows), None, &Commands::FromRows).unwrap()
}

const SAYS: [&str; 3] = ["a", " city", "</s>"];

#[test]
fn layers_and_tokens_are_sorted_and_gaps_stay_empty() {
    // Unordered, and without layer 2 of token 7.
    let rows = [(2, 4), (0, 7), (0, 4)].map(|(layer, token)| row("p", layer, token, &SAYS));
    let explorer = explorer(rows);
    let [grid] = &explorer.grids[..] else {
        panic!("{} grids", explorer.grids.len());
    };
    assert_eq!(grid.layers, [Some(0), Some(2)]);
    let tokens: Vec<(usize, &str)> = grid.tokens.iter().map(|t| (t.index, &*t.text)).collect();
    assert_eq!(tokens, [(4, " t4"), (7, " t7")]);
    let there = |layer: usize| {
        grid.cells[layer]
            .iter()
            .map(|pair| pair.len())
            .collect::<Vec<_>>()
    };
    assert_eq!((there(0), there(1)), (vec![1, 1], vec![1, 0]));
}

#[test]
fn prompts_injections_and_samples_have_their_own_grids() {
    let one = row("p", 1, 0, &SAYS);
    let rows = [
        one.clone(),
        with(one.clone(), "strength", 0.5),
        row("q", 1, 0, &SAYS),
        // Another sample of the first cell.
        with(one, "key", "00000000000000cd"),
    ];
    let explorer = explorer(rows);
    let grids: Vec<[usize; 3]> = explorer
        .grids
        .iter()
        .map(|g| [g.prompt, g.setting, g.sample])
        .collect();
    assert_eq!(grids, [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]);
    let key = |grid: usize| {
        explorer.grids[grid].cells[0][0][0]
            .as_ref()
            .unwrap()
            .key
            .clone()
    };
    assert_eq!(
        (key(0).as_deref(), key(1).as_deref()),
        (Some("00000000000000ab"), Some("00000000000000cd"))
    );
}

#[test]
fn a_cell_has_its_text_once() {
    let explorer = explorer([
        row("p", 0, 0, &SAYS),
        // Without an end: as many tokens as requested.
        with(row("p", 0, 1, &SAYS), "interpretation", "a city</s>"),
        // A character split over two tokens.
        with(
            row("p", 0, 2, &["\u{fffd}", "\u{fffd}", "</s>"]),
            "interpretation",
            "é",
        ),
    ]);
    let cell = |token: usize| explorer.grids[0].cells[0][token][0].as_ref().unwrap();
    assert_eq!((cell(0).ended, &cell(0).text), (true, &None));
    assert_eq!((cell(1).ended, &cell(1).text), (false, &None));
    assert_eq!(cell(2).text.as_deref(), Some("é"));
    assert_eq!(explorer.pieces, ["a", " city", "</s>", "\u{fffd}"]);
    assert_eq!(cell(0).pieces, [0, 1, 2]);
}

#[test]
fn controls_are_found_by_their_fields() {
    let controlled = with(row("p", 0, 0, &SAYS), "none_interpretation", "nothing");
    let controlled = with(controlled, "none_evidence", 1.5);
    // Evidence that is not finite is null in JSON.
    let controlled = with(controlled, "random_interpretation", "noise");
    let controlled = with(controlled, "random_evidence", Value::Null);
    let explorer = explorer([controlled, row("p", 0, 1, &SAYS)]);
    assert_eq!(explorer.controls, ["none", "random"]);
    let cell = |token: usize| explorer.grids[0].cells[0][token][0].as_ref().unwrap();
    let none = cell(0).controls[0].as_ref().unwrap();
    assert_eq!((&*none.text, none.evidence), ("nothing", Some(1.5)));
    assert_eq!(cell(0).controls[1].as_ref().unwrap().evidence, None);
    assert_eq!(cell(1).controls, [None, None]);
}

#[test]
fn vectors_from_elsewhere_have_no_layer() {
    let vector = with(row("tensor", 0, 3, &SAYS), "layer", Value::Null);
    let explorer = explorer([with(vector, "token_decoded", Value::Null)]);
    assert_eq!(explorer.grids[0].layers, [None]);
    assert!(explorer.to_svg().contains(">–</text>"));
}

#[test]
fn two_runs_share_their_cells() {
    let before = run([row("p", 0, 0, &SAYS), row("p", 0, 1, &SAYS)]);
    let after = run([
        row("p", 0, 1, &["a", " river", "</s>"]),
        row("p", 0, 2, &SAYS),
    ]);
    let explorer = Explorer::new(before, Some(after), &Commands::FromRows).unwrap();
    let there: Vec<Vec<bool>> = explorer.grids[0].cells[0]
        .iter()
        .map(|pair| pair.iter().map(Option::is_some).collect())
        .collect();
    assert_eq!(there, [[true, false], [true, true], [false, true]]);
    // The differing cell, and cells that one run lacks.
    assert_eq!(
        explorer
            .to_svg()
            .matches("width=\"2.50\" height=\"39.00\" fill=\"#c2570c\"")
            .count(),
        3
    );
}

#[test]
fn impossible_pictures_are_refused() {
    let new = |run, against| Explorer::new(run, against, &Commands::FromRows).unwrap_err();
    let error = new(run([]), None);
    assert!(matches!(error, ExplorerError::NoRows { .. }));
    assert_eq!(
        error.to_string(),
        "rows.jsonl: there are no rows; interpret at least one cell"
    );
    let other = with(row("p", 0, 1, &SAYS), "model", "other");
    let error = new(run([row("p", 0, 0, &SAYS), other]), None);
    assert_eq!(
        error.to_string(),
        "rows.jsonl: the rows are of two models, demo and other; give the rows of one, or compare them with --against"
    );
    let error = new(
        run([row("p", 0, 0, &SAYS)]),
        Some(run([row("p", 1, 0, &SAYS)])),
    );
    assert!(matches!(error, ExplorerError::NothingInCommon { .. }));
}

/// A file in its own folder.
fn file(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn files_without_rows_are_refused_with_the_place() {
    let good = row("p", 0, 0, &SAYS).to_string();
    let cases = [
        (
            format!("{good}\n{{\"prompt\": \"p\"}}\n"),
            "line 2 is not a row: missing field `interpretation`",
        ),
        (
            format!("{good}\n\n{}", &good[..35]),
            "line 3 is not a row: EOF while parsing a string",
        ),
        (
            "a,b\n1,2\n".to_owned(),
            "line 1 is not a row: expected value",
        ),
        (
            good.replace("\"token\":0", "\"token\":-1"),
            "line 1 is not a row: invalid value: integer `-1`, expected usize",
        ),
    ];
    for (text, said) in cases {
        let (_folder, path) = file("rows.jsonl", &text);
        let error = read_rows(&path).unwrap_err().to_string();
        let want = format!(
            "{}: {said}; give a file of rows from selfie interpret",
            path.display()
        );
        assert_eq!(error, want);
    }
    let (_folder, path) = file("rows.parquet", &good);
    assert!(matches!(
        read_rows(&path).unwrap_err(),
        ExplorerError::NotParquet { .. }
    ));
    let (_folder, path) = file("rows.csv", &good);
    assert!(matches!(
        read_rows(&path).unwrap_err(),
        ExplorerError::Extension { .. }
    ));
    let error = read_rows(Path::new("no/such.jsonl")).unwrap_err();
    assert!(matches!(error, ExplorerError::Read { .. }));
    assert_eq!(error.to_string().lines().count(), 1);
}

/// The JSON in a page, as a browser sees it: up to the first end of a script element.
fn data(page: &str) -> Value {
    let (_, from) = page
        .split_once("<script type=\"application/json\" id=\"data\">")
        .unwrap();
    let (json, _) = from.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

#[test]
fn text_stays_text_in_pages_and_figures() {
    let hostile = "</script><b onload='x'>&amp; \"q\" <!-- \u{202e}\n";
    let shown = "</script><b onload='x'>&amp; \"q\" <!-- \\u{202e}⏎";
    let model = "m</title><i>";
    let explorer = explorer([with(row(hostile, 0, 0, &[hostile, "</s>"]), "model", model)]);
    let page = explorer.to_html().unwrap();
    let data = data(&page);
    assert_eq!(data["prompts"][0]["text"], shown);
    assert_eq!(data["pieces"][0], shown);
    assert_eq!(data, serde_json::to_value(&explorer).unwrap());
    assert!(page.contains("<title>Selfie: m&lt;&#x2f;title&gt;&lt;i&gt;</title>"));
    assert!(page.ends_with("</html>"));
    let figure = explorer.to_svg();
    assert!(!figure.contains("<b") && !figure.contains("</script") && !figure.contains("<i>"));
    assert!(figure.contains("&lt;/script&gt;&lt;b"));
}

#[test]
fn numbers_have_four_decimals() {
    let explorer = explorer([with(
        row("p", 0, 0, &SAYS),
        "relevancy_score",
        vec![0.123456, 1e-9, 0.99996],
    )]);
    let json = serde_json::to_value(&explorer).unwrap();
    assert_eq!(
        json["grids"][0]["cells"][0][0][0]["relevancy"],
        json!([0.1235, 0.0, 1.0])
    );
}

#[test]
fn commands_include_what_rows_record() {
    let one = with(row("it's p", 3, 0, &SAYS), "model", "org/model");
    let one = with(one, "reader", "other reader");
    let one = with(one, "none_interpretation", "nothing");
    let one = with(with(one, "none_evidence", 1.0), "strength", 0.5);
    let explorer = explorer([one]);
    let want = r"selfie interpret --model org/model --reader 'other reader' --prompt 'it'\''s p' --max-new-tokens 3 --controls none";
    assert_eq!(explorer.prompts[0].command, want);
    assert_eq!(
        explorer.settings[0].options,
        "--inject-layer 1 --mode replace --strength 0.5"
    );
    assert!(explorer.note.is_some());
}
