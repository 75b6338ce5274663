//! The main job: interpreting every layer and token of a prompt, with relevancies.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use selfie_interp::{Cell, LocatedPrompt, Options, Row, interpret};
use selfie_kernels::gpu::Cuda;
use selfie_llama::{Llama, Tokenizer};

use crate::Result;
use crate::report::Report;
use crate::sizes::Sizes;

/// The prompt is repeated until it has the requested number of tokens.
const WORDS: &str = "[INST] What's highest mountain in the world? [/INST] ";
const RUNS: usize = 3;

/// Times whole sweeps of the model in `dir`.
pub(crate) fn measure(
    model: &Llama<Cuda>,
    dir: &Path,
    sizes: &Sizes,
    report: &mut Report,
) -> Result<()> {
    let sweep = Sweep::new(model, dir, sizes)?;
    let mut samples = Vec::new();
    // The first run assembles the kernels and chooses algorithms.
    for run in 0..=RUNS {
        let start = Instant::now();
        sweep.run()?;
        let seconds = start.elapsed().as_secs_f64();
        if run == 0 {
            report.add("sweep, first run of the process", seconds, "s");
        } else {
            samples.push(seconds);
        }
    }
    samples.sort_by(f64::total_cmp);
    let seconds = samples[RUNS / 2];
    let (cells, new_tokens) = (sweep.cells.len(), sizes.new_tokens);
    let name = format!("sweep, {cells} cells x {new_tokens} tokens, relevancy on");
    report.add(&name, seconds, "s");
    let located = sweep.options.prompt.locate(&sweep.tokenizer)?;
    let operations = operations(model, &located, cells, new_tokens);
    let share = 100.0 * operations / seconds / report.matrix();
    report.add(
        "sweep, operations over time, of the bf16 matrix rate",
        share,
        "%",
    );
    Ok(())
}

/// A sweep over every layer and token of one prompt.
pub(crate) struct Sweep<'a> {
    model: &'a Llama<Cuda>,
    tokenizer: Tokenizer,
    prompt: String,
    cells: Vec<Cell>,
    options: Options,
}

impl<'a> Sweep<'a> {
    pub(crate) fn new(model: &'a Llama<Cuda>, dir: &Path, sizes: &Sizes) -> Result<Self> {
        let tokenizer = Tokenizer::open(dir)?;
        let mut prompt = WORDS.to_owned();
        while tokenizer.encode(&prompt)?.len() < sizes.tokens {
            prompt += WORDS;
        }
        let config = model.config();
        let cell = |i: usize| Cell {
            prompt: 0,
            layer: i / sizes.tokens,
            token: i % sizes.tokens,
        };
        let options = Options {
            max_new_tokens: sizes.new_tokens,
            // Every cell writes all its tokens, so that runs can be compared.
            eos: Vec::new(),
            ..Options::new(config)?
        };
        Ok(Self {
            model,
            tokenizer,
            prompt,
            cells: (0..config.n_layers * sizes.tokens).map(cell).collect(),
            options,
        })
    }

    pub(crate) fn run(&self) -> Result<()> {
        let mut rows = 0;
        let swept = interpret(
            self.model,
            &self.tokenizer,
            &[&self.prompt],
            &self.cells,
            &self.options,
            &mut |_: Row| {
                rows += 1;
                ControlFlow::Continue(())
            },
        )?;
        assert_eq!((rows, swept.rows), (self.cells.len(), self.cells.len()));
        Ok(())
    }
}

/// The operations of all products for the rows that a sweep of this plan runs: each cell's own prompt, its new tokens
/// except the last, and their scores.
fn operations(model: &Llama<Cuda>, prompt: &LocatedPrompt, cells: usize, new_tokens: usize) -> f64 {
    let config = model.config();
    let first = prompt.placeholders.iter().copied().min().unwrap_or(0);
    let own = prompt.ids.len() - first;
    let rows = cells * (own + 2 * (new_tokens - 1));
    let heads = cells * 2 * new_tokens;
    let table = config.vocab_size * config.d_model;
    let tables = if config.tie_word_embeddings { 1 } else { 2 };
    let layers = config.n_parameters() as usize - tables * table;
    2.0 * (rows as f64 * layers as f64 + heads as f64 * table as f64)
}
