//! A cell's row does not depend on the other cells, on concurrent callers, or on cells that fail.

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use rayon::prelude::*;
use selfie_demo::RandomCheckpoint;
use selfie_interp::{
    Cell, Control, InjectAt, InterpError, Options, Row, Sink, Vector, check_by, interpret,
    interpret_by, interpret_vectors,
};
use selfie_kernels::{Cpu, DType, InjectMode};
use selfie_llama::{Llama, Sampling, Tokenizer, Trace};
use selfie_testkit::interp::{collect, dir, load, load_dir};

const PROMPTS: [&str; 2] = ["a type of drink", "The capital of France is"];

fn options(model: &Llama<Cpu>) -> Options {
    Options {
        max_new_tokens: 5,
        eos: vec![],
        controls: Control::ALL.to_vec(),
        control_seed: 3,
        sampling: Some(Sampling {
            temperature: 1.2,
            seed: 11,
            ..Sampling::default()
        }),
        ..Options::new(model.config()).unwrap()
    }
}

fn all_cells(model: &Llama<Cpu>, tokenizer: &Tokenizer, prompts: &[&str]) -> Vec<Cell> {
    let mut cells = vec![];
    for (prompt, text) in prompts.iter().enumerate() {
        for layer in 0..=model.config().n_layers {
            for token in 0..tokenizer.encode(text).unwrap().len() {
                cells.push(Cell {
                    prompt,
                    layer,
                    token,
                });
            }
        }
    }
    cells
}

#[test]
fn a_cell_alone_has_the_same_row_as_among_all() {
    for prompts in [&PROMPTS[..1], &PROMPTS] {
        let (model, tokenizer) = load("llama3-gqa", None, 2);
        let options = options(&model);
        let cells = all_cells(&model, &tokenizer, prompts);
        let all = collect(&model, &tokenizer, prompts, &cells, &options);
        let mut texts = std::collections::HashSet::new();
        for (cell, row) in cells.iter().zip(&all).step_by(3) {
            let alone = collect(&model, &tokenizer, prompts, &[*cell], &options);
            assert_eq!(alone[..], *std::slice::from_ref(row));
            texts.insert(row.interpretation.clone());
        }
        assert!(texts.len() > cells.len() / 6, "the draws are all alike");
    }
}

#[test]
fn other_injections_beside_it_change_nothing_either() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let options = options(&model);
    let cell = Cell {
        prompt: 0,
        layer: 2,
        token: 3,
    };
    let at = |layer, mode| InjectAt {
        layer,
        mode,
        strength: 1.0,
    };
    let rows = |injections: &[InjectAt]| {
        let options = Options {
            injections: injections.to_vec(),
            ..options.clone()
        };
        collect(&model, &tokenizer, &PROMPTS[..1], &[cell], &options)
    };
    let injections = InjectMode::ALL.map(|mode| at(1, mode));
    let together = rows(&injections);
    for (injection, row) in injections.iter().zip(together) {
        assert_eq!(rows(&[*injection]), [row]);
    }
}

/// Runs `work` in its own thread, and fails if it does not end in time.
fn within(seconds: u64, work: impl FnOnce() + Send + 'static) {
    let (done, end) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    match end.recv_timeout(Duration::from_secs(seconds)) {
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => worker.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            panic!("callers of one model wait for each other: no end after {seconds} s")
        }
    }
}

#[test]
fn callers_of_one_model_get_what_each_would_get_alone() {
    within(300, || {
        let (model, tokenizer) = load("llama2-mha", None, 2);
        let options = options(&model);
        let cells = all_cells(&model, &tokenizer, &PROMPTS);
        let jobs: Vec<&[Cell]> = cells.chunks(7).collect();
        let sweep = |cells: &[Cell]| collect(&model, &tokenizer, &PROMPTS, cells, &options);
        let want: Vec<Vec<Row>> = jobs.iter().map(|cells| sweep(cells)).collect();
        for callers in [2, 4, 8] {
            std::thread::scope(|scope| {
                for caller in 0..callers {
                    let (jobs, want, sweep) = (&jobs, &want, &sweep);
                    scope.spawn(move || {
                        for at in (caller..jobs.len()).step_by(callers) {
                            assert_eq!(sweep(jobs[at]), want[at]);
                        }
                    });
                }
            });
        }
        // From the workers of a thread pool, as a caller of rayon would do.
        let got: Vec<Vec<Row>> = jobs.par_iter().map(|cells| sweep(cells)).collect();
        assert_eq!(got, want);
    });
}

/// Keeps rows, and the cells without a row.
#[derive(Default)]
struct Kept {
    rows: Vec<Row>,
    failed: Vec<String>,
}

impl Sink for Kept {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        self.rows.push(row);
        ControlFlow::Continue(())
    }

    fn failed(&mut self, _row: usize, cell: &str) -> ControlFlow<()> {
        self.failed.push(cell.to_owned());
        ControlFlow::Continue(())
    }
}

#[test]
fn a_cell_that_overflows_is_named_and_the_others_go_on() {
    let (model, tokenizer) = load("llama2-mha", Some(DType::F32), 2);
    let cells = all_cells(&model, &tokenizer, &PROMPTS[..1]);
    let at = |strength| InjectAt {
        layer: 1,
        mode: InjectMode::Add,
        strength,
    };
    let sound = Options {
        injections: vec![at(1.0)],
        ..options(&model)
    };
    let want = collect(&model, &tokenizer, &PROMPTS[..1], &cells, &sound);
    // 1e20 overflows when squared for the norm, 3e38 at once.
    for strength in [1e20, 3e38] {
        let options = Options {
            injections: vec![at(1.0), at(strength)],
            ..sound.clone()
        };
        let mut kept = Kept::default();
        let swept = interpret(
            &model,
            &tokenizer,
            &PROMPTS[..1],
            &cells,
            &options,
            &mut kept,
        );
        assert_eq!(kept.rows, want);
        assert_eq!(kept.failed.len(), cells.len());
        let first = &kept.failed[0];
        for part in ["layer 0", "token 0", PROMPTS[0], "add at layer 1"] {
            assert!(first.contains(part), "`{first}` does not say `{part}`");
        }
        match swept.unwrap_err() {
            InterpError::NotFinite {
                first: named,
                failed,
                rows,
            } => {
                assert_eq!(&named, first);
                assert_eq!((failed, rows), (cells.len(), 2 * cells.len()));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn another_model_reads_the_subjects_states() {
    let (subject, words) = load("llama2-mha", None, 2);
    let folder = tempfile::tempdir().unwrap();
    let other = RandomCheckpoint {
        d_model: subject.config().d_model,
        n_layers: 3,
        vocab_size: subject.config().vocab_size,
        ..RandomCheckpoint::tiny()
    };
    other.write(folder.path(), &dir("llama2-mha")).unwrap();
    let (reader, reads) = load_dir(folder.path(), None, 2);
    let cells = all_cells(&subject, &words, &PROMPTS[..1]);
    let options = Options {
        controls: vec![Control::None],
        sampling: None,
        model_name: "subject".to_owned(),
        reader_name: Some("reader".to_owned()),
        ..options(&reader)
    };
    let mut kept = Kept::default();
    let swept = interpret_by(
        (&subject, &words),
        (&reader, &reads),
        &PROMPTS[..1],
        &cells,
        &options,
        &mut kept,
    );
    assert_eq!(swept.unwrap().rows, cells.len());
    // The same vectors, taken from the subject's states and read as vectors.
    let ids = words.encode(PROMPTS[0]).unwrap();
    let trace = Trace::new(&subject, &ids).unwrap();
    let d = subject.config().d_model;
    let vectors: Vec<Vector> = trace
        .hidden_states
        .chunks_exact(d)
        .enumerate()
        .map(|(index, values)| Vector {
            name: "state".to_owned(),
            index,
            values: values.to_vec(),
        })
        .collect();
    let mut read = Kept::default();
    let swept = interpret_vectors(&reader, &reads, &vectors, &options, &mut read);
    assert_eq!(swept.unwrap().rows, cells.len());
    for (by_cell, by_vector) in kept.rows.iter().zip(&read.rows) {
        assert_eq!(by_cell.new_ids, by_vector.new_ids);
        assert_eq!(by_cell.relevancy_score, by_vector.relevancy_score);
        assert_eq!(by_cell.controls, by_vector.controls);
        assert_eq!(by_cell.model, "subject");
        assert_eq!(by_cell.reader.as_deref(), Some("reader"));
    }
    // Another width is refused before any weights are needed.
    let narrow = selfie_llama::LlamaConfig {
        d_model: 32,
        ..reader.config().clone()
    };
    let refused = check_by(
        (subject.config(), &words),
        (&narrow, &reads),
        &PROMPTS[..1],
        &cells,
        &options,
    );
    assert!(matches!(
        refused.unwrap_err(),
        InterpError::ReaderWidth {
            subject: 64,
            reader: 32
        }
    ));
}
