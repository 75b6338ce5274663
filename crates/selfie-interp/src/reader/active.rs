//! A job that is running in a slot.

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Answer, Ask, Feed, Sequence, Session};

use super::job::{Job, Outcome, Text, Ticket};
use crate::{InterpError, Result};

/// A job that has a slot.
pub(super) struct ActiveJob<B: Backend> {
    pub(super) ticket: Ticket,
    pub(super) job: Job<B>,
    pub(super) slot: Slot,
    /// The position after the prompt.
    prompt_len: usize,
    sequence: Sequence,
    /// The log-probabilities of [`Job::score`] so far.
    scores: Vec<f32>,
    phase: Phase,
    /// Drafts in a row of which no token was right.
    misses: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Decoding its own text.
    Decode,
    /// Scoring [`Job::score`] in place of its text.
    Score,
    NotFinite,
}

impl<B: Backend> ActiveJob<B> {
    /// A job whose prompt is about to run in `slot`.
    pub(super) fn new(ticket: Ticket, job: Job<B>, slot: Slot, prompt: &[u32]) -> Self {
        Self {
            ticket,
            sequence: Sequence::new(job.key, slot, prompt.to_vec()),
            job,
            slot,
            prompt_len: prompt.len(),
            scores: Vec::new(),
            phase: Phase::Decode,
            misses: 0,
        }
    }

    /// The rows of the prompt. The last row is asked for the first token of the text, and for the score of the first
    /// token of [`Job::score`].
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

    /// The job's next rows.
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

    /// The tokens of its text so far.
    pub(super) fn new_ids(&self) -> &[u32] {
        self.sequence.new_ids()
    }

    /// Guesses the next tokens of its text, and returns how many of them the next feed takes.
    pub(super) fn draft(&mut self, guess: &[u32]) -> usize {
        self.sequence.draft(guess, &self.job.decoding)
    }

    /// The number of guessed tokens in the next feed.
    pub(super) fn drafted(&self) -> usize {
        self.sequence.drafted()
    }

    /// Drafts in a row of which no token was right.
    pub(super) fn misses(&self) -> u32 {
        self.misses
    }

    /// The number of rows in [`feed`](Self::feed).
    pub(super) fn rows(&self) -> usize {
        if self.is_decoding() {
            1 + self.drafted()
        } else {
            self.job.score.len() - 1
        }
    }

    pub(super) fn is_decoding(&self) -> bool {
        self.phase == Phase::Decode
    }

    /// Takes the answer for the job's rows. Returns whether the job is done with its slot.
    pub(super) fn take(&mut self, answer: &Answer, session: &mut Session<B>) -> Result<bool> {
        if !answer.is_finite() {
            self.phase = Phase::NotFinite;
            return Ok(true);
        }
        self.scores.extend_from_slice(&answer.scores);
        if self.phase == Phase::Decode {
            if self.drafted() > 0 {
                let missed = answer.accepted.is_empty();
                self.misses = if missed { self.misses + 1 } else { 0 };
            }
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
