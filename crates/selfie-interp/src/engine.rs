//! The plan of a sweep: one clean pass of the interpretation prompt for all cells, a short pass of its own for
//! each cell, pooled decoding, and scoring against the clean prompt.
//!
//! With m tokens in the interpretation prompt, its first placeholder at s0, and an injection at layer k, a cell
//! shares positions below s0 at every layer, and all m positions at the layers below k. Its own pass is
//! (m - s0) rows through the layers from k on.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use selfie_kernels::{Backend, BatchRow, Injection, KvLayout, Slot};
use selfie_llama::{
    Capture, Decoder, Decoding, Inject, KvCache, Llama, Sequence, Site, Workspace, branch_rows,
    shared_rows,
};

use crate::{InjectAt, LocatedPrompt, Result};

/// Rows of a pass: from here on a pass is bound by arithmetic, not by reading the weights.
const PASS_ROWS: usize = 512;

/// Slots when the caller names no batch size: these, or as many as make a decode step wide. More make it no faster a
/// row, and take memory.
const AUTO_SLOTS: usize = 64;

/// What a sweep needs to know before its first cell.
pub(crate) struct Setup<'a> {
    pub(crate) prompt: &'a LocatedPrompt,
    pub(crate) injections: &'a [InjectAt],
    pub(crate) decoding: Decoding,
    pub(crate) relevancy: bool,
    pub(crate) batch_size: Option<usize>,
    /// Cells of the whole sweep.
    pub(crate) cells: usize,
    /// Length of the longest source prompt.
    pub(crate) longest_source: usize,
}

/// One embedding to interpret in one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// Its index in the whole sweep.
    pub(crate) index: usize,
    /// The row of its vector.
    pub(crate) vector: usize,
    /// The index of its injection.
    pub(crate) injection: usize,
}

/// What became of a job.
pub(crate) struct Finished {
    pub(crate) index: usize,
    pub(crate) new_ids: Vec<u32>,
    pub(crate) relevancy: Vec<f32>,
}

/// Who hears of a sweep's progress; `Break` ends it.
pub(crate) trait Listener {
    /// A cell is finished.
    fn finished(&mut self, finished: Finished) -> Result<ControlFlow<()>>;
    /// So many more tokens have been generated.
    fn generated(&mut self, tokens: usize) -> ControlFlow<()>;
}

/// Buffers, cache and clean states of a sweep, made once.
pub(crate) struct Engine<'a, B: Backend> {
    model: &'a Llama<B>,
    setup: Setup<'a>,
    pub(crate) ws: Workspace<B>,
    cache: KvCache<B>,
    /// The clean prompt's rows from the first placeholder on, at each inject layer above 0.
    clean: Capture<B>,
    /// The clean prompt's last row, before the final norm: `[1, d_model]`.
    clean_last: B::Rows,
    decoder: Decoder,
    scoring: VecDeque<Scoring>,
}

/// A sequence whose tokens are being scored against the clean prompt.
struct Scoring {
    sequence: Sequence,
    /// Log-probabilities without the injection, as far as they are known.
    without: Vec<f32>,
}

impl<'a, B: Backend> Engine<'a, B> {
    /// Allocates everything and runs the interpretation prompt once, clean.
    pub(crate) fn new(model: &'a Llama<B>, setup: Setup<'a>) -> Result<Self> {
        let (config, backend) = (model.config(), model.backend());
        let m = setup.prompt.ids.len();
        let own = m - setup.first_placeholder();
        let positions = m + setup.decoding.max_new_tokens;

        let mut layout = setup.layout(model);
        layout.slots = match setup.batch_size {
            Some(slots) => slots,
            None => {
                // Half of what is free: the buffers of the passes, the vectors and the rows need room too.
                let budget = backend.memory()?.available / 2;
                let wide = backend.wide_rows().max(AUTO_SLOTS);
                KvCache::slots_that_fit(backend, &layout, budget).clamp(1, wide)
            }
        };
        layout.slots = layout.slots.min(setup.cells);
        let pass_rows = PASS_ROWS
            .min((layout.slots * own).max(setup.longest_source))
            .max(layout.slots)
            .max(own);
        let longest = positions.max(setup.longest_source);
        let decoder = Decoder::new(setup.decoding.clone())?;

        let mut wants = Vec::new();
        for inject in setup.injections.iter().filter(|inject| inject.layer > 0) {
            for position in setup.first_placeholder()..m {
                let site = Site::HiddenStates(inject.layer);
                wants.push((site, Slot::Shared, position as u32));
            }
        }
        let mut engine = Self {
            ws: Workspace::new(model, pass_rows, longest)?,
            cache: KvCache::new(backend, layout)?,
            clean: Capture::new(backend, &wants, config.d_model)?,
            clean_last: backend.rows(1, config.d_model)?,
            decoder,
            scoring: VecDeque::new(),
            model,
            setup,
        };
        engine.pass_clean_prompt()?;
        Ok(engine)
    }

    fn pass_clean_prompt(&mut self) -> Result<()> {
        let model = self.model;
        let layers = 0..model.config().n_layers;
        let rows: Vec<_> = shared_rows(0, &self.setup.prompt.ids).collect();
        let mut last = 0;
        for rows in rows.chunks(self.ws.max_rows()) {
            let (ws, cache) = (&mut self.ws, &mut self.cache);
            model.forward(ws, cache, rows, layers.clone(), &mut self.clean)?;
            last = rows.len() - 1;
        }
        let backend = model.backend();
        backend.gather(self.ws.residual(), &[last], &mut self.clean_last)?;
        Ok(())
    }

    /// Interprets the jobs; `vectors` is `[vectors, d_model]`.
    pub(crate) fn run(
        &mut self,
        vectors: &B::Rows,
        jobs: &[Job],
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        let mut pending = jobs;
        loop {
            let free = self.cache.free_slots();
            // Joining in groups keeps their passes wide; a few slots stand empty meanwhile.
            let group = pending.len().min(self.cache.layout().slots.div_ceil(4));
            if free >= group && group > 0 {
                let (joining, rest) = pending.split_at(free.min(pending.len()));
                pending = rest;
                if self.admit(vectors, joining, listener)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if self.decoder.active() == 0 && self.scoring.is_empty() {
                if pending.is_empty() {
                    return Ok(ControlFlow::Continue(()));
                }
                continue;
            }
            if self.step(listener)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// The prompt passes of jobs that there are free slots for.
    fn admit(
        &mut self,
        vectors: &B::Rows,
        jobs: &[Job],
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        let own = self.setup.prompt.ids.len() - self.setup.first_placeholder();
        let cells_a_pass = (self.ws.max_rows() / own).max(1);
        for (at, inject) in self.setup.injections.iter().enumerate() {
            let jobs: Vec<Job> = jobs
                .iter()
                .copied()
                .filter(|job| job.injection == at)
                .collect();
            for jobs in jobs.chunks(cells_a_pass) {
                let done = self.pass_prompts(vectors, jobs, *inject)?;
                let stop = listener.generated(jobs.len());
                if self.finish(done, listener)?.is_break() || stop.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// One pass of the own rows of some cells that inject alike; returns those that end at their first token.
    fn pass_prompts(
        &mut self,
        vectors: &B::Rows,
        jobs: &[Job],
        inject: InjectAt,
    ) -> Result<Vec<Scoring>> {
        let (model, backend) = (self.model, self.model.backend());
        let n_layers = model.config().n_layers;
        let LocatedPrompt {
            ids, placeholders, ..
        } = self.setup.prompt;
        let (s0, m) = (self.setup.first_placeholder(), ids.len());
        let own = m - s0;

        let seen: Vec<usize> = (0..n_layers)
            .map(|layer| if layer < inject.layer { m } else { s0 })
            .collect();
        let (mut rows, mut writes, mut sequences) = (Vec::new(), Vec::new(), Vec::new());
        for job in jobs {
            let slot = self.cache.take(backend, &seen)?;
            for &position in placeholders {
                writes.push(Injection {
                    row: rows.len() + position - s0,
                    vector: job.vector,
                    mode: inject.mode,
                    strength: inject.strength,
                });
            }
            rows.extend(branch_rows(slot, s0, &ids[s0..]));
            sequences.push(Sequence::new(job.index as u64, slot, m));
        }
        if inject.layer > 0 {
            let site = Site::HiddenStates(inject.layer);
            let clean = (s0..m)
                .map(|position| self.clean.index((site, Slot::Shared, position as u32)))
                .collect::<Result<Vec<_>, _>>()?;
            let residual = self.ws.residual_mut();
            backend.clear(residual);
            backend.gather(self.clean.rows(), &clean.repeat(jobs.len()), residual)?;
        }
        let mut probe = Inject::new(inject.layer, vectors, &writes);
        let layers = inject.layer..n_layers;
        model.forward(&mut self.ws, &mut self.cache, &rows, layers, &mut probe)?;
        probe.finish()?;
        let last: Vec<usize> = (1..=jobs.len()).map(|cell| cell * own - 1).collect();
        let done = self.decoder.join(model, &mut self.ws, sequences, &last)?;
        Ok(done.into_iter().map(Scoring::new).collect())
    }

    /// One pass: the next token of every sequence, and as many rows to score as fit beside them.
    fn step(&mut self, listener: &mut dyn Listener) -> Result<ControlFlow<()>> {
        let active = self.decoder.active();
        let m = self.setup.prompt.ids.len();
        let mut room = self.ws.max_rows() - active;
        let (mut extra, mut targets, mut counts) = (Vec::<BatchRow>::new(), Vec::new(), Vec::new());
        for scoring in &self.scoring {
            let ids = &scoring.sequence.new_ids;
            // The first token is scored from the clean prompt, the last one predicts nothing.
            let first = scoring.without.len() - 1;
            let end = (ids.len() - 1).min(first + room);
            extra.extend(branch_rows(
                scoring.sequence.slot,
                m + first,
                &ids[first..end],
            ));
            targets.extend_from_slice(&ids[first + 1..=end]);
            counts.push(end - first);
            room -= end - first;
            if room == 0 {
                break;
            }
        }
        let (model, ws, cache) = (self.model, &mut self.ws, &mut self.cache);
        let done = self.decoder.step(model, ws, cache, &extra)?;
        if !extra.is_empty() {
            let rows: Vec<usize> = (active..active + extra.len()).collect();
            let mut scores = model.score(ws, &rows, &targets)?.into_iter();
            for (scoring, count) in self.scoring.iter_mut().zip(counts) {
                scoring.without.extend(scores.by_ref().take(count));
            }
        }
        let mut ended: Vec<Scoring> = done.into_iter().map(Scoring::new).collect();
        while self.scoring.front().is_some_and(Scoring::is_complete) {
            ended.extend(self.scoring.pop_front());
        }
        let stop = listener.generated(active);
        if self.finish(ended, listener)?.is_break() || stop.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Delivers sequences that need no more passes, and queues the others for scoring.
    fn finish(
        &mut self,
        mut ended: Vec<Scoring>,
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        if self.setup.relevancy {
            self.score_first_tokens(&mut ended)?;
        }
        let mut flow = ControlFlow::Continue(());
        for scoring in ended {
            if self.setup.relevancy && !scoring.is_complete() {
                let m = self.setup.prompt.ids.len();
                let seen = vec![m; self.model.config().n_layers];
                let slot = scoring.sequence.slot;
                self.cache.share(self.model.backend(), slot, &seen)?;
                self.scoring.push_back(scoring);
                continue;
            }
            self.cache.release(scoring.sequence.slot);
            if listener.finished(scoring.into())?.is_break() {
                flow = ControlFlow::Break(());
            }
        }
        Ok(flow)
    }

    /// Scores the first token of each sequence that is new here, from the clean prompt's last row.
    fn score_first_tokens(&mut self, ended: &mut [Scoring]) -> Result<()> {
        let backend = self.model.backend();
        let mut new: Vec<&mut Scoring> = ended
            .iter_mut()
            .filter(|scoring| scoring.without.is_empty())
            .collect();
        for new in new.chunks_mut(self.ws.max_rows()) {
            let first = |scoring: &&mut Scoring| scoring.sequence.new_ids.first().copied();
            let tokens: Vec<u32> = new.iter().filter_map(first).collect();
            let residual = self.ws.residual_mut();
            backend.clear(residual);
            backend.gather(&self.clean_last, &vec![0; tokens.len()], residual)?;
            let rows: Vec<usize> = (0..tokens.len()).collect();
            let scores = self.model.score(&mut self.ws, &rows, &tokens)?;
            for (scoring, score) in new.iter_mut().zip(scores) {
                scoring.without.push(score);
            }
        }
        Ok(())
    }
}

impl Setup<'_> {
    fn first_placeholder(&self) -> usize {
        self.prompt.placeholders.iter().copied().min().unwrap_or(0)
    }

    /// The cache without slots. A branch holds a cell's own rows and all new tokens but the last, which is
    /// never fed; below the inject layer it has no own rows of the prompt.
    fn layout<B: Backend>(&self, model: &Llama<B>) -> KvLayout {
        let config = model.config();
        let m = self.prompt.ids.len();
        let lowest = self.injections.iter().map(|inject| inject.layer).min();
        let new = (self.decoding.max_new_tokens - 1).max(1);
        let own = |layer| match lowest {
            Some(lowest) if layer < lowest => new,
            _ => m - self.first_placeholder() + new,
        };
        config.kv_layout(m, (0..config.n_layers).map(own).collect(), 0)
    }
}

impl Scoring {
    fn new(sequence: Sequence) -> Self {
        Self {
            sequence,
            without: Vec::new(),
        }
    }

    fn is_complete(&self) -> bool {
        self.without.len() == self.sequence.new_ids.len()
    }
}

impl From<Scoring> for Finished {
    fn from(scoring: Scoring) -> Self {
        let with = scoring.sequence.logprobs.iter();
        let pairs = with.zip(&scoring.without);
        Self {
            index: scoring.sequence.id as usize,
            relevancy: pairs
                .map(|(with, without)| (with.exp() - without.exp()).abs())
                .collect(),
            new_ids: scoring.sequence.new_ids,
        }
    }
}
