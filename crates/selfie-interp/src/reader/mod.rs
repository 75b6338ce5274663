//! The reader: a model that puts vectors into words.
//!
//! A reader is created once and takes *jobs*: an interpretation prompt, what to write into it, how to decode the text,
//! and what to score. [`Reader::submit`] queues a job; [`Reader::step`] runs one pass over all running jobs and returns
//! the finished ones.
//!
//! An interpretation prompt of m tokens runs once, without writes, as a prefix that all jobs share. A job whose first
//! write is at position s0 and layer k sees m positions of the prefix below layer k, and s0 from there on. It starts
//! from the prefix's rows at layer k, and runs m - s0 rows through the layers from k up. Texts decode together. When
//! texts end, waiting jobs join in groups, so that their prompt passes stay wide. Scoring rides along with the decode
//! steps. Where few texts decode, a pass also checks guesses at how they go on.

mod active;
mod drafts;
mod job;
mod prompt;
mod scored;
mod size;

use std::collections::{BTreeMap, VecDeque};

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Answer, Capture, Feed, Llama, Pass, Session, Site, Want, Write};

pub use job::{Job, JobWrite, Outcome, PromptId, Text, Ticket};
pub use size::ReaderSize;

use crate::{InterpError, Result};
use active::ActiveJob;
use drafts::Drafts;
use prompt::ReaderPrompt;
use scored::Scored;

/// Counts what a [`Reader`] has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderStats {
    /// Decoded tokens.
    pub decoded: usize,
    /// Passes that continue texts, after those that begin them.
    pub passes: usize,
    /// Guessed tokens that these passes have checked.
    pub drafted: usize,
    /// Guessed tokens that were right. Each saves its text a pass.
    pub accepted: usize,
    /// Tokens to be scored on a prompt without writes.
    pub scored_tokens: usize,
    /// Rows run to score them: texts with a common beginning share rows.
    pub scored_rows: usize,
}

/// A model that reads vectors; see the [module documentation](self).
pub struct Reader<B: Backend> {
    model: Llama<B>,
    size: ReaderSize,
    session: Session<B>,
    prompts: BTreeMap<PromptId, ReaderPrompt<B>>,
    next_prompt: usize,
    waiting: VecDeque<(Ticket, Job<B>)>,
    /// Running jobs, at most `decoding` of them.
    active: Vec<ActiveJob<B>>,
    decoding: usize,
    scored: Scored,
    drafts: Drafts,
    finished: Vec<(Ticket, Outcome)>,
    next_ticket: u64,
    stats: ReaderStats,
}

impl<B: Backend> Reader<B> {
    /// Allocates buffers and cache.
    pub fn new(model: &Llama<B>, size: &ReaderSize) -> Result<Self> {
        for (what, number) in [
            ("the number of interpretation prompts", size.prompts),
            ("max_new_tokens", size.max_new_tokens),
            ("the batch size", size.batch_size.unwrap_or(1)),
        ] {
            if number == 0 {
                return Err(InterpError::Zero { what });
            }
        }
        let (decoding, scored, session) = size.session(model)?;
        Ok(Self {
            model: model.clone(),
            size: size.clone(),
            session: Session::new(model, &session)?,
            prompts: BTreeMap::new(),
            next_prompt: 0,
            waiting: VecDeque::new(),
            active: Vec::new(),
            decoding,
            scored: Scored::new(scored),
            drafts: Drafts::new(if size.drafts {
                model.backend().draft_rows().min(session.rows)
            } else {
                0
            }),
            finished: Vec::new(),
            next_ticket: 0,
            stats: ReaderStats::default(),
        })
    }

    /// The model that reads.
    pub fn model(&self) -> &Llama<B> {
        &self.model
    }

    /// What has run so far.
    pub fn stats(&self) -> ReaderStats {
        self.stats
    }

    /// Adds an interpretation prompt of token ids and runs it once. Jobs whose first write is at one of `layers` need
    /// no second pass.
    pub fn add_prompt(&mut self, ids: &[u32], layers: &[usize]) -> Result<PromptId> {
        self.check_prompt(ids)?;
        let prefix = self.session.open_prefix()?;
        self.begin_prompt(prefix, ids, layers)
    }

    /// [`add_prompt`](Self::add_prompt) for jobs that read with one of the model's adapters ([`Llama::with_lora`]), or
    /// with none; the default is the last adapter. Jobs with different adapters decode together.
    pub fn add_prompt_of(
        &mut self,
        adapter: Option<usize>,
        ids: &[u32],
        layers: &[usize],
    ) -> Result<PromptId> {
        self.check_prompt(ids)?;
        let prefix = self.session.open_prefix()?;
        self.session.set_adapter(prefix, adapter)?;
        self.begin_prompt(prefix, ids, layers)
    }

    fn begin_prompt(&mut self, prefix: Slot, ids: &[u32], layers: &[usize]) -> Result<PromptId> {
        let prompt = ReaderPrompt::new(&mut self.session, prefix, ids, layers)?;
        let id = PromptId(self.next_prompt);
        self.next_prompt += 1;
        self.prompts.insert(id, prompt);
        Ok(id)
    }

    /// Removes an interpretation prompt, which makes room for another. An error while it has jobs.
    pub fn remove_prompt(&mut self, prompt: PromptId) -> Result<()> {
        let waits = self.waiting.iter().any(|(_, job)| job.prompt == prompt);
        let runs = self.active.iter().any(|active| active.job.prompt == prompt);
        if waits || runs || self.scored.waits_for(prompt) {
            return Err(InterpError::PromptInUse);
        }
        if let Some(removed) = self.prompts.remove(&prompt) {
            self.scored.forget(&mut self.session, prompt)?;
            self.drafts.forget(prompt);
            self.session.close(removed.prefix)?;
        }
        Ok(())
    }

    fn check_prompt(&self, ids: &[u32]) -> Result<()> {
        if !ids.is_empty() && ids.len() <= self.size.prompt_tokens {
            return Ok(());
        }
        Err(InterpError::ReaderRoom {
            what: "tokens of an interpretation prompt",
            found: ids.len(),
            room: self.size.prompt_tokens,
        })
    }

    /// Queues a job after the others.
    pub fn submit(&mut self, job: Job<B>) -> Result<Ticket> {
        self.check(&job)?;
        let ticket = self.ticket();
        self.waiting.push_back((ticket, job));
        Ok(ticket)
    }

    /// Queues a job before the others.
    pub fn submit_next(&mut self, job: Job<B>) -> Result<Ticket> {
        self.check(&job)?;
        let ticket = self.ticket();
        self.waiting.push_front((ticket, job));
        Ok(ticket)
    }

    /// Drops a job, whatever its state; it has no outcome. Other jobs are not affected.
    pub fn cancel(&mut self, ticket: Ticket) -> Result<()> {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        let at = self
            .active
            .iter()
            .position(|active| active.ticket == ticket);
        if let Some(at) = at {
            let active = self.active.remove(at);
            self.session.close(active.slot)?;
        }
        self.scored.cancel(ticket);
        self.finished.retain(|(finished, _)| *finished != ticket);
        Ok(())
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// The number of jobs that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The maximum number of texts that decode together.
    pub fn batch_size(&self) -> usize {
        self.decoding
    }

    /// Whether there is nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.active.is_empty()
            && self.scored.is_idle()
            && self.finished.is_empty()
    }

    /// Starts the jobs that there is room for, runs one pass over all running jobs, and returns the finished ones in
    /// the order in which they finished.
    ///
    /// An error comes from the device or from wrong use, and ends the reader. A job whose logits are not finite is not
    /// an error but an [`Outcome`].
    pub fn step(&mut self) -> Result<Vec<(Ticket, Outcome)>> {
        self.admit()?;
        self.pass()?;
        Ok(std::mem::take(&mut self.finished))
    }

    /// Starts jobs. They join in groups, so that their passes stay wide; a few slots stay empty meanwhile.
    fn admit(&mut self) -> Result<()> {
        loop {
            let free = self.decoding - self.active.len();
            let group = self.waiting.len().min(self.decoding.div_ceil(4));
            if group == 0 || free < group {
                return Ok(());
            }
            let joining: Vec<_> = self.waiting.drain(..free.min(self.waiting.len())).collect();
            // Jobs that start at the same layer of the same prompt run together.
            let mut groups: BTreeMap<(PromptId, Option<usize>), Vec<_>> = BTreeMap::new();
            for (ticket, job) in joining {
                let place = (job.prompt, job.first_layer());
                groups.entry(place).or_default().push((ticket, job));
            }
            for ((prompt, layer), jobs) in groups {
                match layer {
                    Some(layer) => self.begin(prompt, layer, jobs)?,
                    None => self.begin_clean(prompt, jobs)?,
                }
            }
        }
    }

    /// Runs the prompt passes of jobs whose first write is at `layer`.
    fn begin(&mut self, prompt: PromptId, layer: usize, jobs: Vec<(Ticket, Job<B>)>) -> Result<()> {
        if let Some(prompt) = self.prompts.get_mut(&prompt) {
            prompt.ensure_layer(&mut self.session, layer)?;
        }
        let mut left = jobs.into_iter().peekable();
        while left.peek().is_some() {
            let ready = &self.prompts[&prompt];
            let m = ready.ids.len();
            // Take as many as one pass holds. Otherwise the session would cut a job in two, which costs a pass.
            let (mut started, mut rows) = (Vec::<ActiveJob<B>>::new(), 0);
            // Jobs with the same writes share the first one's rows, and continue from its last row.
            let mut followers: Vec<(usize, ActiveJob<B>)> = Vec::new();
            while let Some((_, job)) = left.peek() {
                let first = job.first_position();
                let shares = started
                    .last()
                    .is_some_and(|active| active.job.shares_rows_with(job));
                let more = if shares { 0 } else { m - first };
                if rows > 0 && rows + more > self.session.size().rows {
                    break;
                }
                rows += more;
                let Some((ticket, job)) = left.next() else {
                    break;
                };
                let slot = self.session.open_from(ready.prefix, layer, m, first)?;
                let active = ActiveJob::new(ticket, job, slot, &ready.ids);
                if shares {
                    followers.push((started.len() - 1, active));
                } else {
                    started.push(active);
                }
            }
            let (vectors, writes) = gather_writes(&self.model, &started)?;
            let mut states = Vec::new();
            let feeds: Vec<Feed<'_>> = started
                .iter()
                .map(|active| {
                    let first = active.job.first_position();
                    states.extend(first..m);
                    active.prompt_feed(&ready.ids[first..])
                })
                .collect();
            let pass = Pass {
                layers: layer..self.model.config().n_layers,
                states: ready.states(layer).map(|rows| (rows, &states[..])),
                writes: Some((&vectors, &writes)),
                ..Pass::new(&self.model, &feeds)
            };
            let mut last = last_rows(&self.model, &started, &followers, m)?;
            let answers = self.session.run(&pass, &mut last)?;
            drop(feeds);
            if !followers.is_empty() {
                let mut asks = Vec::with_capacity(followers.len());
                for (leader, active) in &followers {
                    let leader = started[*leader].slot;
                    self.session.fork(leader, active.slot, m)?;
                    let row = last.index((Site::Output, leader, m as u32 - 1))?;
                    asks.push((row, active.prompt_feed(&[]).ask));
                }
                let answers = self.session.answer(last.rows(), &asks)?;
                drop(asks);
                let followers = followers.into_iter().map(|(_, active)| active).collect();
                self.advance_all(followers, answers)?;
            }
            self.advance_all(started, answers)?;
        }
        Ok(())
    }

    /// Starts jobs without writes: they continue from the prompt's last row.
    fn begin_clean(&mut self, prompt: PromptId, jobs: Vec<(Ticket, Job<B>)>) -> Result<()> {
        let ready = &self.prompts[&prompt];
        let mut started = Vec::new();
        for (ticket, job) in jobs {
            let slot = self.session.open_on(ready.prefix, ready.ids.len())?;
            started.push(ActiveJob::new(ticket, job, slot, &ready.ids));
        }
        let asks: Vec<_> = started
            .iter()
            .map(|active| (0, active.prompt_feed(&[]).ask))
            .collect();
        let answers = self.session.answer(&ready.last, &asks)?;
        drop(asks);
        self.advance_all(started, answers)
    }

    /// Gives jobs their first token.
    fn advance_all(&mut self, jobs: Vec<ActiveJob<B>>, answers: Vec<Answer>) -> Result<()> {
        for (job, answer) in jobs.into_iter().zip(answers) {
            self.stats.decoded += 1;
            self.advance(job, &answer)?;
        }
        Ok(())
    }

    /// Runs one pass: the next token of every text, and as much scoring as fits beside them.
    fn pass(&mut self) -> Result<()> {
        let mut room = self.session.size().rows.saturating_sub(self.active.len());
        // A job that scores a text in its slot may have to wait for room, unless nothing else runs.
        let (mut running, mut deferred) = (Vec::new(), Vec::new());
        for job in std::mem::take(&mut self.active) {
            let more = job.rows() - 1;
            if more <= room || running.is_empty() {
                room = room.saturating_sub(more);
                running.push(job);
            } else {
                deferred.push(job);
            }
        }
        let alone = running.is_empty();
        let most = self.session.size().rows - self.decoding;
        let (session, prompts) = (&mut self.session, &self.prompts);
        self.scored.plan(session, prompts, room, most, alone)?;
        let decoded: usize = running.iter().map(ActiveJob::rows).sum();
        let scored: usize = self.scored.feeds().map(|feed| feed.tokens.len()).sum();
        self.drafts.guess(&mut running, decoded + scored);
        let mut feeds: Vec<Feed<'_>> = running.iter().map(ActiveJob::feed).collect();
        feeds.extend(self.scored.feeds());
        let answers = if feeds.is_empty() {
            Vec::new()
        } else {
            self.session.run(&Pass::new(&self.model, &feeds), &mut ())?
        };
        drop(feeds);
        let mut answers = answers.into_iter();
        self.active = deferred;
        self.stats.passes += usize::from(running.iter().any(ActiveJob::is_decoding));
        for job in running {
            let Some(answer) = answers.next() else {
                return Err(InterpError::Unanswered);
            };
            if job.is_decoding() {
                self.stats.decoded += 1 + answer.accepted.len();
                self.stats.drafted += job.drafted();
                self.stats.accepted += answer.accepted.len();
            }
            self.advance(job, &answer)?;
        }
        self.scored
            .take(&mut self.session, answers, &mut self.finished)?;
        (self.stats.scored_tokens, self.stats.scored_rows) = self.scored.counts();
        Ok(())
    }

    /// Takes an answer. The job then goes on, is queued for scoring, or finishes.
    fn advance(&mut self, mut job: ActiveJob<B>, answer: &Answer) -> Result<()> {
        let done = job.take(answer, &mut self.session)?;
        if !done {
            self.active.push(job);
            return Ok(());
        }
        self.session.close(job.slot)?;
        let (ticket, job, outcome) = job.finish();
        if let Outcome::Text(text) = &outcome {
            self.drafts.keep(job.prompt, &text.new_ids);
        }
        match outcome {
            Outcome::Text(text) if job.clean => self.scored.push(ticket, job.prompt, text),
            outcome => self.finished.push((ticket, outcome)),
        }
        Ok(())
    }

    fn check(&self, job: &Job<B>) -> Result<()> {
        let Some(prompt) = self.prompts.get(&job.prompt) else {
            return Err(InterpError::PromptRange {
                prompt: job.prompt.0,
                prompts: self.prompts.len(),
            });
        };
        let tokens = prompt.ids.len();
        for write in &job.writes {
            let n_layers = self.model.config().n_layers;
            if write.layer >= n_layers {
                return Err(InterpError::InjectLayer {
                    layer: write.layer,
                    n_layers,
                });
            }
            for (what, found, room) in [
                ("the written position", write.position, tokens),
                ("the written vector", write.vector, job.vectors.len()),
            ] {
                if found >= room {
                    return Err(InterpError::ReaderRoom { what, found, room });
                }
            }
            if !write.strength.is_finite() {
                return Err(InterpError::Strength {
                    strength: write.strength,
                });
            }
        }
        if !job.writes.is_empty() {
            job.vectors.check_width(self.model.config().d_model)?;
        }
        let written = tokens - job.first_position();
        for (what, found, room) in [
            (
                "max_new_tokens",
                job.decoding.max_new_tokens,
                self.size.max_new_tokens,
            ),
            ("tokens to score", job.score.len(), self.size.max_new_tokens),
            (
                "tokens from the first write on",
                if job.writes.is_empty() { 0 } else { written },
                self.size.written_tokens,
            ),
        ] {
            if found > room {
                return Err(InterpError::ReaderRoom { what, found, room });
            }
        }
        if job.decoding.max_new_tokens == 0 {
            return Err(InterpError::Zero {
                what: "max_new_tokens",
            });
        }
        if job.clean && !self.size.clean {
            return Err(InterpError::ReaderRoom {
                what: "texts to score on the prompt without writes (ReaderSize::clean)",
                found: 1,
                room: 0,
            });
        }
        Ok(())
    }
}

/// Captures the last rows of jobs that share their rows with followers.
fn last_rows<B: Backend>(
    model: &Llama<B>,
    jobs: &[ActiveJob<B>],
    followers: &[(usize, ActiveJob<B>)],
    m: usize,
) -> Result<Capture<B>> {
    let mut leaders: Vec<usize> = followers.iter().map(|(leader, _)| *leader).collect();
    leaders.dedup();
    let want = |leader: usize| (Site::Output, jobs[leader].slot, m as u32 - 1);
    let wants: Vec<Want> = leaders.into_iter().map(want).collect();
    Ok(Capture::new(
        model.backend(),
        &wants,
        model.config().d_model,
    )?)
}

/// The vectors that some jobs write, in one buffer, and the writes in the session's form.
fn gather_writes<B: Backend>(
    model: &Llama<B>,
    jobs: &[ActiveJob<B>],
) -> Result<(B::Rows, Vec<Write>)> {
    let backend = model.backend();
    let most: usize = jobs.iter().map(|active| active.job.writes.len()).sum();
    let mut vectors = backend.rows(most, model.config().d_model)?;
    let mut writes = Vec::with_capacity(most);
    for active in jobs {
        // A vector is stored once, even if it is written at several placeholders.
        let mut copied: Vec<(usize, usize)> = Vec::new();
        for write in &active.job.writes {
            let known = copied.iter().find(|(vector, _)| *vector == write.vector);
            let vector = match known {
                Some(&(_, at)) => at,
                None => {
                    let at = backend.len(&vectors);
                    let rows = active.job.vectors.rows();
                    backend.gather(rows, &[write.vector], &mut vectors)?;
                    copied.push((write.vector, at));
                    at
                }
            };
            writes.push(Write {
                slot: active.slot,
                position: write.position as u32,
                layer: write.layer,
                vector,
                mode: write.mode,
                strength: write.strength,
            });
        }
    }
    Ok((vectors, writes))
}
