//! `cargo xtask real`: compares real checkpoints with PyTorch's results, in f32.

mod fetch;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use selfie::interp::{Cell, InjectAt, InterpretationPrompt, Options, Row};
use selfie::kernels::{DType, InjectMode};
use selfie::llama::{ChatEnd, ChatMessage, Decoding, Trace, generate};
use selfie::{Model, OpenOptions, Source, on};
use serde::Deserialize;

use crate::Result;
pub(crate) use fetch::smollm2;

/// The tolerance of states, logits and relevancies: absolute, and relative to the expected value.
const TOLERANCE: f32 = 1e-4;

/// The factor by which relevancies may exceed the tolerance: they are differences of probabilities at the end of a
/// text, where the rounding errors of all its tokens add up. The report counts those within the plain tolerance.
const RELEVANCY_SLACK: f32 = 10.0;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only download the checkpoints to target/real
    #[arg(long)]
    fetch: bool,
    /// Run only checkpoints whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// A file of `xtask/real`, recorded by its `reference.py`.
#[derive(Deserialize)]
struct Reference {
    made_with: String,
    prompts: Vec<Prompt>,
    sweep: Sweep,
}

/// A prompt, PyTorch's results for its last token, and the continuation.
#[derive(Deserialize)]
struct Prompt {
    /// A user message for the chat template.
    chat: Option<String>,
    text: Option<String>,
    ids: Vec<u32>,
    greedy: Vec<u32>,
    /// The ids of the largest logits, largest first.
    best: Vec<u32>,
    logits: Vec<f32>,
    states: Vec<State>,
}

/// The first values of a hidden state of the last token.
#[derive(Deserialize)]
struct State {
    layer: usize,
    values: Vec<f32>,
}

/// Interpretations of every layer and token of a prompt.
#[derive(Deserialize)]
struct Sweep {
    subject: String,
    /// A list of strings and zeros.
    interpretation_prompt: serde_json::Value,
    inject_layer: usize,
    ids: Vec<u32>,
    placeholders: Vec<usize>,
    rows: Vec<Interpretation>,
}

#[derive(Deserialize)]
struct Interpretation {
    layer: usize,
    token: usize,
    ids: Vec<u32>,
    relevancy: Vec<f32>,
}

/// How many values agree, out of how many.
#[derive(Default)]
struct Agreement {
    ids: [usize; 2],
    greedy: [usize; 2],
    states: [usize; 2],
    logits: [usize; 2],
    cells: [usize; 2],
    relevancies: [usize; 2],
    /// The largest error, relative to the tolerance.
    worst: f32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let smollm2 = smollm2()?;
    let gemma3 = fetch::gemma3()?;
    if args.fetch {
        return Ok(());
    }
    let checkpoints = [
        ("smollm2", smollm2.clone()),
        ("smollm2-q4_1", smollm2.join("model.gguf")),
        ("gemma3-270m-q4_k_m", gemma3),
    ];
    println!(
        "{:20} {:>8} {:>8} {:>8} {:>8} {:>10} {:>12} {:>12}",
        "in f32", "ids", "greedy", "states", "logits", "cells", "relevancies", "worst error"
    );
    let mut differ = Vec::new();
    for (name, path) in checkpoints {
        if args.only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let reference = Reference::open(name)?;
        let agreement = check(&reference, path)?;
        println!("{name:20} {}", agreement.line());
        println!("{:20} against {}", "", reference.made_with);
        if !agreement.holds() {
            differ.push(name);
        }
    }
    if differ.is_empty() {
        Ok(())
    } else {
        Err(format!("these differ from PyTorch: {}", differ.join(", ")).into())
    }
}

impl Reference {
    fn open(name: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("real/{name}.json"));
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

fn check(reference: &Reference, path: PathBuf) -> Result<Agreement> {
    let options = OpenOptions {
        dtype: Some(DType::F32),
        ..OpenOptions::default()
    };
    let model = Model::open(Source::from(path), options, &mut ())?;
    let mut agreement = Agreement::default();
    for prompt in &reference.prompts {
        check_prompt(prompt, &model, &mut agreement)?;
    }
    check_sweep(&reference.sweep, &model, &mut agreement)?;
    Ok(agreement)
}

fn check_prompt(prompt: &Prompt, model: &Model, agreement: &mut Agreement) -> Result<()> {
    let opened = &model.opened;
    let ids = match (&prompt.chat, &prompt.text) {
        (Some(message), None) => {
            let messages = [ChatMessage::new("user", message)];
            let template = opened.needed_chat_template()?;
            let text = template.render(&messages, ChatEnd::Reply)?;
            opened.tokenizer.encode_plain(&text)?
        }
        (None, Some(text)) => opened.encode(text)?,
        _ => return Err("a prompt of the reference is neither a text nor a chat".into()),
    };
    count(&mut agreement.ids, ids == prompt.ids);
    let greedy = Decoding {
        max_new_tokens: prompt.greedy.len(),
        eos: Vec::new(),
        sampling: None,
    };
    let (trace, new) = on!(&model.llama, llama => {
        let trace = Trace::new(llama, &prompt.ids)?;
        let new = generate(llama, &prompt.ids, greedy, |_| ControlFlow::Continue(()))?;
        (trace, new.new_ids)
    });
    count(&mut agreement.greedy, new == prompt.greedy);
    let tokens = prompt.ids.len();
    for state in &prompt.states {
        let d_model = opened.config.d_model;
        let at = (state.layer * tokens + tokens - 1) * d_model;
        let got = &trace.hidden_states[at..at + state.values.len()];
        let close = agreement.close(got, &state.values);
        count(&mut agreement.states, close);
    }
    let logits = &trace.logits[(tokens - 1) * opened.config.vocab_size..];
    let got: Vec<f32> = prompt.best.iter().map(|&id| logits[id as usize]).collect();
    let close = agreement.close(&got, &prompt.logits);
    count(&mut agreement.logits, close);
    Ok(())
}

fn check_sweep(sweep: &Sweep, model: &Model, agreement: &mut Agreement) -> Result<()> {
    let prompt: InterpretationPrompt = sweep.interpretation_prompt.to_string().parse()?;
    let located = prompt.locate(&model.opened.tokenizer)?;
    let same = located.ids == sweep.ids && located.placeholders == sweep.placeholders;
    count(&mut agreement.ids, same);
    let options = Options {
        injections: vec![InjectAt {
            layer: sweep.inject_layer,
            mode: InjectMode::Replace,
            strength: 1.0,
        }],
        max_new_tokens: sweep.rows[0].ids.len(),
        eos: Vec::new(),
        ..model.opened.interpret_options_with(prompt)?
    };
    let cells: Vec<Cell> = sweep
        .rows
        .iter()
        .map(|row| Cell {
            prompt: 0,
            layer: row.layer,
            token: row.token,
        })
        .collect();
    // Rows come in the order of their cells.
    let mut expected = sweep.rows.iter();
    let swept = model.interpret(&[&sweep.subject], &cells, &options, &mut |row: Row| {
        if let Some(of) = expected.next() {
            let same = row.new_ids == of.ids;
            count(&mut agreement.cells, same);
            let close = same && agreement.close(&row.relevancy_score, &of.relevancy);
            count(&mut agreement.relevancies, close);
        }
        ControlFlow::Continue(())
    })?;
    if swept.rows != sweep.rows.len() {
        let (rows, cells) = (swept.rows, sweep.rows.len());
        return Err(format!("got {rows} rows for {cells} cells").into());
    }
    Ok(())
}

/// Counts one more value, and whether it agrees.
fn count(of: &mut [usize; 2], agrees: bool) {
    of[0] += usize::from(agrees);
    of[1] += 1;
}

impl Agreement {
    fn close(&mut self, got: &[f32], expected: &[f32]) -> bool {
        let errors = got.iter().zip(expected);
        let worst = errors
            .map(|(got, expected)| {
                (got - expected).abs() / (TOLERANCE + TOLERANCE * expected.abs())
            })
            .fold(0.0, f32::max);
        self.worst = self.worst.max(worst);
        got.len() == expected.len() && worst <= 1.0
    }

    fn parts(&self) -> [[usize; 2]; 6] {
        [
            self.ids,
            self.greedy,
            self.states,
            self.logits,
            self.cells,
            self.relevancies,
        ]
    }

    /// Whether everything agrees, with relevancies within their wider tolerance.
    fn holds(&self) -> bool {
        let [others @ .., _] = self.parts();
        others.iter().all(|[agree, all]| agree == all) && self.worst <= RELEVANCY_SLACK
    }

    fn line(&self) -> String {
        let [ids, greedy, states, logits, cells, relevancies] =
            self.parts().map(|[agree, all]| format!("{agree}/{all}"));
        format!(
            "{ids:>8} {greedy:>8} {states:>8} {logits:>8} {cells:>10} {relevancies:>12} {:>12.2}",
            self.worst
        )
    }
}
