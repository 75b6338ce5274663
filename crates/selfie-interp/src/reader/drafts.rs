//! Drafts: guesses at how texts go on.
//!
//! Neighbouring cells often say the same, and texts repeat themselves. So a guess is what followed, in a finished or
//! running text of the same prompt, after the tokens that a text ends with (prompt lookup; "Inference with Reference",
//! Yang et al., arXiv 2304.04487, section 3). The session has it checked in the pass that feeds the text's last token
//! ([`Draw::Verify`](selfie_llama::Draw::Verify)). Where few texts decode, reading the weights bounds a pass, and the
//! guessed tokens hardly cost anything. No text depends on a guess.

use std::collections::{BTreeMap, VecDeque};

use selfie_kernels::Backend;

use super::active::ActiveJob;
use super::job::PromptId;

/// Tokens of finished texts to keep for each prompt. A guess looks at all of them, in some microseconds.
const KEPT: usize = 8192;
/// Tokens that must match, at least. The beginning of a text counts as a token.
const MATCH: usize = 2;
/// Tokens to compare, at most.
const COMPARED: usize = 16;
/// Guessed tokens for each token that matches, at most.
const EACH: usize = 2;

/// What guesses are made from, and what came of them.
pub(super) struct Drafts {
    /// The most rows of a pass with guesses.
    rows: usize,
    /// Finished texts, the latest one first.
    finished: BTreeMap<PromptId, VecDeque<Vec<u32>>>,
}

impl Drafts {
    pub(super) fn new(rows: usize) -> Self {
        Self {
            rows,
            finished: BTreeMap::new(),
        }
    }

    /// Keeps a finished text.
    pub(super) fn keep(&mut self, prompt: PromptId, ids: &[u32]) {
        // Nothing follows the only token of a text.
        if self.rows < 2 || ids.len() < 2 {
            return;
        }
        let texts = self.finished.entry(prompt).or_default();
        texts.retain(|text| text != ids);
        texts.push_front(ids.to_vec());
        let mut tokens = 0;
        let kept = texts.iter().take_while(|text| {
            tokens += text.len();
            tokens <= KEPT
        });
        let kept = kept.count();
        texts.truncate(kept);
    }

    /// Forgets the texts of a prompt.
    pub(super) fn forget(&mut self, prompt: PromptId) {
        self.finished.remove(&prompt);
    }

    /// Gives texts guesses, as many as a pass of `rows` rows without them has room for.
    pub(super) fn guess<B: Backend>(&self, jobs: &mut [ActiveJob<B>], rows: usize) {
        let mut room = self.rows.saturating_sub(rows);
        for at in 0..jobs.len() {
            let job = &jobs[at];
            let most = room
                .div_ceil(jobs.len() - at)
                .min(self.rows >> job.misses());
            if most == 0 || !job.is_decoding() {
                continue;
            }
            let prompt = job.job.prompt;
            let finished = self.finished.get(&prompt).into_iter().flatten();
            let running = jobs.iter().filter(|other| other.job.prompt == prompt);
            let texts = finished
                .map(Vec::as_slice)
                .chain(running.map(ActiveJob::new_ids));
            if let Some((matched, next)) = longest_match(texts, job.new_ids()) {
                let most = most.min(EACH * matched).min(next.len());
                let guess = next[..most].to_vec();
                room -= jobs[at].draft(&guess);
            }
        }
    }
}

/// Finds the longest match of the last of `ids` in some texts, and returns its length and what followed it. The first
/// text wins among equals.
fn longest_match<'a>(
    texts: impl Iterator<Item = &'a [u32]>,
    ids: &[u32],
) -> Option<(usize, &'a [u32])> {
    let mut best = None;
    let mut most = MATCH - 1;
    for text in texts {
        for end in 1..text.len() {
            let pairs = text[..end]
                .iter()
                .rev()
                .zip(ids.iter().rev())
                .take(COMPARED);
            let same = pairs.take_while(|(a, b)| a == b).count();
            let from_the_beginning = same == end && same == ids.len();
            let matched = same + usize::from(from_the_beginning);
            if matched > most {
                most = matched;
                best = Some((matched, &text[end..]));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_of_the_end_wins() {
        let texts: [&[u32]; 3] = [&[1, 2, 3, 4, 5], &[7, 3, 4, 8], &[1, 2, 3, 4, 6]];
        for (ids, want) in [
            // One token matches if both texts begin with it, and not elsewhere.
            (&[1][..], Some((2, &[2, 3, 4, 5][..]))),
            (&[9, 1], None),
            (&[3], None),
            (&[9, 1, 2], Some((2, &[3, 4, 5]))),
            (&[7, 3], Some((3, &[4, 8]))),
            (&[9, 7, 3, 4], Some((3, &[8]))),
            (&[1, 2, 3, 4], Some((5, &[5]))),
            // Nothing follows the end of a text.
            (&[9, 4, 6], None),
            (&[], None),
        ] {
            assert_eq!(longest_match(texts.into_iter(), ids), want, "{ids:?}");
        }
    }

    #[test]
    fn only_the_latest_texts_are_kept() {
        let (prompt, other) = (PromptId(0), PromptId(1));
        let mut drafts = Drafts::new(8);
        for id in 0..100 {
            drafts.keep(prompt, &[id; 100]);
            drafts.keep(other, &[id, 1]);
            drafts.keep(other, &[7, 1]);
            drafts.keep(other, &[7]);
        }
        let firsts = |prompt| -> Vec<u32> {
            let texts = drafts.finished.get(&prompt).into_iter().flatten();
            texts.map(|text| text[0]).collect()
        };
        assert_eq!(firsts(prompt), (19..100).rev().collect::<Vec<u32>>());
        assert_eq!(firsts(other)[..3], [7, 99, 98]);
        assert_eq!(firsts(other).len(), 100);
        drafts.forget(prompt);
        assert!(!drafts.finished.contains_key(&prompt));
    }
}
