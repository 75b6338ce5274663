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
    Control, Embeddings, InterpError, Job, JobWrite, LocatedPrompt, Options, PromptId, Reader,
    ReaderSize, Result, Sink, Swept, Ticket,
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
    /// For each injection the vectors of the items, then those of their partners: as many for each as a cell has tokens.
    vectors: Vec<Embeddings<B>>,
    /// Random ones, of each row as many; only where they are asked for.
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
                let is_own = matches!(part, Part::Own(_));
                let flow = delivery.take(row, part, outcome)?;
                if is_own && let Some(own) = delivery.own(row) {
                    self.submit_controls(row, own)?;
                }
                if flow.is_break() {
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
        let vectors = self.mapped(&items)?;
        let random = if self.options.controls.contains(&Control::Random) {
            Some(self.random(&items, &vectors)?)
        } else {
            None
        };
        for item in items.clone() {
            for (injection, vectors) in vectors.iter().enumerate() {
                for sample in 0..self.options.samples {
                    let at = (item, injection, sample);
                    let job = self.job(at, (vectors, item - items.start), Vec::new());
                    let clean = self.options.scores_clean();
                    let ticket = self.reader.submit(Job { clean, ..job })?;
                    let row = item * per_item + injection;
                    self.tickets.insert(ticket, (row, Part::Own(sample)));
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

    /// The vectors of some items and of their partners, for each injection: through the map, if there is one.
    fn mapped(&self, items: &Range<usize>) -> Result<Vec<Embeddings<B>>> {
        let vectors = self.source.vectors(items.clone())?;
        let Some(map) = &self.options.map else {
            return Ok(vec![vectors; self.options.injections.len()]);
        };
        let span = self.options.span;
        let partners = vectors.len() / span / items.len();
        // A partner is of the same layer.
        let of_items = items.clone().map(|item| self.source.layer(item));
        let each = of_items.flat_map(|layer| std::iter::repeat_n(layer, span));
        let sources: Vec<Option<usize>> = each.collect::<Vec<_>>().repeat(partners);
        let backend = self.reader.model().backend();
        let mut mapped: Vec<(usize, Embeddings<B>)> = Vec::new();
        for inject in &self.options.injections {
            let known = mapped.iter().find(|(layer, _)| *layer == inject.layer);
            let vectors = match known {
                Some((_, vectors)) => vectors.clone(),
                None => map.apply(backend, &vectors, &sources, inject.layer)?,
            };
            mapped.push((inject.layer, vectors));
        }
        Ok(mapped.into_iter().map(|(_, vectors)| vectors).collect())
    }

    /// For each row of some items vectors of the embeddings' norms in directions that the row's key settles.
    fn random(&self, items: &Range<usize>, vectors: &[Embeddings<B>]) -> Result<Embeddings<B>> {
        let backend = self.reader.model().backend();
        let width = self.reader.model().config().d_model;
        let values = vectors.iter().map(|vectors| vectors.to_host(backend));
        let values: Vec<Vec<f32>> = values.collect::<Result<_>>()?;
        let span = self.options.span;
        let mut random = Vec::with_capacity(items.len() * vectors.len() * span * width);
        for (offset, item) in items.clone().enumerate() {
            for (inject, values) in self.options.injections.iter().zip(&values) {
                let key = self.source.key(item, inject, &self.options.prompt);
                let own = values[offset * span * width..]
                    .chunks_exact(width)
                    .take(span);
                for (token, vector) in own.enumerate() {
                    let key = key.of_sample(token);
                    random.extend(random_vector(vector, self.options.control_seed, key));
                }
            }
        }
        Embeddings::from_host(backend, &random, width)
    }

    /// The controls of a row whose own text is known. They come before other rows, so that the row is soon complete.
    fn submit_controls(&mut self, row: usize, own: Vec<u32>) -> Result<()> {
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
                Control::Shuffled => {
                    Some((&window.vectors[injection], window.items.len() + offset))
                }
            };
            let Some((vectors, vector)) = vector else {
                return Err(InterpError::Unanswered);
            };
            let job = self.job((item, injection, 0), (vectors, vector), own.clone());
            let ticket = self.reader.submit_next(job)?;
            self.tickets.insert(ticket, (row, Part::Control(at)));
        }
        Ok(())
    }

    /// A job that writes the vector of a cell over all placeholders, or the vectors of its tokens over one each: those that
    /// are at `cell` among the vectors.
    fn job(
        &self,
        (item, injection, sample): (usize, usize, usize),
        (vectors, cell): (&Embeddings<B>, usize),
        score: Vec<u32>,
    ) -> Job<B> {
        let inject = &self.options.injections[injection];
        let span = self.options.span;
        let write = |(at, &position): (usize, &usize)| JobWrite {
            position,
            layer: inject.layer,
            vector: cell * span + at % span,
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
                .source
                .key(item, inject, &self.options.prompt)
                .of_sample(sample)
                .0,
            clean: false,
            score,
        }
    }
}
