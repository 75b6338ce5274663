//! Order, cancellation, progress, vectors, and refusals.

use std::ops::ControlFlow;

use selfie_interp::{
    Cell, InjectAt, InterpError, InterpretationPrompt, Options, Row, Sink, Swept, Vector,
    interpret, interpret_vectors,
};
use selfie_kernels::{Cpu, InjectMode};
use selfie_llama::{Llama, Tokenizer, Trace};
use selfie_testkit::interp::{collect, load};

const PROMPT: [&str; 1] = ["a type of drink"];

fn model() -> (Llama<Cpu>, Tokenizer) {
    load("llama2-mha", None, 2)
}

fn options(model: &Llama<Cpu>) -> Options {
    Options {
        max_new_tokens: 5,
        batch_size: Some(2),
        ..Options::new(model.config()).unwrap()
    }
}

fn cells() -> Vec<Cell> {
    let cell = |(layer, token)| Cell {
        prompt: 0,
        layer,
        token,
    };
    [(3, 1), (1, 2), (4, 5), (0, 0), (1, 2), (2, 3)]
        .map(cell)
        .to_vec()
}

#[test]
fn rows_come_in_the_order_of_the_cells() {
    let (model, tokenizer) = model();
    let whole = collect(&model, &tokenizer, &PROMPT, &cells(), &options(&model));
    // The first cell's text is the longest, so the others finish before it.
    let options = Options {
        eos: whole[1..].iter().map(|row| row.new_ids[0]).collect(),
        ..options(&model)
    };
    let rows = collect(&model, &tokenizer, &PROMPT, &cells(), &options);
    let order: Vec<_> = rows
        .iter()
        .map(|row| (row.layer.unwrap(), row.token))
        .collect();
    let want: Vec<_> = cells()
        .iter()
        .map(|cell| (cell.layer, cell.token))
        .collect();
    assert_eq!(order, want);
    assert_eq!(rows[1], rows[4]);
}

/// Stops after some rows or some progress.
struct Stopper {
    rows: Vec<Row>,
    after_rows: usize,
    after_tokens: usize,
    progress: Vec<(usize, usize)>,
}

impl Sink for Stopper {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        self.rows.push(row);
        if self.rows.len() >= self.after_rows {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn progress(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self.progress.push((done, total));
        if done >= self.after_tokens {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

fn stopped(after_rows: usize, after_tokens: usize) -> (Stopper, Swept) {
    let (model, tokenizer) = model();
    let mut sink = Stopper {
        rows: vec![],
        after_rows,
        after_tokens,
        progress: vec![],
    };
    let swept = interpret(
        &model,
        &tokenizer,
        &PROMPT,
        &cells(),
        &options(&model),
        &mut sink,
    )
    .unwrap();
    assert_eq!(swept.rows, sink.rows.len());
    (sink, swept)
}

#[test]
fn a_stopped_sweep_keeps_finished_rows() {
    let (whole, swept) = stopped(usize::MAX, usize::MAX);
    assert!(!swept.stopped);
    assert_eq!(whole.rows.len(), 6);
    let (done, total) = *whole.progress.last().unwrap();
    assert_eq!(done, total);
    assert!(whole.progress.is_sorted());
    let generated: usize = whole.rows.iter().map(|row| row.new_ids.len()).sum();
    assert_eq!(done, generated);

    let (three, swept) = stopped(3, usize::MAX);
    assert_eq!(three.rows, whole.rows[..3]);
    assert!(swept.stopped);
    // Two slots: two rows are finished after the tokens of the first two cells and some of the next.
    let (early, swept) = stopped(usize::MAX, 13);
    assert!(swept.stopped);
    assert!(
        !early.rows.is_empty() && early.rows.len() < 6,
        "{}",
        early.rows.len()
    );
    assert_eq!(early.rows, whole.rows[..early.rows.len()]);
    assert_eq!(stopped(usize::MAX, 1).0.rows, []);
}

#[test]
fn vectors_of_a_file_give_the_rows_of_their_cells() {
    let (model, tokenizer) = model();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.safetensors");
    let ids = tokenizer.encode(PROMPT[0]).unwrap();
    Trace::new(&model, &ids).unwrap().save(&path).unwrap();
    let vectors = Vector::read_file(&path, Some("hidden_states"), model.config().d_model).unwrap();
    assert_eq!(vectors.len(), 5 * ids.len());
    let mut rows = vec![];
    let swept = interpret_vectors(
        &model,
        &tokenizer,
        &vectors,
        &options(&model),
        &mut |row: Row| {
            rows.push(row);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_eq!(swept.rows, vectors.len());
    for want in collect(&model, &tokenizer, &PROMPT, &cells(), &options(&model)) {
        let row = &rows[want.layer.unwrap() * ids.len() + want.token];
        assert_eq!(row.new_ids, want.new_ids);
        assert_eq!(row.relevancy_score, want.relevancy_score);
        assert_eq!((row.layer, row.token_decoded.as_deref()), (None, None));
        assert_eq!(row.prompt, "hidden_states");
    }
}

#[test]
fn many_prompts_run_in_groups() {
    let (model, tokenizer) = model();
    let long = "human and alien are equal ".repeat(30);
    let texts: Vec<String> = (0..9).map(|i| format!("{i} {long}")).collect();
    let tokens: usize = texts
        .iter()
        .map(|text| tokenizer.encode(text).unwrap().len())
        .sum();
    assert!(tokens > 1024, "{tokens} tokens fit one group");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    // Backwards, so that groups and cells have different orders.
    let cells: Vec<Cell> = (0..texts.len())
        .rev()
        .map(|prompt| Cell {
            prompt,
            ..cell(2, 1)
        })
        .collect();
    let rows = collect(&model, &tokenizer, &texts, &cells, &options(&model));
    for (row, cell) in rows.iter().zip(&cells) {
        let alone = [Cell { prompt: 0, ..*cell }];
        let alone = collect(
            &model,
            &tokenizer,
            &[texts[cell.prompt]],
            &alone,
            &options(&model),
        );
        let row = Row {
            prompt_index: Some(0),
            ..row.clone()
        };
        assert_eq!(row, alone[0]);
    }
}

fn refused(prompts: &[&str], cell: Cell, change: impl Fn(&mut Options)) -> String {
    let (model, tokenizer) = model();
    let mut options = options(&model);
    change(&mut options);
    let mut sink = |_: Row| -> ControlFlow<()> { panic!("a row came") };
    let done = interpret(&model, &tokenizer, prompts, &[cell], &options, &mut sink);
    done.unwrap_err().to_string()
}

fn cell(layer: usize, token: usize) -> Cell {
    Cell {
        prompt: 0,
        layer,
        token,
    }
}

fn inject(layer: usize, strength: f32) -> Vec<InjectAt> {
    vec![InjectAt {
        layer,
        mode: InjectMode::Add,
        strength,
    }]
}

#[test]
fn wrong_cells_and_options_are_refused_with_their_numbers() {
    let says = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "`{message}` does not say `{part}`");
        }
    };
    says(refused(&PROMPT, cell(5, 0), |_| ()), &["layer 5", "0..=4"]);
    says(
        refused(&PROMPT, cell(0, 6), |_| ()),
        &["token 6", "0..6", PROMPT[0]],
    );
    let other = Cell {
        prompt: 1,
        ..cell(0, 0)
    };
    says(refused(&PROMPT, other, |_| ()), &["prompt 1", "0..1"]);
    says(refused(&[""], cell(0, 0), |_| ()), &["prompt 0 is empty"]);
    says(
        refused(&PROMPT, cell(0, 0), |o| o.injections = inject(4, 1.0)),
        &["inject layer 4", "0..4"],
    );
    says(
        refused(&PROMPT, cell(0, 0), |o| o.injections = inject(1, f32::NAN)),
        &["NaN"],
    );
    says(
        refused(&PROMPT, cell(0, 0), |o| o.injections.clear()),
        &["at least 1"],
    );
    says(
        refused(&PROMPT, cell(0, 0), |o| o.max_new_tokens = 0),
        &["max_new_tokens", "at least 1"],
    );
    says(
        refused(&PROMPT, cell(0, 0), |o| o.batch_size = Some(0)),
        &["batch size", "at least 1"],
    );
    says(
        refused(&PROMPT, cell(0, 0), |o| o.max_new_tokens = 500),
        &["527", "512"],
    );
    let text = "drink ".repeat(600);
    says(
        refused(&[&text], cell(0, 0), |_| ()),
        &["max_position_embeddings 512"],
    );
    let empty = |o: &mut Options| o.prompt = InterpretationPrompt::new(vec![]);
    says(refused(&PROMPT, cell(0, 0), empty), &["no placeholder"]);
}

#[test]
fn interpretation_prompts_are_lists_of_strings_and_zeros() {
    let parse = |json: &str| json.parse::<InterpretationPrompt>();
    assert!(matches!(parse("{}"), Err(InterpError::PromptJson { .. })));
    assert!(matches!(
        parse(r#"["a", 1]"#),
        Err(InterpError::PromptPart { index: 1, .. })
    ));
    assert!(matches!(
        parse(r#"["a", null]"#),
        Err(InterpError::PromptPart { index: 1, .. })
    ));
    let json = r#"["[INST]",0,0,0,0,0,"[/INST] Sure, I will summarize the message:"]"#;
    let template = InterpretationPrompt::template("summarize").unwrap();
    assert_eq!(parse(json).unwrap().parts, template.parts);
    for name in InterpretationPrompt::TEMPLATES {
        InterpretationPrompt::template(name).unwrap();
    }
    let unknown = InterpretationPrompt::template("haiku")
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("haiku") && unknown.contains("summarize, materials"));
}

#[test]
fn wrong_vectors_are_refused() {
    let (model, tokenizer) = model();
    let refused = |values: Vec<f32>| {
        let vector = Vector {
            name: "mine".to_owned(),
            index: 0,
            values,
        };
        let mut sink = |_: Row| -> ControlFlow<()> { panic!("a row came") };
        interpret_vectors(&model, &tokenizer, &[vector], &options(&model), &mut sink).unwrap_err()
    };
    assert!(matches!(
        refused(vec![0.0; 63]),
        InterpError::VectorWidth {
            index: 0,
            found: 63,
            width: 64
        }
    ));
    let mut values = vec![0.0; 64];
    values[7] = f32::INFINITY;
    assert!(matches!(
        refused(values),
        InterpError::VectorNotFinite {
            index: 0,
            at: 7,
            ..
        }
    ));

    let golden = selfie_testkit::interp::dir("llama2-mha");
    let read = |file: &str, tensor: Option<&str>| {
        Vector::read_file(&golden.join(file), tensor, 64).unwrap_err()
    };
    assert!(matches!(
        read("none", None),
        InterpError::ReadVectors { .. }
    ));
    assert!(matches!(
        read("config.json", None),
        InterpError::VectorFile { .. }
    ));
    assert!(matches!(
        read("golden.safetensors", Some("forward.0.logits")),
        InterpError::VectorTensor { width: 64, .. }
    ));
    assert!(matches!(
        read("golden.safetensors", Some("none")),
        InterpError::NoTensor { .. }
    ));
}
