//! One model with its reader, and the requests that share it.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

use selfie::interp::{
    Embeddings, InterpError, Job, JobWrite, LocatedPrompt, Outcome, PromptId, Reader, ReaderSize,
    Row, Sink, Sweep, Ticket,
};
use selfie::kernels::Backend;
use selfie::llama::{Decoding, Llama, PromptSite, Site, Tokenizer};

use super::work::{Event, Interpret, Reply, Score, Scores, States, Stream};
use crate::error::Result;
use crate::problem::Problem;

/// The maximum number of rows that a request submits at a time, so that requests alternate.
const TURN_ROWS: usize = 64;

/// A model and its requests.
pub(super) struct Scheduler<'a, B: Backend> {
    pub(super) llama: &'a Llama<B>,
    tokenizer: &'a Tokenizer,
    size: &'a ReaderSize,
    reader: Reader<B>,
    /// The interpretation prompts in the reader, least recently used first.
    prompts: Vec<LoadedPrompt>,
    /// The requests, in the order of their next turn.
    requests: VecDeque<Request<'a, B>>,
    scorings: Vec<Scoring>,
}

struct LoadedPrompt {
    ids: Vec<u32>,
    id: PromptId,
}

/// Cells of a client.
struct Request<'a, B: Backend> {
    work: Interpret,
    /// The interpretation prompt, once there is room for it.
    prompt: Option<PromptId>,
    /// Started samples, with their numbers.
    sweeps: Vec<(usize, Sweep<'a, B>)>,
    begun: usize,
    rows: usize,
    empty: usize,
    failed: usize,
}

/// A text to score in cells.
struct Scoring {
    prompt: PromptId,
    /// `None` is the interpretation prompt without an injection.
    tickets: HashMap<Ticket, Option<usize>>,
    clean: Vec<f32>,
    cells: Vec<Vec<f32>>,
    reply: Reply<Scores>,
}

impl<'a, B: Backend> Scheduler<'a, B> {
    pub(super) fn new(
        llama: &'a Llama<B>,
        tokenizer: &'a Tokenizer,
        size: &'a ReaderSize,
    ) -> Result<Self> {
        let reader = Reader::new(llama, size).map_err(selfie::Error::from)?;
        Ok(Self {
            llama,
            tokenizer,
            size,
            reader,
            prompts: Vec::new(),
            requests: VecDeque::new(),
            scorings: Vec::new(),
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.scorings.is_empty()
    }

    pub(super) fn interpret(&mut self, work: Interpret) {
        self.requests.push_back(Request {
            work,
            prompt: None,
            sweeps: Vec::new(),
            begun: 0,
            rows: 0,
            empty: 0,
            failed: 0,
        });
    }

    pub(super) fn score(&mut self, work: Score) {
        match self.submit_scores(&work) {
            Ok((prompt, tickets)) => self.scorings.push(Scoring {
                prompt,
                tickets,
                clean: Vec::new(),
                cells: vec![Vec::new(); work.cells.len()],
                reply: work.reply,
            }),
            Err(problem) => work.reply.send(Err(problem)),
        }
    }

    pub(super) fn states(&mut self, work: States) {
        if work.reply.is_over() {
            return;
        }
        let read = || {
            let embeddings = self.capture(&work.prompt.ids, &work.cells)?;
            embeddings.to_host(self.llama.backend())
        };
        let states = read().map_err(Problem::from);
        work.reply.send(states);
    }

    fn capture(
        &self,
        ids: &[u32],
        cells: &[selfie::interp::Cell],
    ) -> Result<Embeddings<B>, InterpError> {
        let site = |cell: &selfie::interp::Cell| PromptSite {
            prompt: 0,
            site: Site::HiddenStates(cell.layer),
            token: cell.token,
        };
        let sites: Vec<PromptSite> = cells.iter().map(site).collect();
        Embeddings::capture(self.llama, &[ids.to_vec()], &sites)
    }

    fn submit_scores(
        &mut self,
        work: &Score,
    ) -> Result<(PromptId, HashMap<Ticket, Option<usize>>), Problem> {
        let Some(prompt) = self.prompt(&work.located, work.inject.layer)? else {
            return Err(Problem::new(
                axum::http::StatusCode::SERVICE_UNAVAILABLE,
                "too many interpretation prompts are in use; try again soon",
            ));
        };
        let vectors = self.capture(&work.prompt.ids, &work.cells)?;
        // A job scores its other text after the first token of its own.
        let decoding = Arc::new(Decoding {
            max_new_tokens: 1,
            eos: Vec::new(),
            sampling: None,
        });
        let mut tickets = HashMap::new();
        for cell in std::iter::once(None).chain((0..work.cells.len()).map(Some)) {
            let write = |vector| {
                let write = move |&position: &usize| JobWrite {
                    position,
                    layer: work.inject.layer,
                    vector,
                    mode: work.inject.mode,
                    strength: work.inject.strength,
                };
                work.located.placeholders.iter().map(write).collect()
            };
            let job = Job {
                prompt,
                vectors: vectors.clone(),
                writes: cell.map_or_else(Vec::new, write),
                decoding: Arc::clone(&decoding),
                key: 0,
                clean: false,
                score: work.ids.clone(),
            };
            tickets.insert(self.reader.submit(job)?, cell);
        }
        Ok((prompt, tickets))
    }

    /// The interpretation prompt in the reader; `None` while there is no room for it.
    fn prompt(
        &mut self,
        located: &LocatedPrompt,
        layer: usize,
    ) -> Result<Option<PromptId>, InterpError> {
        if let Some(at) = self.prompts.iter().position(|p| p.ids == located.ids) {
            let known = self.prompts.remove(at);
            let id = known.id;
            self.prompts.push(known);
            return Ok(Some(id));
        }
        if self.prompts.len() == self.size.prompts {
            let Some(oldest) = self.prompts.iter().position(|p| !self.is_used(p.id)) else {
                return Ok(None);
            };
            let forgotten = self.prompts.remove(oldest);
            self.reader.remove_prompt(forgotten.id)?;
        }
        let id = self.reader.add_prompt(&located.ids, &[layer])?;
        let ids = located.ids.clone();
        self.prompts.push(LoadedPrompt { ids, id });
        Ok(Some(id))
    }

    fn is_used(&self, prompt: PromptId) -> bool {
        let mut requests = self.requests.iter();
        requests.any(|request| request.prompt == Some(prompt))
            || self.scorings.iter().any(|scoring| scoring.prompt == prompt)
    }

    /// Drops abandoned work, submits more, runs a pass, and answers.
    pub(super) fn step(&mut self) {
        if self.is_idle() {
            return;
        }
        let stepped = self
            .drop_abandoned()
            .and_then(|()| self.schedule())
            .and_then(|()| Ok(self.reader.step()?))
            .and_then(|outcomes| self.deliver(outcomes));
        if let Err(problem) = stepped {
            self.restart_reader(&problem);
        }
    }

    fn drop_abandoned(&mut self) -> Result<(), Problem> {
        for mut request in self.requests.drain(..).collect::<Vec<_>>() {
            if !request.work.stream.is_over() {
                self.requests.push_back(request);
                continue;
            }
            for (_, sweep) in request.sweeps.drain(..) {
                sweep.cancel(&mut self.reader)?;
            }
        }
        for scoring in self.scorings.extract_if(.., |s| s.reply.is_over()) {
            for ticket in scoring.tickets.into_keys() {
                self.reader.cancel(ticket)?;
            }
        }
        Ok(())
    }

    /// Gives each request a turn while the reader has room for more work.
    fn schedule(&mut self) -> Result<(), Problem> {
        for _ in 0..self.requests.len() {
            if self.reader.waiting() >= self.reader.batch_size() {
                return Ok(());
            }
            let Some(mut request) = self.requests.pop_front() else {
                return Ok(());
            };
            match self.submit_cells(&mut request) {
                Ok(()) => self.requests.push_back(request),
                Err(problem) => {
                    for (_, sweep) in request.sweeps.drain(..) {
                        sweep.cancel(&mut self.reader)?;
                    }
                    request.work.stream.fail(problem);
                }
            }
        }
        Ok(())
    }

    /// Submits some cells of a request, if any are left and its client keeps up with the events.
    fn submit_cells(&mut self, request: &mut Request<'a, B>) -> Result<(), Problem> {
        let work = &request.work;
        if request.prompt.is_none() {
            let layer = work.samples.first().map_or(0, |of| of.injections[0].layer);
            request.prompt = self.prompt(&work.located, layer)?;
        }
        let Some(prompt) = request.prompt else {
            return Ok(());
        };
        let is_submitted = |(_, sweep): &(usize, Sweep<'a, B>)| sweep.is_submitted();
        if request.sweeps.iter().all(is_submitted)
            && let Some(options) = work.samples.get(request.begun)
        {
            let texts = [&work.prompt.text];
            let sweep = Sweep::of_cells(
                self.llama,
                self.tokenizer,
                &texts,
                &work.cells,
                options,
                prompt,
            )?;
            request.sweeps.push((request.begun, sweep));
            request.begun += 1;
        }
        // One event per row, and one for the end.
        let under_way: usize = request.sweeps.iter().map(|(_, s)| s.under_way()).sum();
        if work.stream.to.capacity() < under_way + TURN_ROWS + 1 {
            return Ok(());
        }
        let open = request.sweeps.iter_mut().find(|one| !is_submitted(one));
        if let Some((_, sweep)) = open {
            sweep.submit(&mut self.reader, TURN_ROWS)?;
        }
        Ok(())
    }

    fn deliver(&mut self, outcomes: Vec<(Ticket, Outcome)>) -> Result<(), Problem> {
        for (ticket, outcome) in outcomes {
            if let Some(scoring) = self
                .scorings
                .iter_mut()
                .find(|s| s.tickets.contains_key(&ticket))
            {
                scoring.take(ticket, outcome);
                continue;
            }
            for request in &mut self.requests {
                let Some(at) = request.sweeps.iter().position(|(_, s)| s.has(ticket)) else {
                    continue;
                };
                request.take(&mut self.reader, at, ticket, outcome)?;
                break;
            }
        }
        for scoring in self.scorings.extract_if(.., |s| s.tickets.is_empty()) {
            let scores = Scores {
                clean: scoring.clean,
                cells: scoring.cells,
            };
            scoring.reply.send(Ok(scores));
        }
        self.requests.retain_mut(|request| !request.end_sweeps());
        Ok(())
    }

    /// After a failure of the reader, all requests fail and later ones get a new reader.
    fn restart_reader(&mut self, problem: &Problem) {
        self.fail(problem);
        self.prompts.clear();
        // If this fails too, later requests fail with the same problem.
        if let Ok(reader) = Reader::new(self.llama, self.size) {
            self.reader = reader;
        }
    }

    pub(super) fn close(&mut self) {
        self.fail(&Problem::gone());
    }

    fn fail(&mut self, problem: &Problem) {
        for request in self.requests.drain(..) {
            request.work.stream.fail(problem.clone());
        }
        for scoring in self.scorings.drain(..) {
            scoring.reply.send(Err(problem.clone()));
        }
    }
}

impl<B: Backend> Request<'_, B> {
    fn take(
        &mut self,
        reader: &mut Reader<B>,
        at: usize,
        ticket: Ticket,
        outcome: Outcome,
    ) -> Result<(), Problem> {
        let (sample, sweep) = &mut self.sweeps[at];
        let mut sink = StreamSink {
            stream: &self.work.stream,
            sample: *sample,
        };
        // A departed client is dropped before the next pass.
        let _ = sweep.take(reader, ticket, outcome, &mut sink)?;
        Ok(())
    }

    /// Ends the finished samples. Returns whether all are done.
    fn end_sweeps(&mut self) -> bool {
        for (sample, sweep) in self.sweeps.extract_if(.., |(_, sweep)| sweep.is_done()) {
            let mut sink = StreamSink {
                stream: &self.work.stream,
                sample,
            };
            match sweep.finish(&mut sink) {
                Ok(swept) => {
                    self.rows += swept.rows;
                    self.empty += swept.empty;
                }
                Err(InterpError::NotFinite { failed, rows, .. }) => {
                    self.rows += rows - failed;
                    self.failed += failed;
                }
                Err(error) => {
                    self.work.stream.send(Event::Problem(error.into()));
                    return true;
                }
            }
        }
        if self.begun < self.work.samples.len() || !self.sweeps.is_empty() {
            return false;
        }
        self.work.stream.send(Event::Interpreted {
            rows: self.rows,
            empty: self.empty,
            failed: self.failed,
        });
        true
    }
}

impl Scoring {
    fn take(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(cell) = self.tickets.remove(&ticket) else {
            return;
        };
        // Scores that are not finite become null in the answer.
        let scores = match outcome {
            Outcome::Text(text) => text.scores,
            Outcome::NotFinite => Vec::new(),
        };
        match cell {
            None => self.clean = scores,
            Some(cell) => self.cells[cell] = scores,
        }
    }
}

/// Sends rows to a client.
struct StreamSink<'a> {
    stream: &'a Stream,
    sample: usize,
}

impl StreamSink<'_> {
    fn send(&self, event: Event) -> ControlFlow<()> {
        if self.stream.send(event) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }
}

impl Sink for StreamSink<'_> {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        let (sample, row) = (self.sample, Box::new(row));
        self.send(Event::Row { sample, row })
    }

    fn failed(&mut self, _row: usize, cell: &str) -> ControlFlow<()> {
        let (sample, cell) = (self.sample, cell.to_owned());
        self.send(Event::Failed { sample, cell })
    }
}
