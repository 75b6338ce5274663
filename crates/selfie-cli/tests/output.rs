//! Formats, files, vectors, sampling: rows do not depend on how they are asked for.

mod common;

use std::fs::{self, File};

use common::{assert_close, copy, dir, floats, run, selfie, succeed};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};

const PROMPT: [&str; 4] = ["--prompt", "a type of drink", "--max-new-tokens", "6"];
const CELLS: [&str; 4] = ["--layers", "1..=2", "--tokens", "2,3"];

fn rows(jsonl: &str) -> Vec<Value> {
    let lines = jsonl.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn interpret(extra: &[&str]) -> String {
    let args = [&PROMPT[..], &CELLS, extra].concat();
    succeed("interpret", &dir("llama2-mha"), &args)
}

#[test]
fn ranges_select_the_cells_they_name() {
    let by_ranges = interpret(&[]);
    let cells = ["--cells", "1:2,1:3,2:2,2:3"];
    let by_cells = succeed(
        "interpret",
        &dir("llama2-mha"),
        &[&PROMPT[..], &cells].concat(),
    );
    assert_eq!(by_ranges, by_cells);
    let all = ["--layers", "all", "--tokens", "all", "--no-relevancy"];
    let all = rows(&succeed(
        "interpret",
        &dir("llama2-mha"),
        &[&PROMPT[..], &all].concat(),
    ));
    // 4 layers and the final norm, by 6 tokens.
    assert_eq!(all.len(), 5 * 6);
    assert_eq!(all[29]["layer"], 4);
    assert!(
        all.iter()
            .all(|row| row["relevancy_score"] == Value::Array(vec![]))
    );
}

#[test]
fn batch_size_and_threads_change_nothing() {
    let want = interpret(&[]);
    assert_eq!(interpret(&["--batch-size", "1", "--threads", "1"]), want);
    assert_eq!(interpret(&["--batch-size", "3", "--threads", "3"]), want);
}

#[test]
fn files_hold_what_stdout_shows() {
    let folder = tempfile::tempdir().unwrap();
    let jsonl = folder.path().join("rows.jsonl");
    assert_eq!(interpret(&["--out", jsonl.to_str().unwrap()]), "");
    let want = interpret(&[]);
    assert_eq!(std::fs::read_to_string(&jsonl).unwrap(), want);

    let path = folder.path().join("rows.csv");
    interpret(&["--out", path.to_str().unwrap()]);
    let mut reader = csv::Reader::from_path(&path).unwrap();
    let header: Vec<String> = reader
        .headers()
        .unwrap()
        .iter()
        .map(str::to_owned)
        .collect();
    let rows = rows(&want);
    let fields: Vec<String> = rows[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(header, fields);
    for (record, row) in reader.records().zip(&rows) {
        let record = record.unwrap();
        for (field, cell) in fields.iter().zip(record.iter()) {
            match &row[field] {
                Value::String(text) => assert_eq!(cell, text),
                Value::Null => assert_eq!(cell, ""),
                other => assert_eq!(&serde_json::from_str::<Value>(cell).unwrap(), other),
            }
        }
    }
}

#[test]
fn a_table_has_one_line_per_row() {
    let table = interpret(&["--format", "table"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2 + 4, "{table}");
    assert_eq!(lines[0], "a type of drink");
    assert!(lines[2].contains("type"), "{table}");
    assert!(!table.contains('\x1b'), "colours without a terminal");
}

#[test]
fn vectors_of_a_trace_are_the_cells_of_its_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.safetensors");
    let trace = trace.to_str().unwrap();
    let model = dir("llama3-gqa");
    succeed(
        "trace",
        &model,
        &["--prompt", "a type of drink", "--out", trace],
    );
    let cells = rows(&succeed(
        "interpret",
        &model,
        &[&PROMPT[..], &["--layers", "all", "--tokens", "all"]].concat(),
    ));
    let vectors = [
        "--vectors",
        trace,
        "--tensor",
        "hidden_states",
        "--max-new-tokens",
        "6",
    ];
    let vectors = rows(&succeed("interpret-vectors", &model, &vectors));
    assert_eq!(vectors.len(), cells.len());
    for (index, (vector, cell)) in vectors.iter().zip(&cells).enumerate() {
        assert_eq!(vector["new_ids"], cell["new_ids"]);
        assert_eq!(vector["relevancy_score"], cell["relevancy_score"]);
        assert_eq!(vector["prompt"], "hidden_states");
        assert_eq!(vector["token"], index);
        assert_eq!(vector["layer"], Value::Null);
    }
}

#[test]
fn injections_are_all_layers_by_all_strengths() {
    let rows = rows(&interpret(&[
        "--inject-layer",
        "0,2",
        "--strength",
        "0.5,1",
    ]));
    assert_eq!(rows.len(), 4 * 4);
    let of = |row: &Value| {
        (
            row["inject_layer"].as_u64().unwrap(),
            row["strength"].as_f64().unwrap(),
        )
    };
    let first: Vec<_> = rows[..4].iter().map(of).collect();
    assert_eq!(first, [(0, 0.5), (0, 1.0), (2, 0.5), (2, 1.0)]);
}

#[test]
fn sampling_follows_the_seed_and_still_injects() {
    let sample = |seed| rows(&interpret(&["--temperature", "1.5", "--seed", seed]));
    let ids = |rows: &[Value]| {
        rows.iter()
            .map(|r| r["new_ids"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&sample("1")), ids(&sample("1")));
    assert_ne!(ids(&sample("1")), ids(&sample("2")));
    for row in sample("1") {
        // Without an injection, every difference would be exactly 0.
        let relevancy = row["relevancy_score"].as_array().unwrap();
        assert!(relevancy.iter().any(|r| r.as_f64().unwrap() > 1e-3));
    }
}

#[test]
fn generation_config_sets_eos_and_sampling_of_generate() {
    let model = copy("llama2-mha");
    let generate = |args: &[&str]| -> Value {
        let args = [&PROMPT[..], &["--json", "--quiet"], args].concat();
        serde_json::from_str(&succeed("generate", model.path(), &args)).unwrap()
    };
    let greedy = generate(&[]);
    let third = greedy["new_ids"][2].as_u64().unwrap();
    let write =
        |json: String| std::fs::write(model.path().join("generation_config.json"), json).unwrap();
    write(format!(r#"{{"eos_token_id": [{third}]}}"#));
    assert_eq!(generate(&[])["new_ids"].as_array().unwrap().len(), 3);
    write(r#"{"do_sample": true, "temperature": 3.0}"#.to_owned());
    assert_ne!(generate(&[])["new_ids"], greedy["new_ids"]);
    assert_eq!(
        generate(&["--temperature", "0"])["new_ids"],
        greedy["new_ids"]
    );
}

#[test]
fn rounding_weights_is_noted() {
    let args = [&PROMPT[..], &CELLS, &["--dtype", "bf16"]].concat();
    let outcome = selfie("interpret", &dir("llama2-mha"), &args);
    assert_eq!(outcome.code, 0);
    assert_eq!(
        outcome.stderr,
        "note: the f32 weights are rounded to bf16 (--dtype bf16)\n"
    );
}

#[test]
fn info_names_shape_and_device() {
    let info = succeed("info", &dir("llama3-gqa"), &[]);
    for text in [
        "layers       5",
        "8 of 16, 2 kv heads",
        "stored as    bf16",
        "CPU",
    ] {
        assert!(info.contains(text), "{info}");
    }
}

#[test]
fn parquet_holds_what_stdout_shows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.parquet");
    interpret(&["--out", path.to_str().unwrap()]);
    let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
    let got: Vec<Value> = reader
        .get_row_iter(None)
        .unwrap()
        .map(|row| row.unwrap().to_json_value())
        .collect();
    let want = rows(&interpret(&[]));
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        let (got, want) = (got.as_object().unwrap(), want.as_object().unwrap());
        assert!(got.keys().eq(want.keys()));
        for (field, want) in want {
            // JSON prints an f32 with the fewest digits; as f64 it has more.
            let same = match (&got[field], want) {
                (Value::Number(got), Value::Number(want)) => close(got, want),
                (Value::Array(got), Value::Array(want))
                    if field == "relevancy_score" || field == "logprobs" =>
                {
                    let pairs = got.iter().zip(want);
                    got.len() == want.len()
                        && pairs
                            .into_iter()
                            .all(|(a, b)| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-7)
                }
                (got, want) => got == want,
            };
            assert!(same, "{field}: {} and {want}", got[field]);
        }
    }
}

fn close(a: &serde_json::Number, b: &serde_json::Number) -> bool {
    let f32 = |number: &serde_json::Number| number.as_f64().unwrap() as f32;
    f32(a) == f32(b)
}

/// `none` and `random`: in every format, the fields of each control come after the model.
#[test]
fn every_format_shows_controls() {
    let folder = tempfile::tempdir().unwrap();
    let controls = ["--controls", "none, random", "--seed", "3"];
    let want = rows(&interpret(&controls));
    let fields: Vec<&str> = want[0].as_object().unwrap().keys().map(|f| &**f).collect();
    let added = [
        "none_interpretation",
        "none_evidence",
        "random_interpretation",
        "random_evidence",
    ];
    let model = ["model", "prompt_index", "key", "reader", "map", "logprobs"];
    assert_eq!(fields[11..17], model);
    assert_eq!(fields[17..], added);

    let write = |name: &str| {
        let path = folder.path().join(name);
        interpret(&[&controls[..], &["--out", path.to_str().unwrap()]].concat());
        path
    };
    let parquet = SerializedFileReader::new(File::open(write("rows.parquet")).unwrap()).unwrap();
    for (row, want) in parquet.get_row_iter(None).unwrap().zip(&want) {
        let got = row.unwrap().to_json_value();
        assert!(got.as_object().unwrap().keys().eq(fields.iter()));
        assert_eq!(got[added[0]], want[added[0]]);
        let (Value::Number(got), Value::Number(want)) = (&got[added[3]], &want[added[3]]) else {
            panic!("{got} and {want}");
        };
        assert!(close(got, want));
    }
    let csv = std::fs::read_to_string(write("rows.csv")).unwrap();
    assert_eq!(csv.lines().next().unwrap(), fields.join(","));
    let evidence = |row: &Value| row[added[3]].as_f64().unwrap() as f32;
    let page = data(&std::fs::read_to_string(write("rows.html")).unwrap());
    assert_eq!(page["controls"], json!(["none", "random"]));
    let table = std::fs::read_to_string(write("rows.txt")).unwrap();
    for row in &want {
        let cell = cell(&page, row);
        let shown = cell["controls"][1]["evidence"].as_f64().unwrap() as f32;
        assert!((shown - evidence(row)).abs() <= 0.5e-4 + 1e-6);
        assert_eq!(cell["controls"][0]["text"], row[added[0]]);
        assert!(table.contains(&format!("{:+.2} nats random", evidence(row))));
    }
}

/// The data of a page, as a browser sees it: up to the first end of a script element.
fn data(page: &str) -> Value {
    let (_, from) = page
        .split_once("<script type=\"application/json\" id=\"data\">")
        .unwrap();
    serde_json::from_str(from.split_once("</script>").unwrap().0).unwrap()
}

/// The cell of the page's first grid that a row is about.
fn cell<'a>(page: &'a Value, row: &Value) -> &'a Value {
    let grid = &page["grids"][0];
    let place = |of: &Value, found: &dyn Fn(&Value) -> bool| {
        of.as_array().unwrap().iter().position(found).unwrap()
    };
    let layer = place(&grid["layers"], &|layer| *layer == row["layer"]);
    let token = place(&grid["tokens"], &|token| token["index"] == row["token"]);
    &grid["cells"][layer][token][0]
}

#[test]
fn a_page_shades_and_escapes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.html");
    let args = [
        "--prompt",
        "<b> & \"c\"",
        "--cells",
        "1:1,2:1",
        "--max-new-tokens",
        "4",
    ];
    let out = ["--out", path.to_str().unwrap()];
    succeed("interpret", &dir("llama2-mha"), &[&args[..], &out].concat());
    let rows = rows(&succeed("interpret", &dir("llama2-mha"), &args));
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(!page.contains("<b>"), "{page}");
    assert!(page.trim_end().ends_with("</html>"));
    let page = data(&page);
    assert_eq!(page["prompts"][0]["text"], "<b> & \"c\"");
    for row in rows {
        let cell = cell(&page, &row);
        assert_eq!(cell["key"], row["key"]);
        for (shown, exact) in [("relevancy", "relevancy_score"), ("logprobs", "logprobs")] {
            let (shown, exact) = (floats(&cell[shown]), floats(&row[exact]));
            assert_eq!(shown.len(), 4);
            assert_close(&shown, &exact, 0.0);
        }
    }
}

/// With `--threads 3000` a sweep once never ended.
#[test]
fn any_number_of_threads_comes_to_an_end() {
    let args = [
        "interpret",
        "--prompt",
        "a type",
        "--cells",
        "2:1",
        "--device",
        "cpu",
    ];
    let want = run(&args);
    let outcome = run(&[&args[..], &["--threads", "3000"]].concat());
    assert_eq!((outcome.code, &outcome.stdout), (0, &want.stdout));
    let cores = std::thread::available_parallelism().unwrap();
    let said = format!("instead of 3000 (--threads): this process may use {cores} cores");
    assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
    let quiet = run(&[&args[..], &["--threads", "3000", "--quiet"]].concat());
    assert_eq!((quiet.code, &*quiet.stderr), (0, ""));
}

#[test]
fn invisible_characters_show_in_tables_pages_and_tokens() {
    let prompt = "a\u{202e}b\u{200b}c\u{2028}d שלום e\u{301}";
    let escaped = r"a\u{202e}b\u{200b}c\u{2028}d שלום é".replace('é', "e\u{301}");
    let args = ["interpret", "--quiet", "--prompt", prompt, "--cells", "1:1"];
    let table = run(&[&args[..], &["--format", "table"]].concat()).stdout;
    assert_eq!(table.lines().next().unwrap(), escaped);
    let page = run(&[&args[..], &["--format", "html"]].concat()).stdout;
    assert_eq!(data(&page)["prompts"][0]["text"], *escaped);
    let figure = run(&[&args[..], &["--format", "svg"]].concat()).stdout;
    assert!(figure.contains(r"a\u{202e}b\u{200b}c\u{2028}d"), "{figure}");
    // Data is not changed.
    let row: Value = serde_json::from_str(&run(&args).stdout).unwrap();
    assert_eq!(row["prompt"], prompt);

    // A tokenizer with a token for such a character.
    let model = copy("llama2-mha");
    let path = model.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    added.push(
        json!({"id": 9000, "content": "x\u{202e}y\u{301}", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": false}),
    );
    fs::write(&path, tokenizer.to_string()).unwrap();
    let model = model.path().to_str().unwrap();
    let tokens = run(&["tokens", "--model", model, "--prompt", "x\u{202e}y\u{301}"]);
    let last = tokens.stdout.lines().last().unwrap().to_owned();
    let want = "\tx\\u{202e}y\u{301}".to_owned();
    assert!(last.ends_with(&want), "{last}");
}
