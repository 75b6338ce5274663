//! Interprets many embeddings: cells of prompts, or given vectors.

use std::ops::{ControlFlow, Range};

use selfie_kernels::Backend;
use selfie_llama::{Bos, Llama, LlamaConfig, PromptSite, Site, Tokenizer};

use crate::control::{partner_of_cell, partner_of_vector};
use crate::drive::{Sweep, drive};
use crate::source::{Origin, Source};
use crate::{
    Embeddings, InjectAt, InterpError, InterpretationPrompt, Key, Map, Options, PromptId,
    ReaderStats, Result, Row, Vector,
};

/// An embedding: `hidden_states[layer]` at a token of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// The index of the prompt.
    pub prompt: usize,
    /// The layer, in 0..=n_layers.
    pub layer: usize,
    /// The token of the prompt, counted from 0, bos included.
    pub token: usize,
}

/// Receives the rows of a sweep. A closure from [`Row`] to [`ControlFlow`] is a sink.
pub trait Sink {
    /// Takes a row. Rows come in the order of the cells, and for each cell in that of the injections. `Break` ends the
    /// sweep.
    fn row(&mut self, row: Row) -> ControlFlow<()>;

    /// Reports that `done` of at most `total` tokens are generated; called after each step. `Break` ends the sweep
    /// after delivering the finished rows.
    fn progress(&mut self, _done: usize, _total: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Reports a cell without a row, because its activations overflowed. The others go on, and the sweep ends with
    /// [`InterpError::NotFinite`]. `row` is the number of the missing row: the cell's index times the number of
    /// injections, plus the injection's index.
    fn failed(&mut self, _row: usize, _cell: &str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<F: FnMut(Row) -> ControlFlow<()>> Sink for F {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        self(row)
    }
}

/// How a successful sweep ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a stopped sweep does not have all rows"]
pub struct Swept {
    /// The number of delivered rows.
    pub rows: usize,
    /// How many of them are empty because the model ended the text at once. If there are many, the interpretation
    /// prompt ends where a text is likely to end.
    pub empty: usize,
    /// Whether the sink stopped the sweep before the last row.
    pub stopped: bool,
    /// What the reader ran.
    pub stats: ReaderStats,
}

/// Interprets cells of prompts. `sink` gets a row for each cell and injection.
///
/// Rows come in the order of the cells, each as soon as it and all earlier ones are done. With a batch of n texts
/// ([`Options::batch_size`]), n cells decode together. So the first rows come after about `max_new_tokens` passes, and
/// then a few with every pass.
///
/// Several threads may share a model: each call gets the rows it would get alone. They share the device's threads, so
/// one call with many cells is faster than several with few.
///
/// # Errors
/// Everything that [`check`] finds, and device failures. If the activations of a cell overflow, its row is missing, all
/// other rows come, and the call returns [`InterpError::NotFinite`]. Finished rows are delivered before any error is
/// returned.
pub fn interpret<B: Backend>(
    model: &Llama<B>,
    tokenizer: &Tokenizer,
    prompts: &[impl AsRef<str>],
    cells: &[Cell],
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<Swept> {
    let prompts = Prompts::new(tokenizer, prompts, options.bos_of_prompts())?;
    check_map(model.config(), model.config(), cells, options)?;
    let source = Cells::new(model, prompts, cells, options)?;
    drive(model, tokenizer, Box::new(source), options, sink)
}

impl<'a, B: Backend> Sweep<'a, B> {
    /// [`interpret`] on a reader that also has other work. `prompt` is the options' prompt in the reader. `model` may
    /// be another model than the reader's, on the same device.
    ///
    /// # Errors
    /// Everything that [`check`] finds.
    pub fn of_cells(
        model: &'a Llama<B>,
        tokenizer: &'a Tokenizer,
        prompts: &[impl AsRef<str>],
        cells: &[Cell],
        options: &Options,
        prompt: PromptId,
    ) -> Result<Self> {
        let located = options.locate(model.config(), tokenizer)?;
        let prompts = Prompts::new(tokenizer, prompts, options.bos_of_prompts())?;
        check_map(model.config(), model.config(), cells, options)?;
        let source = Cells::new(model, prompts, cells, options)?;
        Ok(Self::new(
            tokenizer,
            Box::new(source),
            options,
            located,
            prompt,
        ))
    }
}

/// [`interpret`] with another model as the reader: the embeddings come from `subject`, and `reader` puts them into
/// words. The two may be on different devices. They need the same d_model, or a map from one to the other
/// ([`Options::map`]).
pub fn interpret_by<S: Backend, R: Backend>(
    subject: (&Llama<S>, &Tokenizer),
    reader: (&Llama<R>, &Tokenizer),
    prompts: &[impl AsRef<str>],
    cells: &[Cell],
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<Swept> {
    let prompts = Prompts::new(subject.1, prompts, options.bos_of_prompts())?;
    check_map(subject.0.config(), reader.0.config(), cells, options)?;
    let source = CrossDeviceCells {
        cells: Cells::new(subject.0, prompts, cells, options)?,
        to: reader.0,
    };
    drive(reader.0, reader.1, Box::new(source), options, sink)
}

/// Interprets vectors as wide as the residual stream. `sink` gets a row for each vector and injection.
pub fn interpret_vectors<B: Backend>(
    model: &Llama<B>,
    tokenizer: &Tokenizer,
    vectors: &[Vector],
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<Swept> {
    let width = check_vectors(model.config(), tokenizer, vectors, options)?;
    let source = Vectors {
        model,
        vectors,
        width,
        seed: options.control_seed,
    };
    drive(model, tokenizer, Box::new(source), options, sink)
}

/// Finds every error of an [`interpret_vectors`] call that does not need the weights. Returns the width that the
/// vectors need: that of the residual stream, or that of the map's inputs.
pub fn check_vectors(
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    vectors: &[Vector],
    options: &Options,
) -> Result<usize> {
    options.locate(config, tokenizer)?;
    let reader = config.d_model;
    let width = options.map.as_ref().map_or(reader, Map::from_width);
    for (index, vector) in vectors.iter().enumerate() {
        vector.check(index, width)?;
    }
    if let Some(map) = &options.map {
        let targets = options.injections.iter().map(|inject| (None, inject.layer));
        map.check(width, reader, targets)?;
    }
    if options.vectors() > 1 {
        return Err(InterpError::VectorSpan {
            vectors: options.vectors(),
        });
    }
    if options.shuffles() && vectors.len() == 1 {
        return Err(InterpError::NothingToShuffle);
    }
    Ok(width)
}

/// Finds every error of an [`interpret`] call that does not need the weights.
pub fn check(
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    prompts: &[impl AsRef<str>],
    cells: &[Cell],
    options: &Options,
) -> Result<()> {
    check_by(
        (config, tokenizer),
        (config, tokenizer),
        prompts,
        cells,
        options,
    )
}

/// Finds every error of an [`interpret_by`] call that does not need the weights.
pub fn check_by(
    subject: (&LlamaConfig, &Tokenizer),
    reader: (&LlamaConfig, &Tokenizer),
    prompts: &[impl AsRef<str>],
    cells: &[Cell],
    options: &Options,
) -> Result<()> {
    options.locate(reader.0, reader.1)?;
    check_map(subject.0, reader.0, cells, options)?;
    let prompts = Prompts::new(subject.1, prompts, options.bos_of_prompts())?;
    prompts.check(subject.0, cells, options)?;
    if options.shuffles() {
        prompts.partners(cells, options)?;
    }
    Ok(())
}

/// Checks that the subject's states, mapped if there is a map, are as wide as the reader's, and that the map has the
/// layers.
fn check_map(
    subject: &LlamaConfig,
    reader: &LlamaConfig,
    cells: &[Cell],
    options: &Options,
) -> Result<()> {
    let (subject, reader) = (subject.d_model, reader.d_model);
    if let Some(map) = &options.map {
        let targets = |cell: &Cell| {
            let layers = options.layers_of(Some(cell.layer));
            layers.flat_map(|layer| options.injections.iter().map(move |at| (layer, at.layer)))
        };
        return map.check(subject, reader, cells.iter().flat_map(targets));
    }
    if subject == reader {
        return Ok(());
    }
    Err(InterpError::ReaderWidth { subject, reader })
}

/// The source prompts, with their ids.
struct Prompts<'a> {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    tokenizer: &'a Tokenizer,
}

impl<'a> Prompts<'a> {
    fn new(tokenizer: &'a Tokenizer, prompts: &[impl AsRef<str>], bos: Bos) -> Result<Self> {
        let texts: Vec<String> = prompts.iter().map(|p| p.as_ref().to_owned()).collect();
        let mut ids = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if text.is_empty() {
                return Err(InterpError::EmptyPrompt { index });
            }
            ids.push(tokenizer.encode_as(text, bos)?);
        }
        Ok(Self {
            texts,
            ids,
            tokenizer,
        })
    }

    fn check(&self, config: &LlamaConfig, cells: &[Cell], options: &Options) -> Result<()> {
        let (n_layers, span) = (config.n_layers, options.span);
        for ids in &self.ids {
            config.check_context(ids.len())?;
        }
        for cell in cells {
            let Some(ids) = self.ids.get(cell.prompt) else {
                return Err(InterpError::PromptRange {
                    prompt: cell.prompt,
                    prompts: self.ids.len(),
                });
            };
            let layers = options.layers.iter().copied().chain([cell.layer]);
            if let Some(layer) = layers.into_iter().find(|&layer| layer > n_layers) {
                return Err(InterpError::LayerRange { layer, n_layers });
            }
            if options
                .layers
                .last()
                .is_some_and(|&last| last != cell.layer)
            {
                return Err(InterpError::CellLayers {
                    layer: cell.layer,
                    layers: options.layers.clone(),
                });
            }
            if cell.token >= ids.len() {
                return Err(InterpError::TokenRange {
                    token: cell.token,
                    prompt: self.texts[cell.prompt].clone(),
                    tokens: ids.len(),
                });
            }
            if cell.token + 1 < span {
                return Err(InterpError::SpanRange {
                    span,
                    token: cell.token,
                    prompt: self.texts[cell.prompt].to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The cell that each cell is shuffled with. A cell of several tokens needs a partner with as many tokens before
    /// it.
    fn partners(&self, cells: &[Cell], options: &Options) -> Result<Vec<Cell>> {
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let partner = |&cell: &Cell| {
            let partner = partner_of_cell(cell, &texts, &self.ids, options.control_seed);
            let mut partner = partner.ok_or(InterpError::NothingToShuffle)?;
            partner.token = partner.token.max(options.span - 1);
            if partner == cell || partner.token >= self.ids[partner.prompt].len() {
                return Err(InterpError::NothingToShuffle);
            }
            Ok(partner)
        };
        cells.iter().map(partner).collect()
    }
}

/// Cells of prompts, on the subject's device.
struct Cells<'a, B: Backend> {
    subject: &'a Llama<B>,
    prompts: Prompts<'a>,
    cells: Vec<Cell>,
    options: Options,
    /// The partner of each cell; empty if the sweep does not shuffle.
    partners: Vec<Cell>,
}

impl<'a, B: Backend> Cells<'a, B> {
    fn new(
        subject: &'a Llama<B>,
        prompts: Prompts<'a>,
        cells: &[Cell],
        options: &Options,
    ) -> Result<Self> {
        prompts.check(subject.config(), cells, options)?;
        let partners = if options.shuffles() {
            prompts.partners(cells, options)?
        } else {
            Vec::new()
        };
        Ok(Self {
            subject,
            prompts,
            cells: cells.to_vec(),
            options: options.clone(),
            partners,
        })
    }
}

impl<B: Backend> Source<B> for Cells<'_, B> {
    fn len(&self) -> usize {
        self.cells.len()
    }

    fn key(&self, item: usize, inject: &InjectAt, prompt: &InterpretationPrompt) -> Key {
        let cell = self.cells[item];
        let text = &self.prompts.texts[cell.prompt];
        Key::of_cell(text, cell.layer, cell.token, inject, prompt)
            .of_span(self.options.span)
            .of_layers(&self.options.layers)
    }

    fn layer(&self, item: usize) -> Option<usize> {
        Some(self.cells[item].layer)
    }

    fn origin(&self, item: usize) -> Result<Origin> {
        let cell = self.cells[item];
        let token = &self.prompts.ids[cell.prompt][cell.token..=cell.token];
        Ok(Origin {
            prompt: self.prompts.texts[cell.prompt].clone(),
            prompt_index: Some(cell.prompt),
            layer: Some(cell.layer),
            token: cell.token,
            token_decoded: Some(self.prompts.tokenizer.decode_all(token)?),
        })
    }

    fn vectors(&self, items: Range<usize>) -> Result<Embeddings<B>> {
        let partners = self.partners.get(items.clone()).unwrap_or(&[]);
        let span = self.options.span;
        let sites = |&cell: &Cell| {
            let own = [cell.layer];
            let layers = match &self.options.layers[..] {
                [] => &own,
                layers => layers,
            };
            let site = |layer: usize| {
                let tokens = cell.token + 1 - span..=cell.token;
                tokens.map(move |token| PromptSite {
                    prompt: cell.prompt,
                    site: Site::HiddenStates(layer),
                    token,
                })
            };
            layers.iter().copied().flat_map(site).collect::<Vec<_>>()
        };
        let cells = self.cells[items].iter().chain(partners);
        let sites: Vec<PromptSite> = cells.flat_map(sites).collect();
        Embeddings::capture(self.subject, &self.prompts.ids, &sites)
    }
}

/// Cells whose embeddings move to the reader's device.
struct CrossDeviceCells<'a, S: Backend, R: Backend> {
    cells: Cells<'a, S>,
    to: &'a Llama<R>,
}

impl<S: Backend, R: Backend> Source<R> for CrossDeviceCells<'_, S, R> {
    fn len(&self) -> usize {
        self.cells.len()
    }

    fn key(&self, item: usize, inject: &InjectAt, prompt: &InterpretationPrompt) -> Key {
        self.cells.key(item, inject, prompt)
    }

    fn layer(&self, item: usize) -> Option<usize> {
        self.cells.layer(item)
    }

    fn origin(&self, item: usize) -> Result<Origin> {
        self.cells.origin(item)
    }

    fn vectors(&self, items: Range<usize>) -> Result<Embeddings<R>> {
        let there = self.cells.vectors(items)?;
        let values = there.to_host(self.cells.subject.backend())?;
        Embeddings::from_host(self.to.backend(), &values, there.width())
    }
}

/// Given vectors.
struct Vectors<'a, B: Backend> {
    model: &'a Llama<B>,
    vectors: &'a [Vector],
    width: usize,
    seed: u64,
}

impl<B: Backend> Source<B> for Vectors<'_, B> {
    fn len(&self) -> usize {
        self.vectors.len()
    }

    fn key(&self, item: usize, inject: &InjectAt, prompt: &InterpretationPrompt) -> Key {
        Key::of_vector(&self.vectors[item], inject, prompt)
    }

    fn layer(&self, _item: usize) -> Option<usize> {
        None
    }

    fn origin(&self, item: usize) -> Result<Origin> {
        let vector = &self.vectors[item];
        Ok(Origin {
            prompt: vector.name.clone(),
            prompt_index: None,
            layer: None,
            token: vector.index,
            token_decoded: None,
        })
    }

    fn vectors(&self, items: Range<usize>) -> Result<Embeddings<B>> {
        let n = self.vectors.len();
        let partners = items
            .clone()
            .map(|item| partner_of_vector(item, n, self.seed));
        let values: Vec<f32> = items
            .clone()
            .chain(partners)
            .flat_map(|item| self.vectors[item].values.iter().copied())
            .collect();
        Embeddings::from_host(self.model.backend(), &values, self.width)
    }
}
