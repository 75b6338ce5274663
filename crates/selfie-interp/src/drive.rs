//! Drives a reader through a sweep: submits jobs, and delivers their results.

use std::collections::{HashMap, VecDeque};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use selfie_kernels::Backend;
use selfie_llama::{Decoding, Llama, Tokenizer};

use crate::control::random_vector;
use crate::delivery::{Delivery, Part};
use crate::source::Source;
use crate::{
    Control, Embeddings, InterpError, Job, JobWrite, LocatedPrompt, Options, Outcome, PromptId,
    Reader, ReaderSize, Result, Sink, Swept, Ticket,
};

/// Rows whose vectors are on the device at a time.
const WINDOW: usize = 4096;

/// Interprets all items with a model.
pub(crate) fn drive<'a, B: Backend>(
    reader: &Llama<B>,
    tokenizer: &'a Tokenizer,
    source: Box<dyn Source<B> + 'a>,
    options: &Options,
    sink: &mut dyn Sink,
) -> Result<Swept> {
    let located = options.locate(reader.config(), tokenizer)?;
    if source.len() == 0 {
        return Ok(Swept::default());
    }
    let size = ReaderSize {
        batch_size: options.batch_size,
        texts: Some(options.texts(source.len())),
        clean: options.scores_clean(),
        ..ReaderSize::new(&located, options.max_new_tokens)
    };
    let mut reader = Reader::new(reader, &size)?;
    let layers: Vec<usize> = options.injections.iter().map(|at| at.layer).collect();
    let prompt = reader.add_prompt(&located.ids, &layers)?;
    let mut sweep = Sweep::new(tokenizer, source, options, located, prompt);
    let ended = run(&mut sweep, &mut reader, sink);
    // Deliver the finished rows, whatever happened.
    let swept = sweep.finish(sink);
    ended?;
    Ok(Swept {
        stats: reader.stats(),
        ..swept?
    })
}

fn run<B: Backend>(
    sweep: &mut Sweep<'_, B>,
    reader: &mut Reader<B>,
    sink: &mut dyn Sink,
) -> Result<()> {
    loop {
        // Submit the next window before the last texts of this one end, so that passes stay wide.
        while !sweep.is_submitted() && reader.waiting() < reader.batch_size() {
            sweep.submit(reader, WINDOW)?;
        }
        if reader.is_idle() {
            return Ok(());
        }
        for (ticket, outcome) in reader.step()? {
            if sweep.take(reader, ticket, outcome, sink)?.is_break() {
                return Ok(());
            }
        }
        if sweep.progress(reader.stats().decoded, sink).is_break() {
            return Ok(());
        }
    }
}

/// Turns cells into rows through a [`Reader`], which it may share with other sweeps.
///
/// The rows equal those of [`interpret`](crate::interpret) to the bit, whatever other jobs the reader runs (on a GPU:
/// in deterministic mode).
pub struct Sweep<'a, B: Backend> {
    delivery: Delivery<'a, B>,
    located: LocatedPrompt,
    prompt: PromptId,
    decoding: Arc<Decoding>,
    /// Windows with unfinished rows.
    windows: VecDeque<Window<B>>,
    /// The first item that is in no window yet.
    next: usize,
    /// The row and part that each job is for.
    tickets: HashMap<Ticket, (usize, Part)>,
}

/// Items whose vectors are on the device.
struct Window<B: Backend> {
    items: Range<usize>,
    /// For each injection, the vectors of the items, then those of their partners.
    vectors: Vec<Embeddings<B>>,
    /// Random vectors for each row, if that control is on.
    random: Option<Embeddings<B>>,
}

impl<'a, B: Backend> Sweep<'a, B> {
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        source: Box<dyn Source<B> + 'a>,
        options: &Options,
        located: LocatedPrompt,
        prompt: PromptId,
    ) -> Self {
        Self {
            delivery: Delivery::new(tokenizer, options.clone(), source),
            located,
            prompt,
            decoding: Arc::new(options.decoding()),
            windows: VecDeque::new(),
            next: 0,
            tickets: HashMap::new(),
        }
    }

    fn options(&self) -> &Options {
        &self.delivery.options
    }

    /// Whether all cells have been submitted.
    pub fn is_submitted(&self) -> bool {
        self.next == self.delivery.source.len()
    }

    /// Whether the sweep has nothing left to do.
    pub fn is_done(&self) -> bool {
        self.is_submitted() && self.tickets.is_empty()
    }

    /// Whether a job belongs to this sweep.
    pub fn has(&self, ticket: Ticket) -> bool {
        self.tickets.contains_key(&ticket)
    }

    /// Rows that have been submitted but not delivered.
    pub fn under_way(&self) -> usize {
        self.next * self.options().injections.len() - self.delivery.next_row()
    }

    /// Reads the vectors of the next cells, enough for about `rows` rows, and submits their jobs.
    pub fn submit(&mut self, reader: &mut Reader<B>, rows: usize) -> Result<()> {
        if self.next == 0 && self.options().controls.contains(&Control::None) {
            self.submit_clean(reader)?;
        }
        self.open_window(reader, rows)
    }

    /// Takes the outcome of a job, and ignores jobs of other sweeps. `Break` if the sink wants no more.
    pub fn take(
        &mut self,
        reader: &mut Reader<B>,
        ticket: Ticket,
        outcome: Outcome,
        sink: &mut dyn Sink,
    ) -> Result<ControlFlow<()>> {
        let Some((row, part)) = self.tickets.remove(&ticket) else {
            return Ok(ControlFlow::Continue(()));
        };
        let is_sample = matches!(part, Part::Sample(_));
        let flow = self.delivery.take(row, part, outcome, sink)?;
        if is_sample && let Some(ids) = self.delivery.chosen_ids(row) {
            self.submit_controls(reader, row, &ids)?;
        }
        let done = self.delivery.next_row() / self.options().injections.len();
        self.windows.retain(|window| window.items.end > done);
        Ok(flow)
    }

    fn progress(&mut self, decoded: usize, sink: &mut dyn Sink) -> ControlFlow<()> {
        self.delivery.progress(decoded, sink)
    }

    /// Ends the sweep and delivers the finished rows.
    pub fn finish(self, sink: &mut dyn Sink) -> Result<Swept> {
        self.delivery.finish(sink)
    }

    /// Ends the sweep and drops its unfinished jobs.
    pub fn cancel(self, reader: &mut Reader<B>) -> Result<()> {
        for ticket in self.tickets.into_keys() {
            reader.cancel(ticket)?;
        }
        Ok(())
    }

    /// Submits the continuation of the prompt without an injection.
    fn submit_clean(&mut self, reader: &mut Reader<B>) -> Result<()> {
        let backend = reader.model().backend();
        let width = reader.model().config().d_model;
        let job = Job {
            prompt: self.prompt,
            vectors: Embeddings::from_host(backend, &[], width)?,
            writes: Vec::new(),
            decoding: self.decoding.clone(),
            key: 0,
            clean: false,
            score: Vec::new(),
        };
        let ticket = reader.submit(job)?;
        self.tickets.insert(ticket, (0, Part::Clean));
        Ok(())
    }

    /// Moves the vectors of the next items to the device, and submits their jobs.
    fn open_window(&mut self, reader: &mut Reader<B>, rows: usize) -> Result<()> {
        let per_item = self.options().injections.len();
        let end = self.next + (rows / per_item).max(1);
        let items = self.next..end.min(self.delivery.source.len());
        let backend = reader.model().backend().clone();
        let vectors = self.mapped(&backend, &items)?;
        let random = if self.options().controls.contains(&Control::Random) {
            Some(self.random(&backend, &items, &vectors)?)
        } else {
            None
        };
        for item in items.clone() {
            for (injection, vectors) in vectors.iter().enumerate() {
                for sample in 0..self.options().samples {
                    let at = (item, injection, sample);
                    let job = self.job(at, (vectors, item - items.start), Vec::new());
                    let clean = self.options().scores_clean();
                    let ticket = reader.submit(Job { clean, ..job })?;
                    let row = item * per_item + injection;
                    self.tickets.insert(ticket, (row, Part::Sample(sample)));
                }
            }
        }
        self.next = items.end;
        self.windows.push_back(Window {
            items,
            vectors,
            random,
        });
        Ok(())
    }

    /// The vectors of some items and their partners for each injection, mapped if there is a map.
    fn mapped(&self, backend: &B, items: &Range<usize>) -> Result<Vec<Embeddings<B>>> {
        let (source, options) = (&self.delivery.source, self.options());
        let vectors = source.vectors(items.clone())?;
        let Some(map) = &options.map else {
            return Ok(vec![vectors; options.injections.len()]);
        };
        let partners = vectors.len() / options.vectors() / items.len();
        // A partner has the same layers.
        let of_items = items.clone().map(|item| source.layer(item));
        let each = of_items.flat_map(|layer| options.layers_of(layer));
        let sources: Vec<Option<usize>> = each.collect::<Vec<_>>().repeat(partners);
        let mut mapped: Vec<(usize, Embeddings<B>)> = Vec::new();
        for inject in &options.injections {
            let known = mapped.iter().find(|(layer, _)| *layer == inject.layer);
            let vectors = match known {
                Some((_, vectors)) => vectors.clone(),
                None => map.apply(backend, &vectors, &sources, inject.layer)?,
            };
            mapped.push((inject.layer, vectors));
        }
        Ok(mapped.into_iter().map(|(_, vectors)| vectors).collect())
    }

    /// For each row of some items, random vectors with the norms of its embeddings, chosen by the row's key.
    fn random(
        &self,
        backend: &B,
        items: &Range<usize>,
        vectors: &[Embeddings<B>],
    ) -> Result<Embeddings<B>> {
        let (source, options) = (&self.delivery.source, self.options());
        let width = vectors.first().map_or(0, Embeddings::width);
        let values = vectors.iter().map(|vectors| vectors.to_host(backend));
        let values: Vec<Vec<f32>> = values.collect::<Result<_>>()?;
        let each = options.vectors();
        let mut random = Vec::with_capacity(items.len() * vectors.len() * each * width);
        for (offset, item) in items.clone().enumerate() {
            for (inject, values) in options.injections.iter().zip(&values) {
                let key = source.key(item, inject, &options.prompt);
                let own = values[offset * each * width..]
                    .chunks_exact(width)
                    .take(each);
                for (at, vector) in own.enumerate() {
                    let key = key.of_sample(at);
                    random.extend(random_vector(vector, options.control_seed, key));
                }
            }
        }
        Embeddings::from_host(backend, &random, width)
    }

    /// Submits the controls of a row whose own text is known. They go before other rows, so that the row completes
    /// soon.
    fn submit_controls(&mut self, reader: &mut Reader<B>, row: usize, own: &[u32]) -> Result<()> {
        let per_item = self.options().injections.len();
        let (item, injection) = (row / per_item, row % per_item);
        let controls = self.options().controls.clone();
        for (at, control) in controls.iter().enumerate().rev() {
            let Some(window) = self.windows.iter().find(|w| w.items.contains(&item)) else {
                return Err(InterpError::Unanswered);
            };
            let offset = item - window.items.start;
            let vector = match control {
                Control::None => continue,
                Control::Random => window
                    .random
                    .as_ref()
                    .map(|random| (random, offset * per_item + injection)),
                Control::Shuffled => {
                    Some((&window.vectors[injection], window.items.len() + offset))
                }
            };
            let Some((vectors, vector)) = vector else {
                return Err(InterpError::Unanswered);
            };
            let job = self.job((item, injection, 0), (vectors, vector), own.to_vec());
            let ticket = reader.submit_next(job)?;
            self.tickets.insert(ticket, (row, Part::Control(at)));
        }
        Ok(())
    }

    /// A job that writes a cell's vector at all placeholders, or its vectors at one placeholder each.
    /// `cell` is the cell's index in `vectors`.
    fn job(
        &self,
        (item, injection, sample): (usize, usize, usize),
        (vectors, cell): (&Embeddings<B>, usize),
        score: Vec<u32>,
    ) -> Job<B> {
        let inject = &self.options().injections[injection];
        let each = self.options().vectors();
        let write = |(at, &position): (usize, &usize)| JobWrite {
            position,
            layer: inject.layer,
            vector: cell * each + at % each,
            mode: inject.mode,
            strength: inject.strength,
        };
        Job {
            prompt: self.prompt,
            vectors: vectors.clone(),
            writes: self
                .located
                .placeholders
                .iter()
                .enumerate()
                .map(write)
                .collect(),
            decoding: self.decoding.clone(),
            key: self
                .delivery
                .source
                .key(item, inject, &self.options().prompt)
                .of_sample(sample)
                .0,
            clean: false,
            score,
        }
    }
}
