//! The sweep against a naive implementation: the whole interpretation prompt for every cell and token, nothing shared,
//! nothing cached; then two passes over the text, with and without the injection. Ids and relevancy agree to the bit.

use selfie_demo::RandomCheckpoint;
use selfie_interp::{Cell, InjectAt, InterpretationPrompt, Key, Options, Row};
use selfie_kernels::{Cpu, DType, InjectMode};
use selfie_llama::{Llama, Sampling, Tokenizer};
use selfie_testkit::interp::naive::{Naive, PROMPTS, at, cells, options, vector_of};
use selfie_testkit::interp::{GOLDEN, collect, load, load_dir};

/// `(new_ids, logprobs, relevancy)` of a cell.
fn naive(
    model: &Llama<Cpu>,
    tokenizer: &Tokenizer,
    cell: Cell,
    inject: InjectAt,
    options: &Options,
) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let text = PROMPTS[cell.prompt];
    let key = Key::of_cell(text, cell.layer, cell.token, &inject, &options.prompt);
    let prompt = options.prompt.locate(tokenizer).unwrap();
    let vector = vector_of(model, tokenizer, cell);
    let with = Naive::new(model, &prompt, Some((&vector, inject)));
    let new_ids = with.text(options, key.0);
    let scores = with.scores(&new_ids);
    if !options.relevancy {
        return (new_ids, scores, vec![]);
    }
    let without = Naive::new(model, &prompt, None).scores(&new_ids);
    let pairs = scores.iter().zip(&without);
    let relevancy = pairs.map(|(with, without)| (with.exp() - without.exp()).abs());
    let relevancy = relevancy.collect();
    (new_ids, scores, relevancy)
}

#[track_caller]
fn compare(
    model: &Llama<Cpu>,
    tokenizer: &Tokenizer,
    cells: &[Cell],
    options: &Options,
) -> Vec<Row> {
    let rows = collect(model, tokenizer, &PROMPTS, cells, options);
    assert_eq!(rows.len(), cells.len() * options.injections.len());
    for (index, row) in rows.iter().enumerate() {
        let cell = cells[index / options.injections.len()];
        let inject = options.injections[index % options.injections.len()];
        assert_eq!((row.layer, row.token), (Some(cell.layer), cell.token));
        assert_eq!(row.prompt, PROMPTS[cell.prompt]);
        assert_eq!(
            (row.inject_layer, row.mode, row.strength),
            (inject.layer, inject.mode, inject.strength)
        );
        let (ids, logprobs, relevancy) = naive(model, tokenizer, cell, inject, options);
        assert_eq!(row.new_ids, ids, "{cell:?} {inject:?}");
        assert_eq!(row.relevancy_score.len(), relevancy.len());
        assert_eq!(row.logprobs.len(), ids.len());
        let relevancies = row.relevancy_score.iter().zip(&relevancy);
        for (got, want) in relevancies.chain(row.logprobs.iter().zip(&logprobs)) {
            // A sampled token's probability is summed on the host in f64; all others by the same op as here.
            let equal = match options.sampling {
                None => got == want,
                Some(_) => (got - want).abs() <= 1e-6,
            };
            assert!(
                equal,
                "{cell:?} {inject:?}: relevancy or log-probability {got:e}, expected {want:e}"
            );
        }
    }
    rows
}

/// What is shared, cached and scored in a sweep is rounded as in a whole pass.
#[test]
fn keys_and_values_in_16_bits() {
    for kv in [DType::Bf16, DType::F16] {
        let (model, tokenizer) = load("llama3-gqa", None, 2);
        let model = model.with_kv(kv).unwrap();
        let options = options(&model);
        compare(&model, &tokenizer, &cells(&model), &options);
    }
}

#[test]
fn inject_layers_modes_and_strengths() {
    for name in GOLDEN {
        for dtype in [Some(DType::F32), None] {
            let (model, tokenizer) = load(name, dtype, 2);
            let n = model.config().n_layers;
            // All in one sweep, so that the cells of a batch differ.
            let mut injections: Vec<InjectAt> = [0, 1, n / 2, n - 1].map(at).to_vec();
            injections.extend(InjectMode::ALL.map(|mode| InjectAt {
                layer: 2,
                mode,
                strength: 2.5,
            }));
            injections.push(InjectAt {
                strength: 0.6,
                ..at(1)
            });
            let options = Options {
                injections,
                batch_size: Some(5),
                ..options(&model)
            };
            compare(&model, &tokenizer, &cells(&model), &options);
        }
    }
}

#[test]
fn batch_sizes() {
    let (model, tokenizer) = load("llama3-gqa", None, 2);
    for batch_size in [Some(1), Some(2), Some(3), Some(100), None] {
        let options = Options {
            batch_size,
            ..options(&model)
        };
        compare(&model, &tokenizer, &cells(&model), &options);
    }
}

#[test]
fn placeholders_anywhere() {
    for name in GOLDEN {
        let (model, tokenizer) = load(name, None, 2);
        for prompt in [
            r#"[0," means"]"#,
            r#"["Say ",0," and ",0,0," once more:"]"#,
            r#"["It is ",0]"#,
        ] {
            let prompt: InterpretationPrompt = prompt.parse().unwrap();
            for layer in [0, 2] {
                let options = Options {
                    prompt: prompt.clone(),
                    injections: vec![at(layer)],
                    ..options(&model)
                };
                compare(&model, &tokenizer, &cells(&model), &options);
            }
        }
    }
}

#[test]
fn texts_that_end_early() {
    for name in GOLDEN {
        let (model, tokenizer) = load(name, None, 2);
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
                ..options(&model)
            };
            let rows = compare(&model, &tokenizer, &cells(&model), &options);
            assert_eq!(rows[0].new_ids.len(), 1);
            assert!(rows.iter().any(|row| row.new_ids.len() > 1));
        }
    }
}

#[test]
fn one_token_no_relevancy_and_samples() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let base = options(&model);
    let one = Options {
        max_new_tokens: 1,
        ..base.clone()
    };
    compare(&model, &tokenizer, &cells(&model), &one);
    let plain = Options {
        relevancy: false,
        ..base.clone()
    };
    let rows = compare(&model, &tokenizer, &cells(&model), &plain);
    assert!(rows.iter().all(|row| row.relevancy_score.is_empty()));
    for batch_size in [2, 100] {
        let sampled = Options {
            sampling: Some(Sampling {
                temperature: 1.5,
                ..Sampling::default()
            }),
            batch_size: Some(batch_size),
            ..base.clone()
        };
        compare(&model, &tokenizer, &cells(&model), &sampled);
    }
}

#[test]
fn biases_and_odd_heads() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in [DType::F16, DType::Bf16] {
        let checkpoint = RandomCheckpoint {
            attention_bias: true,
            mlp_bias: true,
            dtype,
            ..RandomCheckpoint::tiny()
        };
        checkpoint
            .write(folder.path(), &selfie_testkit::interp::dir("llama2-mha"))
            .unwrap();
        let (model, tokenizer) = load_dir(folder.path(), None, 2);
        let options = Options {
            injections: vec![at(0), at(2)],
            ..options(&model)
        };
        compare(&model, &tokenizer, &cells(&model), &options);
    }
}

/// More tokens to score than fit in a pass, so that a text is scored in pieces. The naive decoding would take minutes,
/// so only two full passes score the text.
#[test]
fn long_texts_are_scored_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = RandomCheckpoint {
        n_layers: 2,
        max_positions: 1024,
        ..RandomCheckpoint::tiny()
    };
    checkpoint
        .write(folder.path(), &selfie_testkit::interp::dir("llama2-mha"))
        .unwrap();
    let (model, tokenizer) = load_dir(folder.path(), None, 2);
    let options = Options {
        max_new_tokens: 700,
        ..options(&model)
    };
    let cells = &cells(&model)[..2];
    let prompt = options.prompt.locate(&tokenizer).unwrap();
    for (row, &cell) in collect(&model, &tokenizer, &PROMPTS, cells, &options)
        .iter()
        .zip(cells)
    {
        assert_eq!(row.new_ids.len(), 700);
        let vector = vector_of(&model, &tokenizer, cell);
        let inject = Some((&vector, options.injections[0]));
        let with = Naive::new(&model, &prompt, inject).scores(&row.new_ids);
        let without = Naive::new(&model, &prompt, None).scores(&row.new_ids);
        for ((with, without), got) in with.iter().zip(without).zip(&row.relevancy_score) {
            assert_eq!(got.to_bits(), (with.exp() - without.exp()).abs().to_bits());
        }
    }
}
