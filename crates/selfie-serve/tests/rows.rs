//! The server's rows equal the library's, to the bit, whatever other clients do.

mod common;

use std::ops::ControlFlow;
use std::thread;

use common::{PROMPT, Served, model, rows};
use selfie::interp::{Cell, Control, InjectAt, Options, Row};
use selfie::kernels::InjectMode;
use selfie::llama::Sampling;
use selfie_serve::Limits;
use serde_json::{Value, json};

const OTHER: &str = "[INST] Who wrote a book about music? [/INST]";

/// A request, with the library's options for each sample.
struct Case {
    prompt: &'static str,
    body: Value,
    options: Vec<Options>,
}

fn cases() -> Vec<Case> {
    let model = model(&[]);
    let plain = model.opened.interpret_options().unwrap();
    let repeat = model.opened.interpretation_prompt("repeat").unwrap();
    let inject = |layer, mode, strength| {
        vec![InjectAt {
            layer,
            mode,
            strength,
        }]
    };
    let sampled = |seed| Options {
        sampling: Some(Sampling {
            temperature: 0.9,
            seed,
            ..Sampling::default()
        }),
        control_seed: seed,
        controls: Control::ALL.to_vec(),
        max_new_tokens: 12,
        ..plain.clone()
    };
    vec![
        Case {
            prompt: PROMPT,
            body: json!({}),
            options: vec![plain.clone()],
        },
        Case {
            prompt: PROMPT,
            body: json!({"temperature": 0.9, "seed": 7, "samples": 3, "max_new_tokens": 12,
                         "controls": ["none", "random", "shuffled"]}),
            options: vec![sampled(7), sampled(8), sampled(9)],
        },
        Case {
            prompt: OTHER,
            body: json!({"template": "repeat", "inject_layer": 2, "mode": "add", "strength": 0.5,
                         "relevancy": false}),
            options: vec![Options {
                prompt: repeat,
                injections: inject(2, InjectMode::Add, 0.5),
                relevancy: false,
                ..plain.clone()
            }],
        },
        Case {
            prompt: OTHER,
            body: json!({"interpretation_prompt": ["[INST]", 0, 0, "[/INST] It is about"], "inject_layer": 0,
                         "mode": "replace-norm", "strength": 4.0, "max_new_tokens": 5}),
            options: vec![Options {
                prompt: r#"["[INST]", 0, 0, "[/INST] It is about"]"#.parse().unwrap(),
                injections: inject(0, InjectMode::ReplaceNorm, 4.0),
                max_new_tokens: 5,
                ..plain
            }],
        },
    ]
}

fn cells(tokens: usize) -> Vec<Cell> {
    let row = |layer| {
        (0..tokens).map(move |token| Cell {
            prompt: 0,
            layer,
            token,
        })
    };
    (0..7).flat_map(row).collect()
}

#[test]
fn concurrent_clients_get_the_librarys_rows() {
    let served = Served::new(Limits::default());
    let cases = cases();
    // Twelve clients share the reader, using four interpretation prompts.
    let got: Vec<Vec<String>> = thread::scope(|scope| {
        let ask = |case: &Case| {
            let mut body = case.body.clone();
            body["prompt"] = served.tokenize(case.prompt).into();
            rows(&served.events("/interpret", &body))
        };
        let asking: Vec<_> = (0..12)
            .map(|client| {
                let case = &cases[client % cases.len()];
                scope.spawn(move || ask(case))
            })
            .collect();
        asking
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let model = model(&[]);
    for (index, case) in cases.iter().enumerate() {
        let mut want = Vec::new();
        let tokens = model.tokens(case.prompt).unwrap().len();
        for options in &case.options {
            let swept =
                model.interpret(&[case.prompt], &cells(tokens), options, &mut |row: Row| {
                    want.push(serde_json::to_string(&row).unwrap());
                    ControlFlow::Continue(())
                });
            assert_eq!(swept.unwrap().rows, 7 * tokens);
        }
        // Samples may interleave; each is in the order of its cells.
        want.sort();
        for client in (index..12).step_by(cases.len()) {
            let mut got = got[client].clone();
            got.sort();
            assert!(got == want, "case {index}, client {client}");
        }
    }
}

#[test]
fn a_text_is_scored_as_the_reader_decodes_it() {
    let served = Served::new(Limits::default());
    let prompt = served.tokenize(PROMPT);
    let cells = json!([[3, 8], [5, 15]]);
    let body = json!({"prompt": prompt, "cells": cells, "max_new_tokens": 6, "controls": ["none"]});
    for row in rows(&served.events("/interpret", &body)) {
        let row: Value = serde_json::from_str(&row).unwrap();
        // Without the token that ended it, which is not text.
        let text = row["interpretation"].as_str().unwrap();
        let cell = json!([[row["layer"], row["token"]]]);
        let body = json!({"prompt": prompt, "cells": cell, "text": format!(" {text}")});
        let (status, scores) = served.post("/score", &body);
        assert_eq!(status, 200, "{scores}");
        let ids = scores["ids"].as_array().unwrap();
        let own = row["new_ids"].as_array().unwrap();
        if !own.starts_with(ids) {
            continue;
        }
        let (got, want) = (&scores["cells"][0]["logprobs"], &row["logprobs"]);
        for (at, score) in got.as_array().unwrap().iter().enumerate() {
            let difference = score.as_f64().unwrap() - want[at].as_f64().unwrap();
            assert!(difference.abs() < 1e-4, "{got} {want}");
        }
        return;
    }
    panic!("no text is tokenized as it was decoded");
}

#[test]
fn steering_by_nothing_changes_nothing_and_by_a_state_does() {
    let served = Served::new(Limits::default());
    let prompt = served.tokenize(PROMPT);
    let text = |steer: Value| {
        let body = json!({"prompt": prompt, "max_new_tokens": 8, "steer": steer});
        let events = served.events("/generate", &body);
        let (name, done) = events.last().unwrap();
        assert_eq!(name, "done", "{done}");
        let tokens = events.iter().filter(|(name, _)| name == "token");
        let streamed: Vec<Value> = tokens
            .map(|(_, token)| serde_json::from_str::<Value>(token).unwrap()["id"].clone())
            .collect();
        let done: Value = serde_json::from_str(done).unwrap();
        assert_eq!(done["new_ids"], Value::from(streamed));
        done
    };
    let plain = text(json!([]));
    let model = model(&[]);
    let want = model
        .generate(PROMPT, model.opened.decoding(8), |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(plain["new_ids"], json!(want.new_ids));
    assert_eq!(plain["text"], json!(want.text));
    let nothing = json!([{"layer": 3, "token": 8, "mode": "add", "strength": 0.0}]);
    assert_eq!(text(nothing), plain);
    let much = json!([{"layer": 3, "token": 8, "strength": 3.0}]);
    assert_ne!(text(much)["new_ids"], plain["new_ids"]);
}

#[test]
fn states_are_those_of_the_trace() {
    let served = Served::new(Limits::default());
    let prompt = served.tokenize(PROMPT);
    let (status, states) = served.post(
        "/states",
        &json!({"prompt": prompt, "cells": [[2, 3], [6, 15]]}),
    );
    assert_eq!(status, 200, "{states}");
    let trace = model(&[]).trace(PROMPT).unwrap();
    let (d, tokens) = (states["d_model"].as_u64().unwrap() as usize, 16);
    for (state, (layer, token)) in states["states"]
        .as_array()
        .unwrap()
        .iter()
        .zip([(2, 3), (6, 15)])
    {
        let at = (layer * tokens + token) * d;
        let got: Vec<f32> = serde_json::from_value(state["values"].clone()).unwrap();
        assert_eq!(got, trace.hidden_states[at..at + d]);
    }
}
