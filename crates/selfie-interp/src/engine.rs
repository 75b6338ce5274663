//! The plan of a sweep: one clean pass of the interpretation prompt for all cells, a short pass of its own for
//! each cell, pooled decoding, and scoring against the clean prompt.
//!
//! With m tokens in the interpretation prompt, its first placeholder at s0, and an injection at layer k, a cell
//! shares positions below s0 at every layer, and all m positions at the layers below k. Its own pass is
//! (m - s0) rows through the layers from k on.
//!
//! A control that has a vector is one more pass and one more text in the same pool. It comes after its cell's text is
//! known, so that the pass that begins it also scores that text's first token.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use selfie_kernels::{Backend, Injection, KvLayout, Slot};
use selfie_llama::{
    Capture, Decoder, Decoding, Inject, KvCache, Llama, Sequence, Site, Workspace, branch_rows,
    shared_rows,
};

use crate::scoring::{Scorer, Scoring};
use crate::{Control, InjectAt, LocatedPrompt, Result};

/// Slots when the caller names no batch size: this part of the rows of a full pass. More make a decode step hardly
/// faster a row, and take memory.
const AUTO_SLOTS: usize = 8;

/// What a sweep needs to know before its first cell.
pub(crate) struct Setup<'a> {
    pub(crate) prompt: &'a LocatedPrompt,
    pub(crate) injections: &'a [InjectAt],
    pub(crate) decoding: Decoding,
    /// Whether each cell's text is scored against the clean prompt.
    pub(crate) score_clean: bool,
    /// Whether the clean prompt is continued too.
    pub(crate) clean_text: bool,
    pub(crate) batch_size: Option<usize>,
    /// Texts of the whole sweep, those of controls included.
    pub(crate) texts: usize,
    /// Length of the longest source prompt.
    pub(crate) longest_source: usize,
}

/// One embedding to interpret in one way.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Its index in the whole sweep.
    pub(crate) index: usize,
    /// The row of its vector.
    pub(crate) vector: usize,
    /// The index of its injection.
    pub(crate) injection: usize,
    /// Controls to run beside it, and the rows of their vectors.
    pub(crate) against: Vec<(Control, usize)>,
}

/// What came of the cell's own embedding.
pub(crate) struct Own {
    pub(crate) new_ids: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
    /// Log-probabilities of `new_ids` after the clean prompt; empty when they were not asked for.
    pub(crate) clean: Vec<f32>,
}

/// What came of a control of a cell.
pub(crate) struct Against {
    pub(crate) control: Control,
    pub(crate) new_ids: Vec<u32>,
    /// Log-probabilities of the cell's own text under the control.
    pub(crate) scores: Vec<f32>,
}

/// Who hears of a sweep's progress; `Break` ends it.
pub(crate) trait Listener {
    /// The clean prompt's continuation is known.
    fn clean_text(&mut self, new_ids: Vec<u32>) -> Result<ControlFlow<()>>;
    /// A cell's own text is finished.
    fn own(&mut self, index: usize, own: Own) -> Result<ControlFlow<()>>;
    /// A control of a cell is finished.
    fn against(&mut self, index: usize, against: Against) -> Result<ControlFlow<()>>;
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
    scorer: Scorer<Scored>,
    pending: VecDeque<Task>,
    /// What the text in a slot is.
    flights: HashMap<u32, Flight>,
}

/// A text that waits for a slot.
struct Task {
    index: usize,
    vector: usize,
    injection: usize,
    role: Role,
}

enum Role {
    /// Of the cell's own vector; its controls come after it.
    Own { against: Vec<(Control, usize)> },
    /// Of a control, under which the cell's own text is scored.
    Against { control: Control, own: Vec<u32> },
}

/// A text that is being decoded.
enum Flight {
    Clean,
    Own {
        task: Task,
    },
    Against {
        index: usize,
        control: Control,
        /// The cell's own text, and how likely its first token is under the control.
        own: Vec<u32>,
        first: f32,
    },
}

/// A decoded text that another is being scored beside.
enum Scored {
    Own(usize, Sequence),
    Against(usize, Control, Sequence),
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
                KvCache::slots_that_fit(backend, &layout, budget)
                    .clamp(1, backend.pass_rows() / AUTO_SLOTS)
            }
        };
        layout.slots = layout.slots.min(setup.texts);
        let pass_rows = backend
            .pass_rows()
            .min((layout.slots * own).max(setup.longest_source))
            .max(layout.slots)
            .max(own);
        let longest = positions.max(setup.longest_source);
        let decoder = Decoder::new(setup.decoding.clone())?;

        let mut wants = Vec::new();
        for inject in setup.injections.iter().filter(|inject| inject.layer > 0) {
            for position in setup.first_placeholder()..m {
                let site = Site::HiddenStates(inject.layer);
                wants.push((site, Slot::Prefix(0), position as u32));
            }
        }
        let mut engine = Self {
            ws: Workspace::new(model, pass_rows, longest)?,
            cache: KvCache::new(backend, layout)?,
            clean: Capture::new(backend, &wants, config.d_model)?,
            clean_last: backend.rows(1, config.d_model)?,
            decoder,
            scorer: Scorer::new(),
            pending: VecDeque::new(),
            flights: HashMap::new(),
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
        jobs: Vec<Job>,
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        self.pending.extend(jobs.into_iter().map(Task::from));
        if std::mem::take(&mut self.setup.clean_text) && self.start_clean_text(listener)?.is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        loop {
            let free = self.cache.free_slots();
            let waiting = self.pending.len();
            // Joining in groups keeps their passes wide; a few slots stand empty meanwhile.
            let group = waiting.min(self.cache.layout().slots.div_ceil(4));
            if free >= group && group > 0 {
                let joining = self.pending.drain(..free.min(waiting)).collect();
                if self.admit(vectors, joining, listener)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            if self.decoder.active() == 0 && self.scorer.is_empty() {
                if self.pending.is_empty() {
                    return Ok(ControlFlow::Continue(()));
                }
                continue;
            }
            if self.step(listener)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// The clean prompt's own continuation joins the pool.
    fn start_clean_text(&mut self, listener: &mut dyn Listener) -> Result<ControlFlow<()>> {
        let (model, m) = (self.model, self.setup.prompt.ids.len());
        let seen = vec![m; model.config().n_layers];
        let slot = self.cache.take(model.backend(), &seen)?;
        self.flights.insert(slot, Flight::Clean);
        let residual = self.ws.residual_mut();
        model.backend().clear(residual);
        model.backend().gather(&self.clean_last, &[0], residual)?;
        // It draws as the first cell does, where tokens are drawn at all.
        let sequence = Sequence::new(0, slot, m);
        let done = self
            .decoder
            .join(model, &mut self.ws, vec![sequence], &[0])?;
        let stop = listener.generated(1);
        self.finish(done, stop, listener)
    }

    /// The prompt passes of tasks that there are free slots for.
    fn admit(
        &mut self,
        vectors: &B::Rows,
        tasks: Vec<Task>,
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        let own = self.setup.prompt.ids.len() - self.setup.first_placeholder();
        let cells_a_pass = (self.ws.max_rows() / own).max(1);
        let mut alike: Vec<Vec<Task>> = Vec::new();
        alike.resize_with(self.setup.injections.len(), Vec::new);
        for task in tasks {
            alike[task.injection].push(task);
        }
        for (mut tasks, inject) in alike.into_iter().zip(self.setup.injections) {
            while !tasks.is_empty() {
                let rest = tasks.split_off(cells_a_pass.min(tasks.len()));
                let joining = tasks.len();
                let done = self.pass_prompts(vectors, tasks, *inject)?;
                let stop = listener.generated(joining);
                if self.finish(done, stop, listener)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                tasks = rest;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// One pass of the own rows of some texts that inject alike; returns those that end at their first token.
    fn pass_prompts(
        &mut self,
        vectors: &B::Rows,
        tasks: Vec<Task>,
        inject: InjectAt,
    ) -> Result<Vec<Sequence>> {
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
        for task in &tasks {
            let slot = self.cache.take(backend, &seen)?;
            for &position in placeholders {
                writes.push(Injection {
                    row: rows.len() + position - s0,
                    vector: task.vector,
                    mode: inject.mode,
                    strength: inject.strength,
                });
            }
            rows.extend(branch_rows(slot, s0, &ids[s0..]));
            sequences.push(Sequence::new(task.index as u64, slot, m));
        }
        if inject.layer > 0 {
            let site = Site::HiddenStates(inject.layer);
            let clean = (s0..m)
                .map(|position| self.clean.index((site, Slot::Prefix(0), position as u32)))
                .collect::<Result<Vec<_>, _>>()?;
            let residual = self.ws.residual_mut();
            backend.clear(residual);
            backend.gather(self.clean.rows(), &clean.repeat(tasks.len()), residual)?;
        }
        let mut probe = Inject::new(inject.layer, vectors, &writes);
        let layers = inject.layer..n_layers;
        model.forward(&mut self.ws, &mut self.cache, &rows, layers, &mut probe)?;
        probe.finish()?;
        let last: Vec<usize> = (1..=tasks.len()).map(|cell| cell * own - 1).collect();
        self.take_off(tasks, &sequences, &last)?;
        Ok(self.decoder.join(model, &mut self.ws, sequences, &last)?)
    }

    /// Notes what the texts are that begin after `rows` of the last pass; under a control, the first token of the cell's
    /// own text is scored here.
    fn take_off(&mut self, tasks: Vec<Task>, sequences: &[Sequence], rows: &[usize]) -> Result<()> {
        let (mut at, mut targets) = (Vec::new(), Vec::new());
        for (task, &row) in tasks.iter().zip(rows) {
            if let Role::Against { own, .. } = &task.role {
                at.push(row);
                targets.push(own[0]);
            }
        }
        let mut scores = match at.is_empty() {
            true => Vec::new(),
            false => self.model.score(&mut self.ws, &at, &targets)?,
        }
        .into_iter();
        for (task, sequence) in tasks.into_iter().zip(sequences) {
            let index = task.index;
            let flight = match task.role {
                Role::Own { .. } => Flight::Own { task },
                Role::Against { control, own } => Flight::Against {
                    index,
                    control,
                    own,
                    first: scores.next().unwrap_or(f32::NAN),
                },
            };
            self.flights.insert(sequence.slot, flight);
        }
        Ok(())
    }

    /// One pass: the next token of every sequence, and as many rows to score as fit beside them.
    fn step(&mut self, listener: &mut dyn Listener) -> Result<ControlFlow<()>> {
        let active = self.decoder.active();
        let m = self.setup.prompt.ids.len();
        let (extra, targets) = self.scorer.rows(m, self.ws.max_rows() - active);
        let (model, ws, cache) = (self.model, &mut self.ws, &mut self.cache);
        let done = self.decoder.step(model, ws, cache, &extra)?;
        let mut flow = listener.generated(active);
        if !extra.is_empty() {
            let rows: Vec<usize> = (active..active + extra.len()).collect();
            let scores = model.score(ws, &rows, &targets)?;
            for scoring in self.scorer.scored(scores) {
                if self.deliver(scoring, listener)?.is_break() {
                    flow = ControlFlow::Break(());
                }
            }
        }
        self.finish(done, flow, listener)
    }

    /// Delivers texts that need no more passes, and queues the others for scoring. `flow` is what it returns when nobody
    /// objects.
    fn finish(
        &mut self,
        done: Vec<Sequence>,
        mut flow: ControlFlow<()>,
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        let mut own = Vec::new();
        for sequence in done {
            let Some(flight) = self.flights.remove(&sequence.slot) else {
                continue;
            };
            let heard = match flight {
                Flight::Clean => {
                    self.cache.release(sequence.slot);
                    listener.clean_text(sequence.new_ids)?
                }
                Flight::Against {
                    index,
                    control,
                    own,
                    first,
                } => {
                    // The scored text takes the decoded one's place in the slot.
                    let slot = sequence.slot;
                    let whose = Scored::Against(index, control, sequence);
                    self.score(Scoring::new(whose, slot, own, first), listener)?
                }
                Flight::Own { task } => {
                    self.pend_controls(task, &sequence.new_ids);
                    own.push(sequence);
                    ControlFlow::Continue(())
                }
            };
            if heard.is_break() {
                flow = heard;
            }
        }
        if self.finish_own(own, listener)?.is_break() {
            flow = ControlFlow::Break(());
        }
        Ok(flow)
    }

    /// The controls of a cell come before other cells, so that its row is soon complete.
    fn pend_controls(&mut self, task: Task, own: &[u32]) {
        let Role::Own { against } = task.role else {
            return;
        };
        for (control, vector) in against.into_iter().rev() {
            self.pending.push_front(Task {
                index: task.index,
                vector,
                injection: task.injection,
                role: Role::Against {
                    control,
                    own: own.to_vec(),
                },
            });
        }
    }

    /// Scores the cells' own texts against the clean prompt, whose last row gives the first token's score.
    fn finish_own(
        &mut self,
        mut done: Vec<Sequence>,
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        let backend = self.model.backend();
        let mut flow = ControlFlow::Continue(());
        while !done.is_empty() {
            let rest = done.split_off(self.ws.max_rows().min(done.len()));
            let mut firsts = vec![f32::NAN; done.len()];
            if self.setup.score_clean {
                let tokens: Vec<u32> = done.iter().map(|sequence| sequence.new_ids[0]).collect();
                let residual = self.ws.residual_mut();
                backend.clear(residual);
                backend.gather(&self.clean_last, &vec![0; tokens.len()], residual)?;
                let rows: Vec<usize> = (0..tokens.len()).collect();
                firsts = self.model.score(&mut self.ws, &rows, &tokens)?;
            }
            for (sequence, first) in done.into_iter().zip(firsts) {
                let (slot, ids) = (sequence.slot, sequence.new_ids.clone());
                let whose = Scored::Own(sequence.id as usize, sequence);
                if self.setup.score_clean {
                    let seen = vec![self.setup.prompt.ids.len(); self.model.config().n_layers];
                    self.cache.share(backend, slot, &seen)?;
                }
                let scoring = Scoring::new(whose, slot, ids, first);
                let heard = match self.setup.score_clean {
                    true => self.score(scoring, listener)?,
                    false => self.deliver(scoring, listener)?,
                };
                if heard.is_break() {
                    flow = heard;
                }
            }
            done = rest;
        }
        Ok(flow)
    }

    /// Queues a text, or delivers one whose only token is scored.
    fn score(
        &mut self,
        scoring: Scoring<Scored>,
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        if scoring.is_complete() {
            return self.deliver(scoring, listener);
        }
        self.scorer.push(scoring);
        Ok(ControlFlow::Continue(()))
    }

    fn deliver(
        &mut self,
        scoring: Scoring<Scored>,
        listener: &mut dyn Listener,
    ) -> Result<ControlFlow<()>> {
        self.cache.release(scoring.slot);
        let (whose, scores) = scoring.into_scores();
        match whose {
            Scored::Own(index, sequence) => {
                let own = Own {
                    new_ids: sequence.new_ids,
                    logprobs: sequence.logprobs,
                    clean: match self.setup.score_clean {
                        true => scores,
                        false => Vec::new(),
                    },
                };
                listener.own(index, own)
            }
            Scored::Against(index, control, sequence) => {
                let against = Against {
                    control,
                    new_ids: sequence.new_ids,
                    scores,
                };
                listener.against(index, against)
            }
        }
    }
}

impl From<Job> for Task {
    fn from(job: Job) -> Self {
        Self {
            index: job.index,
            vector: job.vector,
            injection: job.injection,
            role: Role::Own {
                against: job.against,
            },
        }
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
