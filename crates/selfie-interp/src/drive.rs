//! Driving a reader through a sweep: what is submitted when, and what becomes of it.

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

/// Rows of a sweep whose vectors are on the device at a time.
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
    // What is done is delivered whatever happened.
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
        // The next window is there before the last texts of this one have ended, so that passes stay wide.
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

/// Cells that become rows by way of a [`Reader`], which other sweeps may share.
///
/// Its rows are those of [`interpret`](crate::interpret), to the bit, whichever jobs run beside it (on a GPU: in
/// deterministic mode).
pub struct Sweep<'a, B: Backend> {
    delivery: Delivery<'a, B>,
    located: LocatedPrompt,
    prompt: PromptId,
    decoding: Arc<Decoding>,
    /// Windows of which rows may still be under way.
    windows: VecDeque<Window<B>>,
    /// The first item that is not in a window yet.
    next: usize,
    /// What each text is for.
    tickets: HashMap<Ticket, (usize, Part)>,
}

/// Items whose vectors are on the device.
struct Window<B: Backend> {
    items: Range<usize>,
    /// Those of the items, then those of their partners.
    vectors: Embeddings<B>,
    /// Random ones, a row each; only where they are asked for.
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

    /// Whether all cells have been submitted.
    pub fn is_submitted(&self) -> bool {
        self.next == self.delivery.source.len()
    }

    /// Whether nothing of it is left to do.
    pub fn is_done(&self) -> bool {
        self.is_submitted() && self.tickets.is_empty()
    }

    /// Whether a job is one of its own.
    pub fn has(&self, ticket: Ticket) -> bool {
        self.tickets.contains_key(&ticket)
    }

    /// Rows that have been submitted, and not handed out.
    pub fn under_way(&self) -> usize {
        self.next * self.delivery.options.injections.len() - self.delivery.next_row()
    }

    /// Reads the vectors of the next cells, those of about `rows` rows, and submits their texts.
    pub fn submit(&mut self, reader: &mut Reader<B>, rows: usize) -> Result<()> {
        if self.next == 0 && self.delivery.options.controls.contains(&Control::None) {
            self.submit_clean(reader)?;
        }
        self.open_window(reader, rows)
    }

    /// Takes what came of a job; one of another sweep is passed over. `Break` when the sink wants no more.
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
        if let (Part::Own, Outcome::Text(text)) = (part, &outcome) {
            self.submit_controls(reader, row, &text.new_ids)?;
        }
        let flow = self.delivery.take(row, part, outcome, sink)?;
        let done = self.delivery.next_row() / self.delivery.options.injections.len();
        self.windows.retain(|window| window.items.end > done);
        Ok(flow)
    }

    fn progress(&mut self, decoded: usize, sink: &mut dyn Sink) -> ControlFlow<()> {
        self.delivery.progress(decoded, sink)
    }

    /// Ends it: hands out the rows that are done.
    pub fn finish(self, sink: &mut dyn Sink) -> Result<Swept> {
        self.delivery.finish(sink)
    }

    /// Ends it: drops what is under way.
    pub fn cancel(self, reader: &mut Reader<B>) -> Result<()> {
        for ticket in self.tickets.into_keys() {
            reader.cancel(ticket)?;
        }
        Ok(())
    }

    /// The continuation of the prompt as it is.
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

    /// Brings the vectors of the next items to the device, and submits their texts.
    fn open_window(&mut self, reader: &mut Reader<B>, rows: usize) -> Result<()> {
        let per_item = self.delivery.options.injections.len();
        let end = self.next + (rows / per_item).max(1);
        let items = self.next..end.min(self.delivery.source.len());
        let vectors = self.delivery.source.vectors(items.clone())?;
        let random = if self.delivery.options.controls.contains(&Control::Random) {
            Some(self.random(reader.model().backend(), &items, &vectors)?)
        } else {
            None
        };
        for item in items.clone() {
            for injection in 0..per_item {
                let job = self.job(
                    (item, injection),
                    (&vectors, item - items.start),
                    Vec::new(),
                );
                let clean = self.delivery.options.scores_clean();
                let ticket = reader.submit(Job { clean, ..job })?;
                let row = item * per_item + injection;
                self.tickets.insert(ticket, (row, Part::Own));
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

    /// For each row of some items a vector of the embedding's norm in a direction that the row's key settles.
    fn random(
        &self,
        backend: &B,
        items: &Range<usize>,
        vectors: &Embeddings<B>,
    ) -> Result<Embeddings<B>> {
        let (values, width) = (vectors.to_host(backend)?, vectors.width());
        let mut random =
            Vec::with_capacity(items.len() * self.delivery.options.injections.len() * width);
        for (item, vector) in items.clone().zip(values.chunks_exact(width)) {
            for inject in &self.delivery.options.injections {
                let key = self
                    .delivery
                    .source
                    .key(item, inject, &self.delivery.options.prompt);
                random.extend(random_vector(
                    vector,
                    self.delivery.options.control_seed,
                    key,
                ));
            }
        }
        Embeddings::from_host(backend, &random, width)
    }

    /// The controls of a row whose own text is known. They come before other rows, so that the row is soon complete.
    fn submit_controls(&mut self, reader: &mut Reader<B>, row: usize, own: &[u32]) -> Result<()> {
        let per_item = self.delivery.options.injections.len();
        let (item, injection) = (row / per_item, row % per_item);
        for (at, control) in self
            .delivery
            .options
            .controls
            .clone()
            .iter()
            .enumerate()
            .rev()
        {
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
                Control::Shuffled => Some((&window.vectors, window.items.len() + offset)),
            };
            let Some((vectors, vector)) = vector else {
                return Err(InterpError::Unanswered);
            };
            let job = self.job((item, injection), (vectors, vector), own.to_vec());
            let ticket = reader.submit_next(job)?;
            self.tickets.insert(ticket, (row, Part::Control(at)));
        }
        Ok(())
    }

    /// A job that writes one vector over all placeholders.
    fn job(
        &self,
        (item, injection): (usize, usize),
        (vectors, vector): (&Embeddings<B>, usize),
        score: Vec<u32>,
    ) -> Job<B> {
        let inject = &self.delivery.options.injections[injection];
        let write = |&position: &usize| JobWrite {
            position,
            layer: inject.layer,
            vector,
            mode: inject.mode,
            strength: inject.strength,
        };
        Job {
            prompt: self.prompt,
            vectors: vectors.clone(),
            writes: self.located.placeholders.iter().map(write).collect(),
            decoding: self.decoding.clone(),
            key: self
                .delivery
                .source
                .key(item, inject, &self.delivery.options.prompt)
                .0,
            clean: false,
            score,
        }
    }
}
