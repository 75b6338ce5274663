//! Decoding: sequences that share each pass, joining and leaving as their slots do.

use selfie_kernels::{Backend, BatchRow, Best};

use crate::cache::branch_rows;
use crate::{KvCache, Llama, Result, Sampling, Workspace};

/// How tokens are chosen, and when a sequence ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    /// Most tokens of a sequence.
    pub max_new_tokens: usize,
    /// Ids that end a sequence; the id that ended it is kept.
    pub eos: Vec<u32>,
    /// `None` is greedy.
    pub sampling: Option<Sampling>,
}

/// A sequence that is being decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Which sequence it is: sampling depends on this number and the seed, not on the batch.
    pub id: u64,
    /// The slot that holds its keys and values.
    pub slot: u32,
    /// Positions before the first new token, shared ones included.
    pub prompt_len: usize,
    /// The tokens chosen so far.
    pub new_ids: Vec<u32>,
    /// Their log-probabilities, by the logits as they are (before temperature, top-k and top-p).
    pub logprobs: Vec<f32>,
}

impl Sequence {
    /// A sequence whose prompt of `prompt_len` positions is in `slot`.
    pub fn new(id: u64, slot: u32, prompt_len: usize) -> Self {
        Self {
            id,
            slot,
            prompt_len,
            new_ids: Vec::new(),
            logprobs: Vec::new(),
        }
    }
}

/// The sequences that are being decoded together.
pub struct Decoder {
    decoding: Decoding,
    pub(crate) active: Vec<Sequence>,
    batch: Vec<BatchRow>,
    rows: Vec<usize>,
}

impl Decoder {
    /// A decoder without sequences.
    pub fn new(decoding: Decoding) -> Result<Self> {
        if let Some(sampling) = &decoding.sampling {
            sampling.check()?;
        }
        Ok(Self {
            decoding,
            active: Vec::new(),
            batch: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// Sequences in flight.
    pub fn active(&self) -> usize {
        self.active.len()
    }

    /// Takes sequences whose prompts have just been passed, and chooses the first token of `joining[i]` from
    /// `rows[i]` of that pass. Returns all of them that are done; the caller gives back their slots.
    pub fn join<B: Backend>(
        &mut self,
        model: &Llama<B>,
        ws: &mut Workspace<B>,
        mut joining: Vec<Sequence>,
        rows: &[usize],
    ) -> Result<Vec<Sequence>> {
        if self.decoding.max_new_tokens == 0 {
            return Ok(joining);
        }
        self.decoding.choose(model, ws, rows, &mut joining)?;
        self.active.append(&mut joining);
        Ok(self.take_done())
    }

    /// One pass that gives each sequence its next token. Returns those that are done.
    ///
    /// `extra` rows ride along at the end of the same pass: they are rows [`active`](Decoder::active)`..` of it.
    pub fn step<B: Backend>(
        &mut self,
        model: &Llama<B>,
        ws: &mut Workspace<B>,
        cache: &mut KvCache<B>,
        extra: &[BatchRow],
    ) -> Result<Vec<Sequence>> {
        self.batch.clear();
        for sequence in &self.active {
            // A sequence in flight has at least the token that `join` chose.
            let last = sequence.new_ids.len() - 1;
            let token = &sequence.new_ids[last..];
            let position = sequence.prompt_len + last;
            self.batch
                .extend(branch_rows(sequence.slot, position, token));
        }
        self.batch.extend_from_slice(extra);
        let mut chosen = self.active.len();
        if extra.is_empty() {
            let backend = model.backend();
            let wanted = backend.step_rows(chosen).min(ws.max_rows());
            if wanted > chosen {
                let idle = cache.idle_rows(backend, wanted - chosen)?;
                self.batch.extend(idle);
                // The head sees the same rows, so that it is the same step to its end.
                chosen = self.batch.len();
            }
        }
        model.forward(ws, cache, &self.batch, 0..model.config().n_layers, &mut ())?;
        self.rows.clear();
        self.rows.extend(0..chosen);
        self.decoding
            .choose(model, ws, &self.rows, &mut self.active)?;
        Ok(self.take_done())
    }

    fn take_done(&mut self) -> Vec<Sequence> {
        let decoding = &self.decoding;
        self.active
            .extract_if(.., |sequence| decoding.is_done(sequence))
            .collect()
    }
}

impl Decoding {
    fn is_done(&self, sequence: &Sequence) -> bool {
        let ended = sequence
            .new_ids
            .last()
            .is_some_and(|id| self.eos.contains(id));
        ended || sequence.new_ids.len() >= self.max_new_tokens
    }

    /// Appends to `sequences[i]` the token that `rows[i]` of the last pass leads to; further rows lead to nothing.
    fn choose<B: Backend>(
        &self,
        model: &Llama<B>,
        ws: &mut Workspace<B>,
        rows: &[usize],
        sequences: &mut [Sequence],
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        match &self.sampling {
            None => {
                for (sequence, best) in sequences.iter_mut().zip(model.best(ws, rows)?) {
                    sequence.push(best);
                }
            }
            Some(sampling) => model.logits(ws, &rows[..sequences.len()], |i, logits| {
                let sequence = &mut sequences[i];
                let step = sequence.new_ids.len() as u64;
                let best = sampling.pick(logits, &sequence.new_ids, sequence.id, step);
                sequence.push(best);
                Ok(())
            })?,
        }
        Ok(())
    }
}

impl Sequence {
    fn push(&mut self, best: Best) {
        self.new_ids.push(best.token);
        self.logprobs.push(best.logprob);
    }
}
