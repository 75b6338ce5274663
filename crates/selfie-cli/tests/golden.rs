//! The program's output against Python's on the golden checkpoints.

mod common;

use common::{GOLDEN, assert_close, dir, floats, golden, succeed};
use safetensors::SafeTensors;
use serde_json::{Value, json};

#[test]
fn generate_agrees_with_pytorch() {
    for name in GOLDEN {
        for case in golden(name)["generate"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            let new = case["max_new_tokens"].to_string();
            let args = [
                "--prompt",
                prompt,
                "--max-new-tokens",
                &new,
                "--dtype",
                "f32",
            ];
            let json = succeed("generate", &dir(name), &[&args[..], &["--json"]].concat());
            let got: Value = serde_json::from_str(&json).unwrap();
            let fields: Vec<_> = got.as_object().unwrap().keys().collect();
            assert_eq!(fields, ["prompt", "text", "new_ids", "logprobs"]);
            assert_eq!(got["prompt"], case["prompt"]);
            assert_eq!(got["text"], case["text"]);
            assert_eq!(got["new_ids"], case["new_ids"]);
            assert_close(&floats(&got["logprobs"]), &floats(&case["logprobs"]), 1e-4);

            let text = succeed("generate", &dir(name), &args);
            assert_eq!(text, format!("{}\n", case["text"].as_str().unwrap()));
        }
    }
}

#[test]
fn trace_agrees_with_pytorch() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("trace.safetensors");
    for name in GOLDEN {
        let golden = golden(name);
        let case = &golden["forward"][3];
        let prompt = case["prompt"].as_str().unwrap();
        let args = [
            "--prompt",
            prompt,
            "--dtype",
            "f32",
            "--out",
            path.to_str().unwrap(),
        ];
        assert_eq!(succeed("trace", &dir(name), &args), "");
        let (ours, theirs) = (
            std::fs::read(&path).unwrap(),
            std::fs::read(dir(name).join("golden.safetensors")).unwrap(),
        );
        let ours = SafeTensors::deserialize(&ours).unwrap();
        let theirs = SafeTensors::deserialize(&theirs).unwrap();
        for tensor in ["hidden_states", "pre_mlp", "residual", "logits"] {
            let got = ours.tensor(tensor).unwrap();
            let prefix = case["tensors"].as_str().unwrap();
            let want = theirs.tensor(&format!("{prefix}{tensor}")).unwrap();
            assert_eq!(got.shape(), want.shape(), "{tensor}");
            let values = |bytes: &[u8]| -> Vec<f32> {
                let words = bytes.as_chunks::<4>().0.iter();
                words.map(|&word| f32::from_le_bytes(word)).collect()
            };
            assert_close(&values(got.data()), &values(want.data()), 1e-4);
        }
        let ids = ours.tensor("input_ids").unwrap();
        let ids = ids.data().as_chunks::<8>().0.iter();
        let ids: Vec<i64> = ids.map(|&word| i64::from_le_bytes(word)).collect();
        assert_eq!(json!(ids), case["input_ids"]);
    }
}

#[test]
fn interpretations_agree_with_python() {
    for name in GOLDEN {
        for case in golden(name)["interpret"].as_array().unwrap() {
            let cells = case["tokens_to_interpret"].as_array().unwrap().iter();
            let cells: Vec<String> = cells.map(|c| format!("{}:{}", c[0], c[1])).collect();
            let prompt = case["interpretation_prompt"].to_string();
            let mode = match case["mode"].as_str() {
                Some("addition") => "add",
                _ => "replace",
            };
            let strength = case["strength"].as_f64().unwrap_or(1.0).to_string();
            let jsonl = succeed(
                "interpret",
                &dir(name),
                &[
                    // Some of these placeholders merge with the text beside them, which is noted.
                    "--quiet",
                    "--prompt",
                    case["prompt"].as_str().unwrap(),
                    "--cells",
                    &cells.join(","),
                    "--interpretation-prompt",
                    &prompt,
                    "--inject-layer",
                    &case["k"].to_string(),
                    "--mode",
                    mode,
                    "--strength",
                    &strength,
                    "--max-new-tokens",
                    &case["max_new_tokens"].to_string(),
                    "--dtype",
                    "f32",
                ],
            );
            let rows: Vec<Value> = jsonl
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            let want = case["rows"].as_array().unwrap();
            assert_eq!(rows.len(), want.len());
            for (row, want) in rows.iter().zip(want) {
                let fields: Vec<_> = row.as_object().unwrap().keys().collect();
                assert_eq!(
                    fields,
                    [
                        "prompt",
                        "interpretation",
                        "layer",
                        "token",
                        "token_decoded",
                        "relevancy_score",
                        "new_ids",
                        "pieces",
                        "inject_layer",
                        "mode",
                        "strength",
                        "model",
                        "prompt_index",
                        "key",
                        "reader",
                        "map",
                        "logprobs"
                    ]
                );
                for field in [
                    "prompt",
                    "interpretation",
                    "layer",
                    "token",
                    "token_decoded",
                    "new_ids",
                ] {
                    assert_eq!(row[field], want[field], "{name}: {field}");
                }
                let relevancy = floats(&row["relevancy_score"]);
                assert_close(&relevancy, &floats(&want["relevancy_score"]), 0.0);
                assert_eq!(row["mode"], mode);
                assert_eq!(row["inject_layer"], case["k"]);
            }
        }
    }
}

#[test]
fn tokens_agree_with_pytorch() {
    for name in GOLDEN {
        for case in golden(name)["forward"].as_array().unwrap() {
            let lines = succeed(
                "tokens",
                &dir(name),
                &["--prompt", case["prompt"].as_str().unwrap()],
            );
            let ids: Vec<u32> = lines
                .lines()
                .enumerate()
                .map(|(i, line)| {
                    let fields: Vec<&str> = line.split('\t').collect();
                    // Only bos is special.
                    assert_eq!(fields.get(3), (i == 0).then_some(&"special"));
                    assert_eq!(fields.len(), if i == 0 { 4 } else { 3 });
                    assert_eq!(fields[0], i.to_string());
                    fields[1].parse().unwrap()
                })
                .collect();
            assert_eq!(json!(ids), case["input_ids"]);
        }
    }
}
