//! The reader: a model that puts vectors into words.
//!
//! A reader is made once and takes *jobs*: an interpretation prompt, what is written into it, how the text is decoded, and
//! what is scored. [`Reader::submit`] queues a job, [`Reader::step`] runs one pass of everything that is under way and
//! hands out what is finished.
//!
//! An interpretation prompt of m tokens runs once, clean, as a prefix that all jobs share. A job whose first write is at
//! position s0 and layer k sees m of its positions below layer k, and s0 from there on; it starts from the clean
//! rows at layer k, and runs m - s0 rows through the layers from k up. Texts decode together; one that ends leaves, and others
//! join in groups, so that their prompt passes stay wide. What is scored rides along with the decode steps.

mod flight;
mod job;
mod prompt;
mod scored;

use std::collections::{BTreeMap, VecDeque};

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Answer, Capture, Feed, Llama, Pass, Session, SessionSize, Site, Want, Write};

pub use job::{Job, JobWrite, Outcome, PromptId, Text, Ticket};

use crate::{InterpError, LocatedPrompt, Result};
use flight::Flight;
use prompt::ReaderPrompt;
use scored::Scored;

/// Texts at a time when the caller names no batch size: this part of the rows of a full pass. More make a decode step
/// hardly faster a row, and take memory.
const AUTO_SLOTS: usize = 8;
/// Texts that stay in the cache after they are scored, for each that decodes: those to come share what they begin with.
const SCORED: usize = 1;

/// What a [`Reader`] makes room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderSize {
    /// Interpretation prompts at a time.
    pub prompts: usize,
    /// Tokens of the longest of them.
    pub prompt_tokens: usize,
    /// The most tokens from the first one that is written to the end of a prompt.
    pub written_tokens: usize,
    /// Most new tokens of a text.
    pub max_new_tokens: usize,
    /// Texts that are decoded together; `None` chooses by memory.
    pub batch_size: Option<usize>,
    /// Texts in all, where that is known: no more room is made than they need.
    pub texts: Option<usize>,
    /// Whether texts are scored against the prompt as it is ([`Job::clean`]).
    pub clean: bool,
}

impl ReaderSize {
    /// Room for one prompt, and texts of up to `max_new_tokens`.
    pub fn new(prompt: &LocatedPrompt, max_new_tokens: usize) -> Self {
        let tokens = prompt.ids.len();
        let first = prompt.placeholders.iter().copied().min().unwrap_or(0);
        Self {
            prompts: 1,
            prompt_tokens: tokens,
            written_tokens: tokens - first,
            max_new_tokens,
            batch_size: None,
            texts: None,
            clean: true,
        }
    }

    /// Slots to decode in, and slots for scored texts, with what the session needs for them.
    fn session<B: Backend>(&self, model: &Llama<B>) -> Result<(usize, usize, SessionSize)> {
        let backend = model.backend();
        // The last new token is never fed.
        let own = self.written_tokens + self.max_new_tokens.max(2) - 1;
        let mut size = SessionSize {
            prefixes: vec![self.prompt_tokens; self.prompts],
            own: vec![own; model.config().n_layers],
            ..SessionSize::new(model, 1, self.prompt_tokens + self.max_new_tokens)
        };
        let each = if self.clean { 1 + SCORED } else { 1 };
        let mut decoding = match self.batch_size {
            Some(slots) => slots,
            None => {
                // Half of what is free: the buffers of the passes, the vectors and the rows need room too.
                let fit = size.slots_that_fit(model, backend.memory()?.available / 2) / each;
                fit.min(backend.pass_rows() / AUTO_SLOTS)
            }
        };
        decoding = decoding.min(self.texts.unwrap_or(usize::MAX)).max(1);
        // One that is continued and one that continues it are there together.
        let scored = if self.clean {
            let most = self.texts.unwrap_or(usize::MAX).max(2);
            SCORED.saturating_mul(decoding).max(2).min(most)
        } else {
            0
        };
        size.slots = decoding.saturating_add(scored);
        size.rows = backend
            .pass_rows()
            .min(decoding.saturating_mul(self.written_tokens))
            .max(decoding.saturating_add(self.max_new_tokens.min(backend.pass_rows())))
            .max(self.written_tokens);
        Ok((decoding, scored, size))
    }
}

/// Counts of what a [`Reader`] has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderStats {
    /// Tokens that were decoded.
    pub decoded: usize,
    /// Tokens that were scored against a prompt as it is, asked for by the texts.
    pub scored_tokens: usize,
    /// Rows that were run for them: texts that begin alike share them.
    pub scored_rows: usize,
}

/// A model that reads vectors: see the [module's documentation](self).
pub struct Reader<B: Backend> {
    model: Llama<B>,
    size: ReaderSize,
    session: Session<B>,
    prompts: BTreeMap<PromptId, ReaderPrompt<B>>,
    next_prompt: usize,
    waiting: VecDeque<(Ticket, Job<B>)>,
    /// Texts in slots, at most `decoding` of them.
    flights: Vec<Flight<B>>,
    decoding: usize,
    scored: Scored,
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
            flights: Vec::new(),
            decoding,
            scored: Scored::new(scored),
            finished: Vec::new(),
            next_ticket: 0,
            stats: ReaderStats::default(),
        })
    }

    /// The model that reads.
    pub fn model(&self) -> &Llama<B> {
        &self.model
    }

    /// What has been run so far.
    pub fn stats(&self) -> ReaderStats {
        self.stats
    }

    /// Takes an interpretation prompt of token ids, and runs it once. Jobs that begin to write at one of `layers` need no
    /// second pass.
    pub fn add_prompt(&mut self, ids: &[u32], layers: &[usize]) -> Result<PromptId> {
        self.check_prompt(ids)?;
        let prefix = self.session.open_prefix()?;
        self.begin_prompt(prefix, ids, layers)
    }

    /// [`add_prompt`](Self::add_prompt) for jobs that the model reads with one of its adapters
    /// ([`Llama::with_lora`]), or with none; without this it is the last one. Jobs with and without decode together.
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

    /// Forgets an interpretation prompt, so that there is room for another; an error while there are jobs of it.
    pub fn remove_prompt(&mut self, prompt: PromptId) -> Result<()> {
        let waits = self.waiting.iter().any(|(_, job)| job.prompt == prompt);
        let flies = self
            .flights
            .iter()
            .any(|flight| flight.job.prompt == prompt);
        if waits || flies || self.scored.waits_for(prompt) {
            return Err(InterpError::PromptInUse);
        }
        if let Some(removed) = self.prompts.remove(&prompt) {
            self.scored.forget(&mut self.session, prompt)?;
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

    /// Queues a job behind the others.
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

    /// Drops a job, wherever it is: nothing comes of it any more. Others do not notice.
    pub fn cancel(&mut self, ticket: Ticket) -> Result<()> {
        self.waiting.retain(|(waiting, _)| *waiting != ticket);
        let flight = self.flights.iter().position(|f| f.ticket == ticket);
        if let Some(flight) = flight {
            let flight = self.flights.remove(flight);
            self.session.close(flight.slot)?;
        }
        self.scored.cancel(ticket);
        self.finished.retain(|(finished, _)| *finished != ticket);
        Ok(())
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Jobs that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Texts that are decoded together at the most.
    pub fn batch_size(&self) -> usize {
        self.decoding
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.flights.is_empty()
            && self.scored.is_idle()
            && self.finished.is_empty()
    }

    /// Begins jobs that there is room for, runs one pass of all that is under way, and returns what has finished, in the
    /// order in which it did.
    ///
    /// An error ends the reader: it is one of the device or of its use. A job whose logits are no finite numbers is no error
    /// but an [`Outcome`].
    pub fn step(&mut self) -> Result<Vec<(Ticket, Outcome)>> {
        self.admit()?;
        self.pass()?;
        Ok(std::mem::take(&mut self.finished))
    }

    /// Begins jobs. They join in groups, so that their passes stay wide; a few slots stand empty meanwhile.
    fn admit(&mut self) -> Result<()> {
        loop {
            let free = self.decoding - self.flights.len();
            let group = self.waiting.len().min(self.decoding.div_ceil(4));
            if group == 0 || free < group {
                return Ok(());
            }
            let joining: Vec<_> = self.waiting.drain(..free.min(self.waiting.len())).collect();
            // Those that begin at the same place run together.
            let mut alike: BTreeMap<(PromptId, Option<usize>), Vec<_>> = BTreeMap::new();
            for (ticket, job) in joining {
                let place = (job.prompt, job.first_layer());
                alike.entry(place).or_default().push((ticket, job));
            }
            for ((prompt, layer), jobs) in alike {
                match layer {
                    Some(layer) => self.begin(prompt, layer, jobs)?,
                    None => self.begin_clean(prompt, jobs)?,
                }
            }
        }
    }

    /// The passes of jobs whose first write is at `layer`.
    fn begin(&mut self, prompt: PromptId, layer: usize, jobs: Vec<(Ticket, Job<B>)>) -> Result<()> {
        if let Some(prompt) = self.prompts.get_mut(&prompt) {
            prompt.need_layer(&mut self.session, layer)?;
        }
        let mut left = jobs.into_iter().peekable();
        while left.peek().is_some() {
            let ready = &self.prompts[&prompt];
            let m = ready.ids.len();
            // As many as one pass holds; the session would cut a job in two otherwise, which costs a pass.
            let (mut flights, mut rows) = (Vec::<Flight<B>>::new(), 0);
            // Texts of the same writes share the rows of the first of them, and what follows its last row.
            let mut others: Vec<(usize, Flight<B>)> = Vec::new();
            while let Some((_, job)) = left.peek() {
                let first = job.first_position();
                let alike = flights
                    .last()
                    .is_some_and(|flight| flight.job.shares_rows_with(job));
                let more = if alike { 0 } else { m - first };
                if rows > 0 && rows + more > self.session.size().rows {
                    break;
                }
                rows += more;
                let Some((ticket, job)) = left.next() else {
                    break;
                };
                let slot = self.session.open_from(ready.prefix, layer, m, first)?;
                let flight = Flight::new(ticket, job, slot, &ready.ids);
                if alike {
                    others.push((flights.len() - 1, flight));
                } else {
                    flights.push(flight);
                }
            }
            let (vectors, writes) = gather_writes(&self.model, &flights)?;
            let mut states = Vec::new();
            let feeds: Vec<Feed<'_>> = flights
                .iter()
                .map(|flight| {
                    let first = flight.job.first_position();
                    states.extend(first..m);
                    flight.prompt_feed(&ready.ids[first..])
                })
                .collect();
            let pass = Pass {
                layers: layer..self.model.config().n_layers,
                states: ready.states(layer).map(|rows| (rows, &states[..])),
                writes: Some((&vectors, &writes)),
                ..Pass::new(&self.model, &feeds)
            };
            let mut last = last_rows(&self.model, &flights, &others, m)?;
            let answers = self.session.run(&pass, &mut last)?;
            drop(feeds);
            if !others.is_empty() {
                let mut asks = Vec::with_capacity(others.len());
                for (leader, flight) in &others {
                    let leader = flights[*leader].slot;
                    self.session.fork(leader, flight.slot, m)?;
                    let row = last.index((Site::Output, leader, m as u32 - 1))?;
                    asks.push((row, flight.prompt_feed(&[]).ask));
                }
                let answers = self.session.answer(last.rows(), &asks)?;
                drop(asks);
                let others = others.into_iter().map(|(_, flight)| flight).collect();
                self.take_off(others, answers)?;
            }
            self.take_off(flights, answers)?;
        }
        Ok(())
    }

    /// Jobs without writes: they go on from the prompt's last row.
    fn begin_clean(&mut self, prompt: PromptId, jobs: Vec<(Ticket, Job<B>)>) -> Result<()> {
        let ready = &self.prompts[&prompt];
        let mut flights = Vec::new();
        for (ticket, job) in jobs {
            let slot = self.session.open_on(ready.prefix, ready.ids.len())?;
            flights.push(Flight::new(ticket, job, slot, &ready.ids));
        }
        let asks: Vec<_> = flights
            .iter()
            .map(|f| (0, f.prompt_feed(&[]).ask))
            .collect();
        let answers = self.session.answer(&ready.last, &asks)?;
        drop(asks);
        self.take_off(flights, answers)
    }

    /// Texts have their first token: those that are not done decode on.
    fn take_off(&mut self, flights: Vec<Flight<B>>, answers: Vec<Answer>) -> Result<()> {
        for (flight, answer) in flights.into_iter().zip(answers) {
            self.stats.decoded += 1;
            self.advance(flight, &answer)?;
        }
        Ok(())
    }

    /// One pass: the next token of every text, and as much to score as fits beside them.
    fn pass(&mut self) -> Result<()> {
        let mut room = self.session.size().rows.saturating_sub(self.flights.len());
        // A text that is scored in its slot may have to wait for room, but not when nothing else is run.
        let (mut running, mut resting) = (Vec::new(), Vec::new());
        for flight in std::mem::take(&mut self.flights) {
            let more = flight.rows() - 1;
            if more <= room || running.is_empty() {
                room = room.saturating_sub(more);
                running.push(flight);
            } else {
                resting.push(flight);
            }
        }
        let alone = running.is_empty();
        let most = self.session.size().rows - self.decoding;
        let (session, prompts) = (&mut self.session, &self.prompts);
        self.scored.plan(session, prompts, room, most, alone)?;
        let mut feeds: Vec<Feed<'_>> = running.iter().map(Flight::feed).collect();
        feeds.extend(self.scored.feeds());
        let answers = if feeds.is_empty() {
            Vec::new()
        } else {
            self.session.run(&Pass::new(&self.model, &feeds), &mut ())?
        };
        drop(feeds);
        let mut answers = answers.into_iter();
        self.flights = resting;
        for flight in running {
            let Some(answer) = answers.next() else {
                return Err(InterpError::Unanswered);
            };
            self.stats.decoded += usize::from(flight.is_decoding());
            self.advance(flight, &answer)?;
        }
        self.scored
            .take(&mut self.session, answers, &mut self.finished)?;
        (self.stats.scored_tokens, self.stats.scored_rows) = self.scored.counts();
        Ok(())
    }

    /// Takes an answer, and puts the text where it belongs next: on, to be scored, or out.
    fn advance(&mut self, mut flight: Flight<B>, answer: &Answer) -> Result<()> {
        let done = flight.take(answer, &mut self.session)?;
        if !done {
            self.flights.push(flight);
            return Ok(());
        }
        self.session.close(flight.slot)?;
        let (ticket, job, outcome) = flight.finish();
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
                what: "texts to score against the prompt as it is (ReaderSize::clean)",
                found: 1,
                room: 0,
            });
        }
        Ok(())
    }
}

/// A probe that keeps the last rows of the flights that others share theirs with.
fn last_rows<B: Backend>(
    model: &Llama<B>,
    flights: &[Flight<B>],
    others: &[(usize, Flight<B>)],
    m: usize,
) -> Result<Capture<B>> {
    let mut leaders: Vec<usize> = others.iter().map(|(leader, _)| *leader).collect();
    leaders.dedup();
    let want = |leader: usize| (Site::Output, flights[leader].slot, m as u32 - 1);
    let wants: Vec<Want> = leaders.into_iter().map(want).collect();
    Ok(Capture::new(
        model.backend(),
        &wants,
        model.config().d_model,
    )?)
}

/// The vectors that some jobs write, in one buffer, and the writes as the session takes them.
fn gather_writes<B: Backend>(
    model: &Llama<B>,
    flights: &[Flight<B>],
) -> Result<(B::Rows, Vec<Write>)> {
    let backend = model.backend();
    let most: usize = flights.iter().map(|f| f.job.writes.len()).sum();
    let mut vectors = backend.rows(most, model.config().d_model)?;
    let mut writes = Vec::with_capacity(most);
    for flight in flights {
        // A vector that is written at several placeholders is there once.
        let mut there: Vec<(usize, usize)> = Vec::new();
        for write in &flight.job.writes {
            let known = there.iter().find(|(vector, _)| *vector == write.vector);
            let vector = match known {
                Some(&(_, at)) => at,
                None => {
                    let at = backend.len(&vectors);
                    let rows = flight.job.vectors.rows();
                    backend.gather(rows, &[write.vector], &mut vectors)?;
                    there.push((write.vector, at));
                    at
                }
            };
            writes.push(Write {
                slot: flight.slot,
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
