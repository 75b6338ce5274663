//! Interpreting many embeddings: cells of prompts, or vectors from elsewhere.

use std::ops::ControlFlow;

use selfie_kernels::{Backend, InjectMode};
use selfie_llama::{Decoding, Llama, LlamaConfig, Sampling, Tokenizer};

use crate::control::{partners, random_vector};
use crate::delivery::{Delivery, Origin};
use crate::engine::{Engine, Job, Setup};
use crate::source::capture;
use crate::{Control, InterpError, InterpretationPrompt, LocatedPrompt, Result, Row, Vector};

/// Cells whose vectors are on the device at a time.
const WINDOW: usize = 4096;

/// An embedding: `hidden_states[layer]` at a token of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// The index of the prompt.
    pub prompt: usize,
    /// The layer, in 0..=n_layers.
    pub layer: usize,
    /// The token of the prompt, counted from 0 with bos.
    pub token: usize,
}

/// Where and how an embedding is written into the interpretation prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InjectAt {
    /// The layer at whose input it is written, in 0..n_layers.
    pub layer: usize,
    /// How it is combined with the row that is there.
    pub mode: InjectMode,
    /// The factor of `mode`.
    pub strength: f32,
}

/// How to interpret.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The prompt that the embeddings are written into.
    pub prompt: InterpretationPrompt,
    /// Each cell is interpreted once for each of these.
    pub injections: Vec<InjectAt>,
    /// Most tokens of an interpretation.
    pub max_new_tokens: usize,
    /// Ids that end an interpretation.
    pub eos: Vec<u32>,
    /// `None` is greedy.
    pub sampling: Option<Sampling>,
    /// Whether to work out the relevancy of each generated token.
    pub relevancy: bool,
    /// Interpretations that are decoded together; `None` chooses by memory.
    pub batch_size: Option<usize>,
    /// What rows call the model.
    pub model_name: String,
    /// What each cell is held against; each that has a vector costs about as much as the cells themselves.
    pub controls: Vec<Control>,
    /// Settles the vectors of [`Control::Random`].
    pub control_seed: u64,
}

impl Options {
    /// The defaults of SelfIE for a model: the `summarize` template, replace at layer 1, 30 greedy tokens, relevancy, no
    /// controls.
    pub fn new(config: &LlamaConfig) -> Result<Self> {
        Ok(Self {
            prompt: InterpretationPrompt::template("summarize")?,
            injections: vec![InjectAt {
                layer: 1,
                mode: InjectMode::Replace,
                strength: 1.0,
            }],
            max_new_tokens: 30,
            eos: config.eos.clone(),
            sampling: None,
            relevancy: true,
            batch_size: None,
            model_name: String::new(),
            controls: Vec::new(),
            control_seed: 0,
        })
    }
}

/// Who receives the rows of a sweep. A closure from [`Row`] to [`ControlFlow`] is one.
pub trait Sink {
    /// A row, in the order of the cells (and for each cell of the injections). `Break` ends the sweep.
    fn row(&mut self, row: Row) -> ControlFlow<()>;

    /// How many of at most `total` tokens are generated; called after each step. `Break` ends the sweep, after the
    /// rows that are finished have been delivered.
    fn progress(&mut self, _done: usize, _total: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<F: FnMut(Row) -> ControlFlow<()>> Sink for F {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        self(row)
    }
}

/// Interprets cells of prompts; `sink` gets a row for each cell and injection.
pub fn interpret<B: Backend>(
    model: &Llama<B>,
    tokenizer: &Tokenizer,
    prompts: &[impl AsRef<str>],
    cells: &[Cell],
    options: &Options,
    sink: &mut impl Sink,
) -> Result<()> {
    let prompt = options.locate(model.config(), tokenizer)?;
    let sources = encode(tokenizer, prompts)?;
    check_cells(model.config(), prompts, &sources, cells)?;
    if cells.is_empty() {
        return Ok(());
    }
    let others = options.others(cells)?;
    let longest = sources.iter().map(Vec::len).max().unwrap_or(0);
    let setup = options.setup(&prompt, cells.len(), longest);
    let texts = setup.texts;
    let mut engine = Engine::new(model, setup)?;
    let origin = |index: usize| {
        let cell = cells[index];
        Ok(Origin {
            prompt: prompts[cell.prompt].as_ref().to_owned(),
            layer: Some(cell.layer),
            token: cell.token,
            token_decoded: Some(
                tokenizer.decode_all(&sources[cell.prompt][cell.token..=cell.token])?,
            ),
        })
    };
    let mut delivery = Delivery::new(tokenizer, options, texts, &origin, sink);
    for first in (0..cells.len()).step_by(WINDOW) {
        let wanted = options.window(first, &others, cells);
        let (vectors, places) = capture(model, &mut engine, &sources, &wanted)?;
        let (vectors, jobs) = options.jobs(model.backend(), first, vectors, &places)?;
        if engine.run(&vectors, jobs, &mut delivery)?.is_break() {
            break;
        }
    }
    delivery.flush()
}

/// Interprets vectors of the residual stream's width; `sink` gets a row for each vector and injection.
pub fn interpret_vectors<B: Backend>(
    model: &Llama<B>,
    tokenizer: &Tokenizer,
    vectors: &[Vector],
    options: &Options,
    sink: &mut impl Sink,
) -> Result<()> {
    let prompt = options.locate(model.config(), tokenizer)?;
    let (backend, width) = (model.backend(), model.config().d_model);
    for (index, vector) in vectors.iter().enumerate() {
        vector.check(index, width)?;
    }
    if vectors.is_empty() {
        return Ok(());
    }
    // Where they come from is not known: any other vector is another's.
    let cell = |token| Cell {
        prompt: 0,
        layer: 0,
        token,
    };
    let cells: Vec<Cell> = (0..vectors.len()).map(cell).collect();
    let others = options.others(&cells)?;
    let setup = options.setup(&prompt, vectors.len(), 0);
    let texts = setup.texts;
    let mut engine = Engine::new(model, setup)?;
    let origin = |index: usize| {
        Ok(Origin {
            prompt: vectors[index].name.clone(),
            layer: None,
            token: vectors[index].index,
            token_decoded: None,
        })
    };
    let mut delivery = Delivery::new(tokenizer, options, texts, &origin, sink);
    for first in (0..vectors.len()).step_by(WINDOW) {
        let wanted = options.window(first, &others, vectors);
        let values: Vec<f32> = wanted
            .iter()
            .flat_map(|v| v.values.iter().copied())
            .collect();
        let mut rows = backend.rows(wanted.len(), width)?;
        backend.write_rows(&values, &mut rows)?;
        let places: Vec<usize> = (0..wanted.len()).collect();
        let (rows, jobs) = options.jobs(backend, first, rows, &places)?;
        if engine.run(&rows, jobs, &mut delivery)?.is_break() {
            break;
        }
    }
    delivery.flush()
}

/// Finds every error of an [`interpret`] call that can be found without the weights.
pub fn check(
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    prompts: &[impl AsRef<str>],
    cells: &[Cell],
    options: &Options,
) -> Result<()> {
    options.locate(config, tokenizer)?;
    check_cells(config, prompts, &encode(tokenizer, prompts)?, cells)?;
    if !cells.is_empty() {
        options.others(cells)?;
    }
    Ok(())
}

impl Options {
    /// The prompt in ids, after a check of all options.
    fn locate(&self, config: &LlamaConfig, tokenizer: &Tokenizer) -> Result<LocatedPrompt> {
        self.check(config)?;
        let prompt = self.prompt.locate(tokenizer)?;
        config.check_context(prompt.ids.len() + self.max_new_tokens)?;
        Ok(prompt)
    }

    fn check(&self, config: &LlamaConfig) -> Result<()> {
        let n_layers = config.n_layers;
        for inject in &self.injections {
            if inject.layer >= n_layers {
                return Err(InterpError::InjectLayer {
                    layer: inject.layer,
                    n_layers,
                });
            }
            if !inject.strength.is_finite() {
                return Err(InterpError::Strength {
                    strength: inject.strength,
                });
            }
        }
        if let Some(sampling) = &self.sampling {
            sampling.check()?;
        }
        for (at, control) in self.controls.iter().enumerate() {
            if self.controls[..at].contains(control) {
                return Err(InterpError::ControlTwice { control: *control });
            }
        }
        for (what, number) in [
            ("the number of injections", self.injections.len()),
            ("max_new_tokens", self.max_new_tokens),
            ("the batch size", self.batch_size.unwrap_or(1)),
        ] {
            if number == 0 {
                return Err(InterpError::Zero { what });
            }
        }
        Ok(())
    }

    fn setup<'a>(&'a self, prompt: &'a LocatedPrompt, cells: usize, longest: usize) -> Setup<'a> {
        let clean = self.controls.contains(&Control::None);
        let with_vectors = self.controls.len() - usize::from(clean);
        Setup {
            prompt,
            injections: &self.injections,
            decoding: Decoding {
                max_new_tokens: self.max_new_tokens,
                eos: self.eos.clone(),
                sampling: self.sampling,
            },
            score_clean: self.relevancy || clean,
            clean_text: clean,
            batch_size: self.batch_size,
            texts: cells * self.injections.len() * (1 + with_vectors) + usize::from(clean),
            longest_source: longest,
        }
    }

    /// For each cell the one whose vector it is shuffled with; empty when nothing is shuffled.
    fn others(&self, cells: &[Cell]) -> Result<Vec<usize>> {
        if !self.controls.contains(&Control::Shuffled) {
            return Ok(Vec::new());
        }
        partners(cells).ok_or(InterpError::NothingToShuffle)
    }

    /// The items of the window from `first` on, then those that they are shuffled with.
    fn window<T: Clone>(&self, first: usize, others: &[usize], items: &[T]) -> Vec<T> {
        let end = items.len().min(first + WINDOW);
        let mut wanted = items[first..end].to_vec();
        if !others.is_empty() {
            wanted.extend(others[first..end].iter().map(|&other| items[other].clone()));
        }
        wanted
    }

    /// The jobs of a [`window`](Options::window) whose vectors are at `places` of `vectors`; the first cell's index is
    /// `first`. Random vectors are put behind the others.
    fn jobs<B: Backend>(
        &self,
        backend: &B,
        first: usize,
        vectors: B::Rows,
        places: &[usize],
    ) -> Result<(B::Rows, Vec<Job>)> {
        let shuffled = self.controls.contains(&Control::Shuffled);
        let (places, others) = match shuffled {
            true => places.split_at(places.len() / 2),
            false => (places, &[][..]),
        };
        let captured = backend.len(&vectors);
        let vectors = match self.controls.contains(&Control::Random) {
            true => self.with_random(backend, first, &vectors, places)?,
            false => vectors,
        };
        let mut jobs = Vec::with_capacity(places.len() * self.injections.len());
        for (at, &vector) in places.iter().enumerate() {
            let against = |&control: &Control| match control {
                Control::None => None,
                Control::Random => Some((control, captured + at)),
                Control::Shuffled => Some((control, others[at])),
            };
            for injection in 0..self.injections.len() {
                jobs.push(Job {
                    index: (first + at) * self.injections.len() + injection,
                    vector,
                    injection,
                    against: self.controls.iter().filter_map(against).collect(),
                });
            }
        }
        Ok((vectors, jobs))
    }

    /// The rows of `vectors`, then for each of `places` a random one of its norm.
    fn with_random<B: Backend>(
        &self,
        backend: &B,
        first: usize,
        vectors: &B::Rows,
        places: &[usize],
    ) -> Result<B::Rows> {
        let captured = backend.len(vectors);
        let mut values = backend.read_rows(vectors, 0..captured)?;
        let width = values.len() / captured;
        for (at, &place) in places.iter().enumerate() {
            let vector = &values[place * width..][..width];
            let random = random_vector(vector, self.control_seed, first + at);
            values.extend(random);
        }
        let mut rows = backend.rows(captured + places.len(), width)?;
        backend.write_rows(&values, &mut rows)?;
        Ok(rows)
    }
}

fn encode(tokenizer: &Tokenizer, prompts: &[impl AsRef<str>]) -> Result<Vec<Vec<u32>>> {
    let encode = |(index, prompt): (usize, &_)| {
        let text: &str = AsRef::as_ref(prompt);
        if text.is_empty() {
            return Err(InterpError::EmptyPrompt { index });
        }
        Ok(tokenizer.encode(text)?)
    };
    prompts.iter().enumerate().map(encode).collect()
}

fn check_cells(
    config: &LlamaConfig,
    prompts: &[impl AsRef<str>],
    sources: &[Vec<u32>],
    cells: &[Cell],
) -> Result<()> {
    let n_layers = config.n_layers;
    for source in sources {
        config.check_context(source.len())?;
    }
    for cell in cells {
        let Some(source) = sources.get(cell.prompt) else {
            return Err(InterpError::PromptRange {
                prompt: cell.prompt,
                prompts: prompts.len(),
            });
        };
        if cell.layer > n_layers {
            return Err(InterpError::LayerRange {
                layer: cell.layer,
                n_layers,
            });
        }
        if cell.token >= source.len() {
            return Err(InterpError::TokenRange {
                token: cell.token,
                prompt: prompts[cell.prompt].as_ref().to_owned(),
                tokens: source.len(),
            });
        }
    }
    Ok(())
}
