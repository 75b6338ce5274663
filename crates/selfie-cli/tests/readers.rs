//! Released readers, maps and adapters in the program. The test kit has PyTorch's numbers.

mod common;

use std::fs;
use std::path::Path;

use common::{assert_close, floats, run};
use safetensors::SafeTensors;
use selfie_testkit::llama::ids;
use selfie_testkit::readers::{Built, reference};
use serde_json::{Value, json};

/// Rows of `selfie interpret` in f32.
fn interpret(built: &Built, cell: (u64, u64), args: &[&str]) -> Vec<Value> {
    let (layer, token) = (cell.0.to_string(), cell.1.to_string());
    let model = built.model_dir();
    let all = [
        ["interpret", "--model", model.to_str().unwrap()].as_slice(),
        &["--dtype", "f32", "--quiet", "--no-relevancy"],
        &["--prompt", &built.prompt, "--layers", &layer],
        &["--tokens", &token, "--max-new-tokens", "6"],
        args,
    ]
    .concat();
    let outcome = run(&all);
    assert_eq!(outcome.code, 0, "{}: {}", built.name, outcome.stderr);
    let rows = outcome.stdout.lines().map(serde_json::from_str);
    rows.collect::<Result<_, _>>().unwrap()
}

/// Checks a row's ids and log-probabilities against a case, up to the end of the text.
#[track_caller]
fn assert_row(row: &Value, case: &Value) {
    let (found, expected) = (ids(&row["new_ids"]), ids(&case["new_ids"]));
    assert!(
        !found.is_empty() && expected.starts_with(&found),
        "{found:?}, {expected:?}"
    );
    let logprobs = floats(&case["logprobs"]);
    assert_close(&floats(&row["logprobs"]), &logprobs[..found.len()], 1e-4);
}

fn number(case: &Value, field: &str) -> u64 {
    case[field].as_u64().unwrap()
}

#[test]
fn maps_are_read_and_written_at_their_layer() {
    let reference = reference();
    let prompt = json!([reference["meaning"]]).to_string();
    let marker = reference["marker"].as_str().unwrap();
    for built in Built::all(&reference) {
        let maps = &built.case["maps"];
        let cell = (number(maps, "layer"), number(maps, "token"));
        for case in maps["cases"].as_array().unwrap() {
            let map = built.write_map(case["kind"].as_str().unwrap());
            let map = map.to_str().unwrap();
            let args = ["--map", map, "--placeholder", marker];
            let args = [&args[..], &["--interpretation-prompt", &prompt]].concat();
            let rows = interpret(&built, cell, &args);
            assert_row(&rows[0], case);
            assert_eq!(rows[0]["map"], map);
            assert_eq!(rows[0]["inject_layer"], 0);
        }
    }
}

#[test]
fn a_released_folder_configures_the_reader() {
    let reference = reference();
    let question = reference["question"].as_str().unwrap();
    for built in Built::all(&reference) {
        let case = &built.case["oracle"];
        let tokens = ids(&case["tokens"]);
        let cell = (number(case, "layer"), u64::from(tokens[tokens.len() - 1]));
        let dir = built.write_oracle();
        let span = tokens.len().to_string();
        let args = ["--reader", dir.to_str().unwrap(), "--question", question];
        let rows = interpret(&built, cell, &[&args[..], &["--span", &span]].concat());
        assert_row(&rows[0], case);
        let shown = run(&["reader", "show", dir.to_str().unwrap(), "--n-layers", "4"]);
        assert!(
            shown.stdout.contains("Activation Oracle"),
            "{}",
            shown.stdout
        );
        assert!(
            shown.stdout.contains("hidden_states[1, 2, 3]"),
            "{}",
            shown.stdout
        );
        assert!(
            shown.stdout.contains("layer 2, add-matched"),
            "{}",
            shown.stdout
        );

        let case = &built.case["latent"];
        let cell = (number(case, "layer"), number(case, "token"));
        let dir = built.write_lora("latent", true);
        let args = ["--reader", dir.to_str().unwrap(), "--reader-as", "latentqa"];
        let asked = format!("{question}?");
        let rows = interpret(&built, cell, &[&args[..], &["--question", &asked]].concat());
        assert_row(&rows[0], case);

        let case = &built.case["verbalizer"];
        let cell = (number(case, "layer"), number(case, "token"));
        let dir = built.write_sidecar("av", &|meta| meta);
        copy(&built.model_dir(), &dir);
        let rows = interpret(&built, cell, &["--reader", dir.to_str().unwrap()]);
        assert_row(&rows[0], case);
    }
}

#[test]
fn an_oracle_of_several_layers_reads_its_own_or_those_of_the_option() {
    let reference = reference();
    let question = reference["question"].as_str().unwrap();
    for built in Built::all(&reference) {
        let case = &built.case["oracle_of_layers"];
        let (layers, tokens) = (ids(&case["layers"]), ids(&case["tokens"]));
        let (model, span) = (built.model_dir(), tokens.len().to_string());
        let token = tokens[tokens.len() - 1].to_string();
        let own = built.write_oracle_of("own", json!([[0, 2]]));
        let of_two = built.write_oracle_of("of-two", json!([[1, 2]]));
        let listed = format!("{},{}", layers[0], layers[1]);
        let run_with = |dir: &Path, more: &[&str]| {
            let all = [
                ["interpret", "--model", model.to_str().unwrap()].as_slice(),
                &[
                    "--dtype",
                    "f32",
                    "--quiet",
                    "--no-relevancy",
                    "--prompt",
                    &built.prompt,
                ],
                &[
                    "--max-new-tokens",
                    "6",
                    "--reader",
                    dir.to_str().unwrap(),
                    "--span",
                    &span,
                ],
                &["--question", question],
                more,
            ]
            .concat();
            run(&all)
        };
        for (dir, layers) in [(&own, None), (&of_two, Some(&*listed))] {
            let mut more = vec!["--tokens", &*token];
            more.extend(layers.iter().flat_map(|layers| ["--layers", *layers]));
            let outcome = run_with(dir, &more);
            assert_eq!(outcome.code, 0, "{}: {}", built.name, outcome.stderr);
            let row: Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert_row(&row, case);
            assert_eq!(row["layer"], case["layers"][1]);
        }
        let cell = format!("3:{token}");
        for (args, says) in [
            (vec!["--tokens", &*token, "--layers", "1,2,3"], "3 at once"),
            (vec!["--tokens", &*token, "--layers", "3"], "1 at once"),
            (vec!["--cells", &*cell], "1 at once"),
        ] {
            let refused = run_with(&own, &args);
            assert_eq!(
                (refused.code, refused.stderr.lines().count()),
                (2, 1),
                "{}",
                refused.stderr
            );
            assert!(
                refused.stderr.contains(says) && refused.stderr.contains("read 2 at once"),
                "{}",
                refused.stderr
            );
        }
        let shown = run(&["reader", "show", own.to_str().unwrap()]).stdout;
        assert!(shown.contains("hidden_states[1, 3] together"), "{shown}");
    }
}

#[test]
fn a_checkpoint_of_easynla_is_read_when_it_is_named() {
    let reference = reference();
    for built in Built::all(&reference) {
        let case = &built.case["easynla"];
        let cell = (number(case, "layer"), number(case, "token"));
        let adapters = built.write_lora("easynla", false);
        let merged = adapters.with_file_name("easynla-merged");
        built.write_easynla(&adapters, &|meta| meta);
        built.write_easynla(&merged, &|meta| meta);
        copy(&built.model_dir(), &merged);
        for (dir, case) in [(&adapters, case), (&merged, &case["whole"])] {
            let dir = dir.to_str().unwrap();
            let rows = interpret(&built, cell, &["--reader", dir, "--reader-as", "easynla"]);
            assert_row(&rows[0], case);
            let shown = run(&["reader", "show", dir, "--reader-as", "easynla"]).stdout;
            assert!(
                shown.contains("layer 2, add-matched with strength 1"),
                "{shown}"
            );
            let refused = run(&["reader", "show", dir]);
            assert!(
                refused.stderr.contains("--reader-as easynla"),
                "{}",
                refused.stderr
            );
        }
    }
}

#[test]
fn a_reconstructor_scores_rows() {
    let reference = reference();
    for built in Built::all(&reference) {
        let case = &built.case["reconstructor"];
        let layer = number(case, "layer");
        let dir = built.write_reconstructor("ar", layer as usize);
        for entry in fs::read_dir(built.model_dir()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("tokenizer") {
                fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
            }
        }
        let row = json!({
            "prompt": built.prompt, "interpretation": case["text"], "layer": layer, "token": number(case, "token"),
        });
        let rows = dir.join("rows.jsonl");
        fs::write(&rows, format!("{row}\n")).unwrap();
        let model = built.model_dir();
        let args = [
            [
                "score",
                "--model",
                model.to_str().unwrap(),
                "--dtype",
                "f32",
            ]
            .as_slice(),
            &["--quiet", "--reconstructor", dir.to_str().unwrap()],
            &["--rows", rows.to_str().unwrap()],
        ]
        .concat();
        let outcome = run(&args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let scored: Value = serde_json::from_str(outcome.stdout.trim()).unwrap();
        let cosine = case["cosine"].as_f64().unwrap();
        assert!((scored["cosine"].as_f64().unwrap() - cosine).abs() < 1e-4);
        let error = scored["reconstruction_error"].as_f64().unwrap();
        assert!((error - 2.0 * (1.0 - cosine)).abs() < 2e-4);
    }
}

/// A state is an affine function of itself, so the map explains nearly all of the held-out variance.
#[test]
fn a_map_is_fitted_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let countries = [
        "Italy", "Peru", "Japan", "Kenya", "Norway", "Egypt", "Cuba", "Iran",
    ];
    let prompts = countries
        .iter()
        .flat_map(|country| {
            ["capital", "language", "continent", "landmark"]
                .map(|what| format!("[INST] What is the {what} of {country}? [/INST]\n"))
        })
        .collect::<String>();
    fs::write(path("prompts.txt"), prompts).unwrap();
    let fit = |from: &str, to: &str, out: &str| {
        let args = ["map", "fit", "--quiet", "--from", from, "--to", to];
        let rest = [
            "--ridge",
            "1e-6",
            "--prompts",
            &path("prompts.txt"),
            "--out",
            out,
        ];
        let outcome = run(&[&args[..], &rest].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let (_, rest) = outcome.stdout.split_once(" R2 ").unwrap();
        rest.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(fit("1", "1", &path("same.safetensors")) > 0.999);
    let read = |args: &[&str]| {
        let all = [
            ["interpret", "--quiet", "--no-relevancy", "--layers", "1"].as_slice(),
            &[
                "--tokens",
                "last",
                "--prompt",
                "[INST] What is the capital of Italy? [/INST]",
            ],
            args,
        ]
        .concat();
        let outcome = run(&all);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()
    };
    let mapped = read(&["--map", &path("same.safetensors")]);
    assert_eq!(mapped["interpretation"], read(&[])["interpretation"]);
    assert_eq!(mapped["inject_layer"], 1);

    // The map is for states of layer 1.
    let args = ["interpret", "--quiet", "--layers", "2", "--tokens", "last"];
    let rest = [
        "--prompt",
        "[INST] Hello [/INST]",
        "--map",
        &path("same.safetensors"),
    ];
    let refused = run(&[&args[..], &rest].concat());
    assert_eq!(
        (refused.code, refused.stderr.lines().count()),
        (2, 1),
        "{}",
        refused.stderr
    );
}

/// The other model is the demo with the columns of its embedding table in reverse: its `hidden_states[0]` are those of
/// the demo, reversed, whatever its layers make of them. A fitted map has to find that, and what is read through it has
/// to be what the other model says of its own embedding.
#[test]
fn a_map_between_two_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../selfie-demo/checkpoint");
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    copy(&demo, &other);
    let weights = other.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let (header, tensors) = SafeTensors::read_metadata(&bytes).unwrap();
    let table = tensors.info("model.embed_tokens.weight").unwrap();
    let (d_model, value) = (table.shape[1], table.dtype.bitsize() / 8);
    let (first, last) = table.data_offsets;
    let data = 8 + header;
    for row in bytes[data + first..data + last].chunks_exact_mut(d_model * value) {
        let reversed = row
            .rchunks_exact(value)
            .flatten()
            .copied()
            .collect::<Vec<_>>();
        row.copy_from_slice(&reversed);
    }
    fs::write(&weights, bytes).unwrap();

    // Every word of the vocabulary that stands in one of these lines is paired with itself.
    let world = fs::read_to_string(demo.join("../world.json")).unwrap();
    let words = world.split(|c: char| !c.is_alphabetic());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let lines: String = words
        .chunks(20)
        .map(|words| words.join(" ") + "\n")
        .collect();
    fs::write(path("prompts.txt"), lines).unwrap();
    let to = format!("{}:0", other.display());
    let (prompts, map) = (path("prompts.txt"), path("map.safetensors"));
    let args = ["map", "fit", "--quiet", "--from", "0", "--to", &to];
    let rest = ["--ridge", "1e-6", "--prompts", &prompts, "--out", &map];
    let outcome = run(&[&args[..], &rest].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let (_, r2) = outcome.stdout.split_once(" R2 ").unwrap();
    let r2: f64 = r2.split(' ').next().unwrap().parse().unwrap();
    assert!(r2 > 0.99, "{}", outcome.stdout);

    let read = |args: &[&str]| {
        let cell = ["--prompt", "Italy", "--cells", "0:1", "--inject-layer", "0"];
        let all = [&["interpret", "--quiet"][..], &cell, args].concat();
        let outcome = run(&all);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        serde_json::from_str::<Value>(&outcome.stdout).unwrap()
    };
    let other = other.to_str().unwrap();
    let mapped = read(&["--reader", other, "--map", &map]);
    let own = read(&["--model", other]);
    assert_eq!(mapped["new_ids"], own["new_ids"]);
    assert_close(
        &floats(&mapped["logprobs"]),
        &floats(&own["logprobs"]),
        0.02,
    );
    // Without the map, it is another vector.
    let unmapped = read(&["--reader", other]);
    assert_ne!(unmapped["logprobs"], own["logprobs"]);
}

#[test]
fn wrong_pairings_are_one_line_that_names_both_sides() {
    let reference = reference();
    let built = Built::all(&reference).next().unwrap();
    let model = built.model_dir();
    let dir = |path: &Path| path.to_str().unwrap().to_owned();
    // DoRA is not supported.
    let other = built.write_other_lora();
    let config = other.join("adapter_config.json");
    let dora = json!({"peft_type": "LORA", "r": 20, "lora_alpha": 20, "use_dora": true});
    fs::write(config, dora.to_string()).unwrap();
    let other = dir(&other);
    let map = dir(&built.write_map("scalar_affine"));
    let oracle = dir(&built.write_oracle());
    for (args, says) in [
        (vec!["--lora", &other], "use_dora"),
        (vec!["--map", &other], "map"),
        (vec!["--reader-as", "oracle"], "--reader"),
        (vec!["--map", &map, "--placeholder", "nowhere"], "nowhere"),
        (vec!["--reader", &oracle], "--question"),
        (vec!["--question", "Why?"], "--question"),
        (vec!["--samples", "3"], "samples"),
    ] {
        let base = ["interpret", "--model", model.to_str().unwrap(), "--quiet"];
        let cell = ["--prompt", &built.prompt, "--layers", "1", "--tokens", "2"];
        let outcome = run(&[&base[..], &cell, &args].concat());
        assert_ne!(outcome.code, 0, "{args:?}");
        assert_eq!(
            outcome.stderr.lines().count(),
            1,
            "{args:?}: {}",
            outcome.stderr
        );
        assert!(
            outcome.stderr.contains(says),
            "{args:?}: {}",
            outcome.stderr
        );
    }
    // The demo checkpoint has another width.
    let outcome = run(&[
        "interpret",
        "--quiet",
        "--prompt",
        "x",
        "--layers",
        "1",
        "--map",
        &map,
    ]);
    let width = built.model.config().d_model.to_string();
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains(&width), "{}", outcome.stderr);
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
