//! Texts whose tokens are scored, a few rows at a time, beside the decode steps.

use std::collections::VecDeque;

use selfie_kernels::BatchRow;
use selfie_llama::branch_rows;

/// A text that is being scored in a slot.
pub(crate) struct Scoring<T> {
    /// What the text is scored for.
    pub(crate) whose: T,
    pub(crate) slot: u32,
    ids: Vec<u32>,
    /// Log-probabilities, as far as they are known: at least that of the first token.
    scores: Vec<f32>,
}

impl<T> Scoring<T> {
    /// A text, with the score of its first token.
    pub(crate) fn new(whose: T, slot: u32, ids: Vec<u32>, first: f32) -> Self {
        Self {
            whose,
            slot,
            ids,
            scores: vec![first],
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.scores.len() == self.ids.len()
    }

    pub(crate) fn into_scores(self) -> (T, Vec<f32>) {
        (self.whose, self.scores)
    }
}

/// Texts that wait for rows, in order.
pub(crate) struct Scorer<T> {
    queue: VecDeque<Scoring<T>>,
    /// Rows that each text at the front has in the pass under way.
    counts: Vec<usize>,
}

impl<T> Scorer<T> {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            counts: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, scoring: Scoring<T>) {
        self.queue.push_back(scoring);
    }

    /// At most `room` rows, and the token that each is to be scored for. `m` is the position of a text's first token.
    pub(crate) fn rows(&mut self, m: usize, mut room: usize) -> (Vec<BatchRow>, Vec<u32>) {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        self.counts.clear();
        for scoring in &self.queue {
            let ids = &scoring.ids;
            // The first token's score is known, the last one predicts nothing.
            let first = scoring.scores.len() - 1;
            let end = (ids.len() - 1).min(first + room);
            rows.extend(branch_rows(scoring.slot, m + first, &ids[first..end]));
            targets.extend_from_slice(&ids[first + 1..=end]);
            self.counts.push(end - first);
            room -= end - first;
            if room == 0 {
                break;
            }
        }
        (rows, targets)
    }

    /// The scores of the last [`rows`](Scorer::rows); returns the texts that they complete.
    pub(crate) fn scored(&mut self, scores: Vec<f32>) -> Vec<Scoring<T>> {
        let mut scores = scores.into_iter();
        for (scoring, &count) in self.queue.iter_mut().zip(&self.counts) {
            scoring.scores.extend(scores.by_ref().take(count));
        }
        let complete = self.queue.iter().take_while(|s| s.is_complete()).count();
        self.queue.drain(..complete).collect()
    }
}
