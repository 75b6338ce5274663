//! Checks that interpretations agree with those of Python on the same checkpoint in f32.

use selfie_interp::{Cell, InjectAt, InterpretationPrompt, Options};
use selfie_kernels::{Backend, InjectMode};
use selfie_llama::{Llama, Tokenizer};

use super::{collect, floats, golden, ids};

/// All interpretations of the golden prompts, with their relevancy.
pub fn interpretations<B: Backend>(model: &Llama<B>, tokenizer: &Tokenizer, name: &str) {
    for case in golden(name)["interpret"].as_array().unwrap() {
        let prompt: InterpretationPrompt =
            case["interpretation_prompt"].to_string().parse().unwrap();
        let located = prompt.locate(tokenizer).unwrap();
        assert_eq!(located.text, case["interpretation_text"].as_str().unwrap());
        assert_eq!(located.ids, ids(&case["input_ids"]));
        let placeholders: Vec<u32> = located.placeholders.iter().map(|&p| p as u32).collect();
        assert_eq!(placeholders, ids(&case["insert_locations"]));

        let addition = case["mode"] == "addition";
        let options = Options {
            prompt,
            injections: vec![InjectAt {
                layer: case["k"].as_u64().unwrap() as usize,
                mode: if addition {
                    InjectMode::Add
                } else {
                    InjectMode::Replace
                },
                strength: case["strength"].as_f64().unwrap_or(1.0) as f32,
            }],
            max_new_tokens: case["max_new_tokens"].as_u64().unwrap() as usize,
            eos: crate::llama::agree::eos(model, name),
            ..Options::new(model.config()).unwrap()
        };
        let cells: Vec<Cell> = case["tokens_to_interpret"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cell| Cell {
                prompt: 0,
                layer: cell[0].as_u64().unwrap() as usize,
                token: cell[1].as_u64().unwrap() as usize,
            })
            .collect();
        let source = case["prompt"].as_str().unwrap();
        let rows = collect(model, tokenizer, &[source], &cells, &options);
        let want = case["rows"].as_array().unwrap();
        assert_eq!(rows.len(), want.len());
        for (row, want) in rows.iter().zip(want) {
            let at = format!("{name}: {want}");
            assert_eq!(row.prompt, source, "{at}");
            assert_eq!(
                row.layer,
                want["layer"].as_u64().map(|l| l as usize),
                "{at}"
            );
            assert_eq!(row.token as u64, want["token"].as_u64().unwrap(), "{at}");
            assert_eq!(
                row.token_decoded.as_deref(),
                want["token_decoded"].as_str(),
                "{at}"
            );
            assert_eq!(row.new_ids, ids(&want["new_ids"]), "{at}");
            assert_eq!(
                row.interpretation,
                want["interpretation"].as_str().unwrap(),
                "{at}"
            );
            assert_eq!(row.pieces.len(), row.new_ids.len(), "{at}");
            let relevancy = floats(&want["relevancy_score"]);
            assert_eq!(row.relevancy_score.len(), relevancy.len(), "{at}");
            for (got, want) in row.relevancy_score.iter().zip(&relevancy) {
                assert!(
                    (got - want).abs() <= 1e-4,
                    "{at}: relevancy {got}, expected {want}"
                );
            }
        }
    }
}
