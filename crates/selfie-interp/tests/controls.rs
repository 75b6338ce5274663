//! Controls against a naive implementation: full passes with nothing, a random vector, or another cell's embedding in
//! place of the embedding.

use std::ops::ControlFlow;

use selfie_interp::{
    Cell, Control, InterpError, Key, Options, Row, Vector, check, interpret_vectors,
    partner_of_cell, partner_of_vector, random_vector,
};
use selfie_kernels::{Backend, Cpu, CpuRows, DType};
use selfie_llama::{Llama, Sampling, Tokenizer};
use selfie_testkit::interp::naive::{Naive, PROMPTS, at, cells, options, vector_of};
use selfie_testkit::interp::{GOLDEN, collect, load};

fn controlled(model: &Llama<Cpu>) -> Options {
    Options {
        controls: Control::ALL.to_vec(),
        control_seed: 9,
        ..options(model)
    }
}

fn random(model: &Llama<Cpu>, vector: &CpuRows, seed: u64, key: Key) -> CpuRows {
    let backend = model.backend();
    let values = backend.read_rows(vector, 0..1).unwrap();
    let mut rows = backend.rows(1, values.len()).unwrap();
    let values = random_vector(&values, seed, key);
    backend.write_rows(&values, &mut rows).unwrap();
    rows
}

#[track_caller]
fn compare(model: &Llama<Cpu>, tokenizer: &Tokenizer, options: &Options) {
    let cells = cells(model);
    let vectors: Vec<CpuRows> = cells
        .iter()
        .map(|&cell| vector_of(model, tokenizer, cell))
        .collect();
    let sources = PROMPTS.map(|text| tokenizer.encode(text).unwrap());
    let prompt = options.prompt.locate(tokenizer).unwrap();
    let clean = Naive::new(model, &prompt, None);
    let clean_text = tokenizer.decode(&clean.text(options, 0)).unwrap();

    let rows = collect(model, tokenizer, &PROMPTS, &cells, options);
    assert_eq!(rows.len(), cells.len() * options.injections.len());
    for (index, row) in rows.iter().enumerate() {
        let cell = index / options.injections.len();
        let inject = options.injections[index % options.injections.len()];
        let own = Naive::new(model, &prompt, Some((&vectors[cell], inject)));
        let Cell {
            prompt: of,
            layer,
            token,
        } = cells[cell];
        let key = Key::of_cell(PROMPTS[of], layer, token, &inject, &options.prompt);
        assert_eq!(row.key, key);
        assert_eq!(row.new_ids, own.text(options, key.0));
        let with = own.scores(&row.new_ids);
        let names: Vec<Control> = row.controls.iter().map(|c| c.control).collect();
        assert_eq!(names, options.controls);
        for got in &row.controls {
            let random = random(model, &vectors[cell], options.control_seed, key);
            let (text, without) = match got.control {
                Control::None => (clean_text.clone(), clean.scores(&row.new_ids)),
                control => {
                    let vector = match control {
                        Control::Random => random,
                        _ => {
                            let seed = options.control_seed;
                            let partner = partner_of_cell(cells[cell], &PROMPTS, &sources, seed);
                            vector_of(model, tokenizer, partner.unwrap())
                        }
                    };
                    let naive = Naive::new(model, &prompt, Some((&vector, inject)));
                    let text = naive.text(options, key.0);
                    (tokenizer.decode(&text).unwrap(), naive.scores(&row.new_ids))
                }
            };
            let at = format!("{} of row {index}", got.control);
            assert_eq!(got.interpretation, text, "{at}");
            let differences = with.iter().zip(&without).map(|(a, b)| a - b);
            let evidence = differences.sum::<f32>() / with.len() as f32;
            assert!(
                (got.evidence - evidence).abs() <= 1e-5,
                "{at}: evidence {}, expected {evidence}",
                got.evidence
            );
        }
    }
}

#[test]
fn controls_equal_full_passes() {
    for name in GOLDEN {
        let (model, tokenizer) = load(name, Some(DType::F32), 2);
        let options = Options {
            injections: vec![at(0), at(2)],
            ..controlled(&model)
        };
        compare(&model, &tokenizer, &options);
    }
}

#[test]
fn texts_that_end_at_once_and_later() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let long = collect(
        &model,
        &tokenizer,
        &PROMPTS,
        &cells(&model),
        &options(&model),
    );
    let eos = vec![long[0].new_ids[0], long[3].new_ids[2], long[5].new_ids[4]];
    for batch_size in [1, 2, 100] {
        let options = Options {
            eos: eos.clone(),
            batch_size: Some(batch_size),
            ..controlled(&model)
        };
        compare(&model, &tokenizer, &options);
    }
    let one = Options {
        max_new_tokens: 1,
        ..controlled(&model)
    };
    compare(&model, &tokenizer, &one);
}

#[test]
fn sampled_texts_have_sampled_controls() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let options = Options {
        sampling: Some(Sampling {
            temperature: 1.5,
            ..Sampling::default()
        }),
        batch_size: Some(3),
        ..controlled(&model)
    };
    compare(&model, &tokenizer, &options);
}

#[test]
fn rows_do_not_depend_on_batch_controls_or_relevancy() {
    let (model, tokenizer) = load("llama3-gqa", None, 2);
    let cells = cells(&model);
    let sweep = |options: &Options| collect(&model, &tokenizer, &PROMPTS, &cells, options);
    let all = sweep(&controlled(&model));
    for batch_size in [1, 2, 5] {
        let options = Options {
            batch_size: Some(batch_size),
            ..controlled(&model)
        };
        assert_eq!(sweep(&options), all);
    }
    let plain = sweep(&options(&model));
    for (row, all) in plain.iter().zip(&all) {
        let bare = Row {
            controls: vec![],
            ..all.clone()
        };
        assert_eq!(*row, bare);
    }
    for (at, control) in Control::ALL.into_iter().enumerate() {
        let one = Options {
            controls: vec![control],
            relevancy: false,
            ..controlled(&model)
        };
        for (row, all) in sweep(&one).iter().zip(&all) {
            assert_eq!(row.controls, all.controls[at..=at]);
            assert!(row.relevancy_score.is_empty());
        }
    }
}

#[test]
fn vectors_have_controls_too() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let cells = cells(&model);
    let backend = model.backend();
    let vectors: Vec<Vector> = cells[..3]
        .iter()
        .enumerate()
        .map(|(index, &cell)| Vector {
            name: "cells".to_owned(),
            index,
            values: backend
                .read_rows(&vector_of(&model, &tokenizer, cell), 0..1)
                .unwrap(),
        })
        .collect();
    let sweep = |vectors: &[Vector], controls: &[Control]| {
        let mut rows = vec![];
        let options = Options {
            controls: controls.to_vec(),
            ..controlled(&model)
        };
        let mut sink = |row: Row| {
            rows.push(row);
            ControlFlow::Continue(())
        };
        let done = interpret_vectors(&model, &tokenizer, vectors, &options, &mut sink);
        done.map(|_| rows)
    };
    let rows = sweep(&vectors, &[Control::Shuffled, Control::None]).unwrap();
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(
            row.controls[0].interpretation,
            rows[partner_of_vector(i, 3, 9)].interpretation
        );
    }
    let refused = sweep(&vectors[..1], &[Control::Shuffled]).unwrap_err();
    assert!(matches!(refused, InterpError::NothingToShuffle));
}

#[test]
fn wrong_controls_are_refused_before_the_weights_are_needed() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let check = |cells: &[_], controls: Vec<Control>| {
        let options = Options {
            controls,
            ..options(&model)
        };
        check(model.config(), &tokenizer, &PROMPTS, cells, &options)
    };
    let cells = cells(&model);
    let twice = vec![Control::None, Control::Random, Control::None];
    assert!(matches!(
        check(&cells, twice).unwrap_err(),
        InterpError::ControlTwice {
            control: Control::None
        }
    ));
    // There is only one token, so nothing to shuffle it with.
    let lone = |text: &str| {
        let options = Options {
            controls: vec![Control::Shuffled],
            ..options(&model)
        };
        let ids = tokenizer.encode(text).unwrap();
        let cell = Cell {
            prompt: 0,
            layer: 1,
            token: 0,
        };
        let checked = selfie_interp::check(model.config(), &tokenizer, &[text], &[cell], &options);
        (ids.len(), checked)
    };
    let (tokens, checked) = lone("The");
    assert!(tokens > 1);
    checked.unwrap();
    let vector = Vector {
        name: "one".to_owned(),
        index: 0,
        values: vec![1.0; model.config().d_model],
    };
    let options = Options {
        controls: vec![Control::Shuffled],
        ..options(&model)
    };
    let mut sink = |_: Row| -> ControlFlow<()> { panic!("a row came") };
    let refused = interpret_vectors(&model, &tokenizer, &[vector], &options, &mut sink);
    assert!(matches!(
        refused.unwrap_err(),
        InterpError::NothingToShuffle
    ));
}

#[test]
fn a_row_names_its_controls_after_its_model() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let options = Options {
        controls: vec![Control::Shuffled, Control::None],
        ..options(&model)
    };
    let rows = collect(&model, &tokenizer, &PROMPTS, &cells(&model)[..2], &options);
    let json = serde_json::to_string(&rows[0]).unwrap();
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    assert_eq!(
        names[11..],
        [
            "model",
            "prompt_index",
            "key",
            "reader",
            "map",
            "logprobs",
            "shuffled_interpretation",
            "shuffled_evidence",
            "none_interpretation",
            "none_evidence"
        ]
    );
}
