//! Sessions: running rows through a model, with a KV cache.

use selfie_kernels::{Backend, BatchRow, Best, Slot, TokenDraw};

use crate::cache::KvCache;
use crate::forward::{HeadRows, Workspace};
use crate::requests::{RequestKind, RowRequest, check_draft, is_plain_step, record};
use crate::write::Writer;
use crate::{Answer, Ask, Draw, Feed, Llama, LlamaError, Pass, Probe, Result, SessionSize};

/// Buffers and a KV cache for sequences of one model, allocated once. All rows run through a session.
///
/// A sequence has a [`Slot`]. It may continue a *prefix*, whose keys and values it shares with other slots. Everything
/// is addressed by slot and position, so it does not matter in which pieces a prompt runs. A row gets the same bits in
/// any pass.
///
/// ```
/// # fn main() -> selfie_llama::Result<()> {
/// # let dir = std::path::Path::new("tests/golden/llama2-mha");
/// use selfie_llama::{Cpu, CpuOptions, Llama, Session, SessionSize, Tokenizer};
///
/// let model = Llama::open(Cpu::new(CpuOptions::default())?, dir)?;
/// let prompt = Tokenizer::open(dir)?.encode("The capital of France is")?;
/// let size = SessionSize::new(&model, 1, prompt.len() + 8);
/// let mut session = Session::new(&model, &size)?;
/// let slot = session.open()?;
/// let mut best = session.prefill(&[(slot, &prompt)])?[0];
/// for _ in 0..8 {
///     println!("{} ({:.2} nats)", best.token, best.logprob);
///     best = session.step(&[(slot, best.token)])?[0];
/// }
/// # Ok(())
/// # }
/// ```
pub struct Session<B: Backend> {
    model: Llama<B>,
    size: SessionSize,
    ws: Workspace<B>,
    cache: KvCache<B>,
    /// `None` while a pass writes.
    tally: Option<B::Tally>,
    /// The next position of each open slot, and of each open prefix.
    slots: Vec<Option<usize>>,
    prefixes: Vec<Option<usize>>,
    /// The adapter of each slot and each prefix.
    slot_adapters: Vec<Option<usize>>,
    prefix_adapters: Vec<Option<usize>>,
    rows: Vec<BatchRow>,
    requests: Vec<RowRequest>,
    index: Vec<usize>,
}

impl<B: Backend> Session<B> {
    /// Allocates all buffers. An error if they do not fit.
    pub fn new(model: &Llama<B>, size: &SessionSize) -> Result<Self> {
        let backend = model.backend();
        let layout = size.layout(model);
        backend.kv_dtype(model.dtype(), Some(size.kv))?;
        model.config().check_context(size.positions)?;
        let buffers = Workspace::least_bytes(model, size.rows, size.positions);
        KvCache::check(backend, &layout, buffers)?;
        let ws = Workspace::new(model, size.rows, size.positions)?;
        Ok(Self {
            cache: KvCache::new(backend, layout)?,
            tally: None,
            slots: vec![None; size.slots],
            prefixes: vec![None; size.prefixes.len()],
            slot_adapters: vec![model.adapter; size.slots],
            prefix_adapters: vec![model.adapter; size.prefixes.len()],
            rows: Vec::with_capacity(ws.max_rows()),
            requests: Vec::new(),
            index: Vec::new(),
            ws,
            size: size.clone(),
            model: model.clone(),
        })
    }

    /// The model that runs the rows.
    pub fn model(&self) -> &Llama<B> {
        &self.model
    }

    /// Switches to another model of the same shape, such as an edited copy. Closes all slots and prefixes.
    pub fn switch(&mut self, model: &Llama<B>) -> Result<()> {
        if model.config() != self.model.config() || model.dtype() != self.model.dtype() {
            return Err(LlamaError::OtherModel);
        }
        self.model = model.clone();
        // The idle slots that fill up a pass belong to the model too.
        self.slot_adapters.fill(model.adapter);
        self.ws.row_adapters.set(&[]);
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some() {
                self.close(Slot::Branch(slot as u32))?;
            }
        }
        self.prefixes.fill(None);
        Ok(())
    }

    /// The session's capacity.
    pub fn size(&self) -> &SessionSize {
        &self.size
    }

    /// The number of free slots.
    pub fn free_slots(&self) -> usize {
        self.cache.free_slots()
    }

    /// Opens a prefix, the first free one. It is fed like a slot; slots can then share it.
    pub fn open_prefix(&mut self) -> Result<Slot> {
        let free = self.prefixes.iter().position(Option::is_none);
        let Some(prefix) = free else {
            return Err(LlamaError::NoFreePrefix {
                prefixes: self.prefixes.len(),
            });
        };
        self.prefixes[prefix] = Some(0);
        self.prefix_adapters[prefix] = self.model.adapter;
        Ok(Slot::Prefix(prefix as u32))
    }

    /// Gives a slot or a prefix another adapter of the model ([`Llama::with_lora`]), or none. Nothing may have been fed
    /// to it yet. By default it has the model's last adapter, and a slot that continues a prefix has the prefix's. A
    /// pass may mix rows with different adapters.
    pub fn set_adapter(&mut self, slot: Slot, adapter: Option<usize>) -> Result<()> {
        let length = self.position(slot)?;
        if length > 0 {
            return Err(LlamaError::PrefixLength {
                positions: 0,
                length,
            });
        }
        let (adapters, head) = (self.model.loras.len(), self.model.head_is_adapted);
        let exists = adapter.is_none_or(|adapter| adapter < adapters);
        if !exists || (head && adapter != self.model.adapter) {
            return Err(LlamaError::LoraChoice {
                adapter,
                adapters,
                head,
            });
        }
        *self.adapter_mut(slot) = adapter;
        Ok(())
    }

    fn adapter_mut(&mut self, slot: Slot) -> &mut Option<usize> {
        match slot {
            Slot::Prefix(prefix) => &mut self.prefix_adapters[prefix as usize],
            Slot::Branch(branch) => &mut self.slot_adapters[branch as usize],
        }
    }

    /// Opens a slot for a sequence that starts at position 0.
    pub fn open(&mut self) -> Result<Slot> {
        let seen = vec![0; self.cache.layout().own.len()];
        let slot = self.take(0, &seen, 0)?;
        *self.adapter_mut(slot) = self.model.adapter;
        Ok(slot)
    }

    /// Opens a slot for a sequence that continues the first `positions` positions of a prefix.
    pub fn open_on(&mut self, prefix: Slot, positions: usize) -> Result<Slot> {
        self.open_from(prefix, 0, positions, positions)
    }

    /// Opens a slot whose rows begin at position `from` and at layer `layer`. Below that layer it sees `below`
    /// positions of the prefix; from that layer on, `from` positions.
    pub fn open_from(
        &mut self,
        prefix: Slot,
        layer: usize,
        below: usize,
        from: usize,
    ) -> Result<Slot> {
        let length = self.position(prefix)?;
        let Slot::Prefix(prefix) = prefix else {
            return Err(LlamaError::NotAPrefix { slot: prefix });
        };
        if below.max(from) > length {
            return Err(LlamaError::PrefixLength {
                positions: below.max(from),
                length,
            });
        }
        let layers = 0..self.cache.layout().own.len();
        let seen: Vec<usize> = layers
            .map(|l| if l < layer { below } else { from })
            .collect();
        let slot = self.take(prefix, &seen, from)?;
        *self.adapter_mut(slot) = self.prefix_adapters[prefix as usize];
        Ok(slot)
    }

    fn take(&mut self, prefix: u32, seen: &[usize], position: usize) -> Result<Slot> {
        let slot = self.cache.take(self.model.backend(), prefix, seen)?;
        self.slots[slot as usize] = Some(position);
        Ok(Slot::Branch(slot))
    }

    /// Closes a slot or a prefix and forgets its contents. Slots that share a closed prefix must be closed before the
    /// prefix is opened again.
    pub fn close(&mut self, slot: Slot) -> Result<()> {
        self.position(slot)?;
        match slot {
            Slot::Prefix(prefix) => self.prefixes[prefix as usize] = None,
            Slot::Branch(branch) => {
                self.slots[branch as usize] = None;
                self.cache.release(branch);
            }
        }
        Ok(())
    }

    /// The next position of a slot or prefix.
    pub fn position(&self, slot: Slot) -> Result<usize> {
        let position = match slot {
            Slot::Prefix(prefix) => self.prefixes.get(prefix as usize),
            Slot::Branch(branch) => self.slots.get(branch as usize),
        };
        position
            .copied()
            .flatten()
            .ok_or(LlamaError::NotOpen { slot })
    }

    /// Goes back to `position`. Later tokens overwrite what follows it.
    pub fn rewind(&mut self, slot: Slot, position: usize) -> Result<()> {
        let length = self.position(slot)?;
        if position > length {
            return Err(LlamaError::PrefixLength {
                positions: position,
                length,
            });
        }
        self.set_position(slot, position);
        Ok(())
    }

    /// Copies the first `positions` positions of one slot to another, which then continues from there.
    pub fn fork(&mut self, from: Slot, to: Slot, positions: usize) -> Result<()> {
        let length = self.position(from)?;
        self.position(to)?;
        if positions > length {
            return Err(LlamaError::PrefixLength { positions, length });
        }
        match (from, to) {
            (Slot::Branch(from), Slot::Branch(to)) => {
                self.cache.copy(self.model.backend(), from, to, positions)?;
                self.slot_adapters[to as usize] = self.slot_adapters[from as usize];
            }
            (Slot::Prefix(_), _) => return Err(LlamaError::NotASlot { slot: from }),
            (_, Slot::Prefix(_)) => return Err(LlamaError::NotASlot { slot: to }),
        }
        self.set_position(to, positions);
        Ok(())
    }

    fn set_position(&mut self, slot: Slot, position: usize) {
        match slot {
            Slot::Prefix(prefix) => self.prefixes[prefix as usize] = Some(position),
            Slot::Branch(branch) => self.slots[branch as usize] = Some(position),
        }
    }

    /// Runs prompts of any lengths, and returns the most likely token after each.
    pub fn prefill(&mut self, prompts: &[(Slot, &[u32])]) -> Result<Vec<Best>> {
        let feed = |&(slot, tokens): &(Slot, _)| Feed {
            ask: Ask {
                next: Some(Draw::Greedy),
                score: &[],
            },
            ..Feed::new(slot, tokens)
        };
        let feeds: Vec<Feed<'_>> = prompts.iter().map(feed).collect();
        let answers = self.run_whole(&feeds)?;
        Ok(answers.into_iter().filter_map(|a| a.next).collect())
    }

    /// Runs one token of each sequence, and returns the most likely token after it.
    pub fn step(&mut self, tokens: &[(Slot, u32)]) -> Result<Vec<Best>> {
        let prompts: Vec<(Slot, &[u32])> = tokens
            .iter()
            .map(|(slot, token)| (*slot, std::slice::from_ref(token)))
            .collect();
        self.prefill(&prompts)
    }

    /// Runs texts, and returns the log-probability of each token except each text's first.
    pub fn score(&mut self, texts: &[(Slot, &[u32])]) -> Result<Vec<Vec<f32>>> {
        let mut feeds = Vec::with_capacity(texts.len());
        for &(slot, text) in texts {
            let [_, targets @ ..] = text else {
                return Err(LlamaError::EmptyPrompt);
            };
            let ask = Ask {
                next: None,
                score: targets,
            };
            // A single token has nothing to score, but runs all the same.
            let tokens = &text[..targets.len().max(1)];
            feeds.push(Feed {
                ask,
                ..Feed::new(slot, tokens)
            });
        }
        let answers = self.run_whole(&feeds)?;
        Ok(answers.into_iter().map(|answer| answer.scores).collect())
    }

    /// A pass without probe or writes. A logit that is not finite is an error.
    fn run_whole(&mut self, feeds: &[Feed<'_>]) -> Result<Vec<Answer>> {
        let pass = Pass {
            feeds,
            layers: 0..self.model.config().n_layers,
            states: None,
            writes: None,
        };
        let answers = self.run(&pass, &mut ())?;
        match answers.iter().position(|answer| !answer.is_finite()) {
            None => Ok(answers),
            Some(feed) => Err(LlamaError::LogitNotFinite {
                position: self.position(feeds[feed].slot)?.saturating_sub(1),
            }),
        }
    }

    /// Runs the rows of a pass, in pieces of at most [`SessionSize::rows`], and answers what each feed asks.
    ///
    /// The probe sees what has been written. A write that reaches no row is an error.
    pub fn run(&mut self, pass: &Pass<'_, B>, probe: &mut dyn Probe<B>) -> Result<Vec<Answer>> {
        let pass_rows = self.lay_out(pass)?;
        let mut answers = match pass.writes {
            None => self.pieces(pass, pass_rows, probe)?,
            Some((vectors, writes)) => {
                let backend = self.model.backend().clone();
                let mut tally = match self.tally.take() {
                    Some(tally) => tally,
                    None => backend.tally()?,
                };
                let mut writer = Writer::new(vectors, writes, &mut tally);
                let answers = self.pieces(pass, pass_rows, &mut (&mut writer, probe))?;
                writer.finish()?;
                backend.check_tally(&mut tally)?;
                self.tally = Some(tally);
                answers
            }
        };
        if pass.layers.end == self.model.config().n_layers {
            for (feed, answer) in pass.feeds.iter().zip(&mut answers) {
                let rejected = answer.verify(feed.draft());
                let position = self.position(feed.slot)?;
                self.set_position(feed.slot, position + feed.tokens.len() - rejected);
            }
        }
        Ok(answers)
    }

    /// Answers asks about states kept at [`Site::Output`](crate::Site::Output). Each ask names a row of `states` (`[n,
    /// d_model]`), and its `ask.score` may name one token.
    pub fn answer(&mut self, states: &B::Rows, asks: &[(usize, Ask<'_>)]) -> Result<Vec<Answer>> {
        self.requests.clear();
        for (feed, (_, ask)) in asks.iter().enumerate() {
            if ask.score.len() > 1 {
                return Err(LlamaError::ScoreRows {
                    tokens: ask.score.len(),
                    rows: 1,
                });
            }
            check_draft(ask, 1)?;
            record(&mut self.requests, feed, feed..feed + 1, ask);
        }
        let mut answers = vec![Answer::default(); asks.len()];
        let requests = std::mem::take(&mut self.requests);
        for chunk in requests.chunks(self.ws.max_rows()) {
            let row = |feed: usize| asks[feed].0;
            self.heads(
                &HeadRows::Kept(states),
                chunk,
                |a| row(a.feed),
                None,
                |feed| asks[feed].1,
                &mut answers,
            )?;
        }
        self.requests = requests;
        Ok(answers)
    }

    /// Calls `each` with the logits (`[vocab]`, f32) of rows of states kept at [`Site::Output`](crate::Site::Output),
    /// in order.
    pub fn logits(
        &mut self,
        states: &B::Rows,
        rows: &[usize],
        each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.model
            .logits(&mut self.ws, &HeadRows::Kept(states), rows, each)
    }

    /// Lists the pass's rows and what they are asked, followed by idle rows if the device wants a step of another size.
    /// Returns the number of the pass's own rows.
    fn lay_out(&mut self, pass: &Pass<'_, B>) -> Result<usize> {
        self.rows.clear();
        self.requests.clear();
        for (index, feed) in pass.feeds.iter().enumerate() {
            let position = self.position(feed.slot)?;
            let end = position + feed.tokens.len();
            if end > self.size.positions {
                return Err(LlamaError::SessionPositions {
                    positions: end,
                    max: self.size.positions,
                });
            }
            if feed.ask.score.len() > feed.tokens.len() {
                return Err(LlamaError::ScoreRows {
                    tokens: feed.ask.score.len(),
                    rows: feed.tokens.len(),
                });
            }
            if feed.tokens.is_empty() {
                return Err(LlamaError::EmptyPrompt);
            }
            check_draft(&feed.ask, feed.tokens.len())?;
            let first = self.rows.len();
            self.rows.extend(
                feed.tokens
                    .iter()
                    .zip(position..)
                    .map(|(&token, position)| BatchRow {
                        token,
                        slot: feed.slot,
                        position: position as u32,
                    }),
            );
            record(&mut self.requests, index, first..self.rows.len(), &feed.ask);
        }
        let pass_rows = self.rows.len();
        if let Some((_, states)) = pass.states
            && states.len() != pass_rows
        {
            return Err(LlamaError::ResidualRows {
                rows: pass_rows,
                found: states.len(),
            });
        }
        if is_plain_step(pass, self.model.config().n_layers) {
            let backend = self.model.backend();
            let wanted = backend.step_rows(pass_rows).min(self.ws.max_rows());
            if wanted > pass_rows {
                let idle = self.cache.idle_rows(backend, wanted - pass_rows)?;
                self.rows.extend(idle);
            }
        }
        Ok(pass_rows)
    }

    /// Runs the listed rows, of which the first `pass_rows` belong to the pass.
    fn pieces(
        &mut self,
        pass: &Pass<'_, B>,
        pass_rows: usize,
        probe: &mut dyn Probe<B>,
    ) -> Result<Vec<Answer>> {
        let mut answers = vec![Answer::default(); pass.feeds.len()];
        let (rows, requests) = (
            std::mem::take(&mut self.rows),
            std::mem::take(&mut self.requests),
        );
        let answered = pass.layers.end == self.model.config().n_layers;
        let mut remaining = &requests[..];
        let max = self.ws.max_rows();
        for (piece, rows) in rows.chunks(max).enumerate() {
            let first = piece * max;
            if let Some((states, index)) = pass.states {
                let backend = self.model.backend();
                backend.clear(&mut self.ws.residual);
                let index = &index[first..first + rows.len()];
                backend.gather(states, index, &mut self.ws.residual)?;
            }
            if !self.model.loras.is_empty() {
                self.set_adapters(rows, pass_rows.saturating_sub(first));
            }
            let (ws, cache) = (&mut self.ws, &mut self.cache);
            self.model
                .forward(ws, cache, rows, pass.layers.clone(), probe)?;
            let here = remaining.partition_point(|request| request.row < first + rows.len());
            let (requests, rest) = remaining.split_at(here);
            remaining = rest;
            if answered && !requests.is_empty() {
                // In a step with idle rows, the head runs for all rows too, so that the whole step stays the same.
                let filled = (rows.len() > pass_rows).then_some(rows.len());
                let ask = |feed: usize| pass.feeds[feed].ask;
                let row = |request: &RowRequest| request.row - first;
                self.heads(&HeadRows::Pass, requests, row, filled, ask, &mut answers)?;
            }
        }
        (self.rows, self.requests) = (rows, requests);
        Ok(answers)
    }

    /// Sets the adapters of the next pass's rows. The first `pass_rows` rows belong to the pass. The others, which
    /// nobody reads, get the adapter of the first row.
    fn set_adapters(&mut self, rows: &[BatchRow], pass_rows: usize) {
        let adapter = |row: &BatchRow| match row.slot {
            Slot::Prefix(prefix) => self.prefix_adapters[prefix as usize],
            Slot::Branch(branch) => self.slot_adapters[branch as usize],
        };
        let mut adapters: Vec<Option<usize>> = rows.iter().take(pass_rows).map(adapter).collect();
        let first = adapters.first().copied().unwrap_or(self.model.adapter);
        adapters.resize(rows.len(), first);
        self.ws.row_adapters.set(&adapters);
    }

    /// Answers what some rows are asked. With `filled`, finds the most likely token of that many first rows.
    fn heads<'a>(
        &mut self,
        from: &HeadRows<'_, B>,
        requests: &[RowRequest],
        row: impl Fn(&RowRequest) -> usize,
        filled: Option<usize>,
        ask: impl Fn(usize) -> Ask<'a>,
        answers: &mut [Answer],
    ) -> Result<()> {
        let is_scored = |a: &&RowRequest| matches!(a.kind, RequestKind::Score(_));
        let is_greedy = |a: &&RowRequest| {
            !is_scored(a) && ask(a.feed).next.is_some_and(|draw| draw.is_greedy())
        };
        let is_sampled = |a: &&RowRequest| !is_scored(a) && !is_greedy(a);

        self.index.clear();
        match filled {
            Some(rows) => self.index.extend(0..rows),
            None => self
                .index
                .extend(requests.iter().filter(is_greedy).map(&row)),
        }
        if !self.index.is_empty() {
            let best = self.model.best(&mut self.ws, from, &self.index)?;
            for (request, best) in requests.iter().filter(is_greedy).zip(best) {
                let answer = &mut answers[request.feed];
                match request.kind {
                    RequestKind::Guessed => answer.accepted.push(best),
                    _ => answer.next = Some(best),
                }
            }
        }
        // On the device where it can draw, else from the logits.
        let token_draw = |a: &RowRequest| match ask(a.feed).next {
            Some(Draw::Sample {
                sampling,
                key,
                step,
                ..
            }) => sampling.on_device(key, step),
            _ => None,
        };
        let on_device = requests.iter().filter(is_sampled);
        let on_device = on_device.filter_map(|a| Some((a, token_draw(a)?)));
        let (drawn, draws): (Vec<&RowRequest>, Vec<TokenDraw>) = on_device.unzip();
        if !drawn.is_empty() {
            self.index.clear();
            self.index.extend(drawn.iter().map(|a| row(a)));
            let best = self.model.draw(&mut self.ws, from, &self.index, &draws)?;
            for (request, best) in drawn.iter().zip(best) {
                answers[request.feed].next = best;
            }
        }
        let sampled = requests.iter().filter(is_sampled);
        let open: Vec<&RowRequest> = sampled.filter(|a| answers[a.feed].next.is_none()).collect();
        if !open.is_empty() {
            self.index.clear();
            self.index.extend(open.iter().map(|a| row(a)));
            let (model, ws) = (&self.model, &mut self.ws);
            model.logits(ws, from, &self.index, |i, logits| {
                if let Some(Draw::Sample {
                    sampling,
                    context,
                    key,
                    step,
                }) = ask(open[i].feed).next
                {
                    answers[open[i].feed].next = Some(sampling.pick(logits, context, key, step));
                }
                Ok(())
            })?;
        }
        self.index.clear();
        self.index
            .extend(requests.iter().filter(is_scored).map(&row));
        if !self.index.is_empty() {
            let target = |a: &RowRequest| match a.kind {
                RequestKind::Score(token) => Some(token),
                RequestKind::Next | RequestKind::Guessed => None,
            };
            let targets: Vec<u32> = requests.iter().filter_map(target).collect();
            let scores = self
                .model
                .score(&mut self.ws, from, &self.index, &targets)?;
            for (request, score) in requests.iter().filter(is_scored).zip(scores) {
                answers[request.feed].scores.push(score);
            }
        }
        Ok(())
    }
}
