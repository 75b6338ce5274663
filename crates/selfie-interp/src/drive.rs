//! Driving a reader through a sweep: what is submitted when, and what becomes of it.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
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
pub(crate) fn drive<B: Backend, S: Sink>(
    reader: &Llama<B>,
    tokenizer: &Tokenizer,
    source: &dyn Source<B>,
    options: &Options,
    sink: &mut S,
) -> Result<Swept> {
    let located = options.locate(reader.config(), tokenizer)?;
    let texts = options.texts(source.len());
    let mut delivery = Delivery::new(tokenizer, options, texts, source, sink);
    if source.len() == 0 {
        return delivery.finish();
    }
    let size = ReaderSize {
        batch_size: options.batch_size,
        texts: Some(texts),
        clean: options.scores_clean(),
        ..ReaderSize::new(&located, options.max_new_tokens)
    };
    let mut reader = Reader::new(reader, &size)?;
    let layers: Vec<usize> = options.injections.iter().map(|at| at.layer).collect();
    let prompt = reader.add_prompt(&located.ids, &layers)?;
    let mut sweep = Sweep {
        source,
        options,
        located,
        prompt,
        decoding: Arc::new(options.decoding()),
        reader,
        windows: VecDeque::new(),
        next: 0,
        tickets: HashMap::new(),
    };
    let ended = sweep.run(&mut delivery);
    // What is done is delivered whatever happened.
    let swept = delivery.finish();
    ended?;
    Ok(Swept {
        stats: sweep.reader.stats(),
        ..swept?
    })
}

struct Sweep<'a, B: Backend> {
    source: &'a dyn Source<B>,
    options: &'a Options,
    located: LocatedPrompt,
    prompt: PromptId,
    decoding: Arc<Decoding>,
    reader: Reader<B>,
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

impl<B: Backend> Sweep<'_, B> {
    fn run<S: Sink>(&mut self, delivery: &mut Delivery<'_, B, S>) -> Result<()> {
        if self.options.controls.contains(&Control::None) {
            self.submit_clean()?;
        }
        loop {
            // The next window is there before the last texts of this one have ended, so that passes stay wide.
            while self.next < self.source.len() && self.reader.waiting() < self.reader.batch_size()
            {
                self.open_window()?;
            }
            if self.reader.is_idle() {
                return Ok(());
            }
            for (ticket, outcome) in self.reader.step()? {
                let Some((row, part)) = self.tickets.remove(&ticket) else {
                    continue;
                };
                if let (Part::Own, Outcome::Text(text)) = (part, &outcome) {
                    self.submit_controls(row, &text.new_ids)?;
                }
                if delivery.take(row, part, outcome)?.is_break() {
                    return Ok(());
                }
            }
            if delivery.progress(self.reader.stats().decoded).is_break() {
                return Ok(());
            }
            let done = delivery.next_row() / self.options.injections.len();
            self.windows.retain(|window| window.items.end > done);
        }
    }

    /// The continuation of the prompt as it is.
    fn submit_clean(&mut self) -> Result<()> {
        let backend = self.reader.model().backend();
        let width = self.reader.model().config().d_model;
        let job = Job {
            prompt: self.prompt,
            vectors: Embeddings::from_host(backend, &[], width)?,
            writes: Vec::new(),
            decoding: self.decoding.clone(),
            key: 0,
            clean: false,
            score: Vec::new(),
        };
        let ticket = self.reader.submit(job)?;
        self.tickets.insert(ticket, (0, Part::Clean));
        Ok(())
    }

    /// Brings the vectors of the next items to the device, and submits their texts.
    fn open_window(&mut self) -> Result<()> {
        let per_item = self.options.injections.len();
        let end = self.next + (WINDOW / per_item).max(1);
        let items = self.next..end.min(self.source.len());
        let vectors = self.source.vectors(items.clone())?;
        let random = if self.options.controls.contains(&Control::Random) {
            Some(self.random(&items, &vectors)?)
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
                let clean = self.options.scores_clean();
                let ticket = self.reader.submit(Job { clean, ..job })?;
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
    fn random(&self, items: &Range<usize>, vectors: &Embeddings<B>) -> Result<Embeddings<B>> {
        let backend = self.reader.model().backend();
        let (values, width) = (vectors.to_host(backend)?, vectors.width());
        let mut random = Vec::with_capacity(items.len() * self.options.injections.len() * width);
        for (item, vector) in items.clone().zip(values.chunks_exact(width)) {
            for inject in &self.options.injections {
                let key = self.source.key(item, inject, &self.options.prompt);
                random.extend(random_vector(vector, self.options.control_seed, key));
            }
        }
        Embeddings::from_host(backend, &random, width)
    }

    /// The controls of a row whose own text is known. They come before other rows, so that the row is soon complete.
    fn submit_controls(&mut self, row: usize, own: &[u32]) -> Result<()> {
        let per_item = self.options.injections.len();
        let (item, injection) = (row / per_item, row % per_item);
        for (at, control) in self.options.controls.iter().enumerate().rev() {
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
            let ticket = self.reader.submit_next(job)?;
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
        let inject = &self.options.injections[injection];
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
            key: self.source.key(item, inject, &self.options.prompt).0,
            clean: false,
            score,
        }
    }
}
