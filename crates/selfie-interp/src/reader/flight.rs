//! A text in a slot.

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Answer, Ask, Feed, Sequence, Session};

use super::job::{Job, Outcome, Text, Ticket};
use crate::{InterpError, Result};

/// A job that has a slot.
pub(super) struct Flight<B: Backend> {
    pub(super) ticket: Ticket,
    pub(super) job: Job<B>,
    pub(super) slot: Slot,
    /// The position behind the prompt.
    prompt_len: usize,
    sequence: Sequence,
    /// Log-probabilities of [`Job::score`], as far as they are known.
    scores: Vec<f32>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Its own text is decoded.
    Decode,
    /// [`Job::score`] has taken the place of its text, and is scored.
    Score,
    NotFinite,
}

impl<B: Backend> Flight<B> {
    /// A job whose prompt is about to be run in `slot`.
    pub(super) fn new(ticket: Ticket, job: Job<B>, slot: Slot, prompt: &[u32]) -> Self {
        Self {
            ticket,
            sequence: Sequence::new(job.key, slot, prompt.to_vec()),
            job,
            slot,
            prompt_len: prompt.len(),
            scores: Vec::new(),
            phase: Phase::Decode,
        }
    }

    /// The rows of its prompt, with what is asked of the last one: the first token of its text, and how likely that of the
    /// text to score is.
    pub(super) fn prompt_feed<'a>(&'a self, tokens: &'a [u32]) -> Feed<'a> {
        Feed {
            slot: self.slot,
            tokens,
            ask: Ask {
                next: Some(self.sequence.draw(&self.job.decoding)),
                score: self.job.score.get(..1).unwrap_or(&[]),
            },
        }
    }

    /// Its next rows.
    pub(super) fn feed(&self) -> Feed<'_> {
        if self.is_decoding() {
            return self.sequence.feed(&self.job.decoding);
        }
        let score = &self.job.score;
        Feed {
            slot: self.slot,
            tokens: &score[..score.len() - 1],
            ask: Ask {
                next: None,
                score: &score[1..],
            },
        }
    }

    /// How many rows that are.
    pub(super) fn rows(&self) -> usize {
        if self.is_decoding() {
            1
        } else {
            self.job.score.len() - 1
        }
    }

    pub(super) fn is_decoding(&self) -> bool {
        self.phase == Phase::Decode
    }

    /// Takes the answer to its rows. Returns whether the slot is done with.
    pub(super) fn take(&mut self, answer: &Answer, session: &mut Session<B>) -> Result<bool> {
        if !answer.is_finite() {
            self.phase = Phase::NotFinite;
            return Ok(true);
        }
        self.scores.extend_from_slice(&answer.scores);
        if self.phase == Phase::Decode {
            self.sequence.push(answer)?;
            if !self.sequence.is_done(&self.job.decoding) {
                return Ok(false);
            }
            if self.scores.len() < self.job.score.len() {
                self.phase = Phase::Score;
                session.rewind(self.slot, self.prompt_len)?;
                return Ok(false);
            }
        }
        if self.scores.len() == self.job.score.len() {
            return Ok(true);
        }
        Err(InterpError::Unanswered)
    }

    pub(super) fn finish(self) -> (Ticket, Job<B>, Outcome) {
        let outcome = if self.phase == Phase::NotFinite {
            Outcome::NotFinite
        } else {
            let (new_ids, logprobs) = self.sequence.into_new();
            Outcome::Text(Text {
                new_ids,
                logprobs,
                clean: Vec::new(),
                scores: self.scores,
            })
        };
        (self.ticket, self.job, outcome)
    }
}
