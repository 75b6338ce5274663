//! Scores texts on a prompt without writes.
//!
//! Texts of a sweep often begin alike: of 8,000 tokens to score in a real sweep, only 2,500 differ in themselves or in
//! what precedes them. So scored texts stay in the cache, and a later text continues the one it shares most tokens
//! with, from where they diverge. The bits are those of scoring it alone.

use std::collections::{BTreeMap, VecDeque};

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Answer, Ask, Feed, Session};

use super::job::{Outcome, PromptId, Text, Ticket};
use super::prompt::ReaderPrompt;
use crate::{InterpError, Result};

/// Scored texts, in their own slots.
pub(super) struct Scored {
    /// The number of slots.
    capacity: usize,
    /// Texts that have been scored and are still in the cache.
    cached: Vec<CachedText>,
    /// Texts that the current pass scores.
    running: Vec<Running>,
    waiting: VecDeque<Waiting>,
    /// Texts that were in the cache to the last token.
    known: Vec<(Ticket, Text)>,
    /// Counts plans, to find the least recently used text.
    clock: u64,
    tokens: usize,
    rows: usize,
}

struct Waiting {
    ticket: Ticket,
    prompt: PromptId,
    text: Text,
}

struct CachedText {
    prompt: PromptId,
    slot: Slot,
    ids: Vec<u32>,
    scores: Vec<f32>,
    /// Whether a later text was identical. Such texts recur, so they stay longest.
    repeated: bool,
    used: u64,
}

struct Running {
    ticket: Ticket,
    text: Text,
    /// The cached text that it becomes; scores are filled in as they are known.
    cached: CachedText,
    /// The first of its tokens to run.
    from: usize,
}

impl Running {
    /// The tokens to run; none for a single token, whose score comes from the prompt's last row.
    fn rows(&self) -> &[u32] {
        &self.cached.ids[self.from..self.cached.ids.len() - 1]
    }
}

impl Scored {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            cached: Vec::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            known: Vec::new(),
            clock: 0,
            tokens: 0,
            rows: 0,
        }
    }

    pub(super) fn push(&mut self, ticket: Ticket, prompt: PromptId, text: Text) {
        self.tokens += text.new_ids.len();
        self.waiting.push_back(Waiting {
            ticket,
            prompt,
            text,
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.known.is_empty()
    }

    /// Drops a waiting text, between two passes.
    pub(super) fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
        self.known.retain(|(known, _)| *known != ticket);
    }

    /// Whether a text on a prompt is waiting.
    pub(super) fn waits_for(&self, prompt: PromptId) -> bool {
        self.waiting.iter().any(|waiting| waiting.prompt == prompt)
    }

    /// Closes the texts on a prompt.
    pub(super) fn forget<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        prompt: PromptId,
    ) -> Result<()> {
        for text in self.cached.extract_if(.., |text| text.prompt == prompt) {
            session.close(text.slot)?;
        }
        Ok(())
    }

    /// The number of tokens to score, and of rows run for them.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tokens, self.rows)
    }

    /// Chooses the texts for the next pass, with at most `room` rows. Texts of more than `most` rows, which fit no
    /// pass, are chosen anyway; with `alone`, so is the first text.
    ///
    /// A text waits if it shares more with a text of this pass than with any cached one.
    pub(super) fn plan<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        prompts: &BTreeMap<PromptId, ReaderPrompt<B>>,
        mut room: usize,
        most: usize,
        alone: bool,
    ) -> Result<()> {
        self.clock += 1;
        let mut firsts: BTreeMap<PromptId, Vec<usize>> = BTreeMap::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let (prompt, ids) = (waiting.prompt, &waiting.text.new_ids);
            let running = self.running.iter().map(|running| &running.cached);
            let soon = longest(running, prompt, ids).map_or(0, |(_, shared)| shared);
            let parent = longest(self.cached.iter(), prompt, ids);
            let shared = parent.map_or(0, |(_, shared)| shared);
            if soon > shared {
                self.waiting.push_back(waiting);
                continue;
            }
            if let Some((parent, _)) = parent.filter(|_| shared == ids.len()) {
                let parent = &mut self.cached[parent];
                parent.used = self.clock;
                parent.repeated = true;
                let mut text = waiting.text;
                text.clean = parent.scores[..shared].to_vec();
                self.known.push((waiting.ticket, text));
                continue;
            }
            // The last shared token runs again, because another token follows it now.
            let from = shared.saturating_sub(1);
            let rows = ids.len() - 1 - from;
            let must = rows > most || (alone && self.running.is_empty());
            if rows > room && !must {
                self.waiting.push_back(waiting);
                continue;
            }
            let ready = &prompts[&prompt];
            let parent = parent.map(|(at, _)| self.cached[at].slot);
            let Some(slot) = self.slot(session, ready, parent)? else {
                self.waiting.push_back(waiting);
                continue;
            };
            let mut scores = Vec::with_capacity(ids.len());
            if let Some(parent) = parent {
                session.fork(parent, slot, ready.ids.len() + from)?;
                if let Some(parent) = self.cached.iter_mut().find(|text| text.slot == parent) {
                    parent.used = self.clock;
                    scores.extend_from_slice(&parent.scores[..shared]);
                }
            } else {
                let firsts = firsts.entry(prompt).or_default();
                firsts.push(self.running.len());
            }
            room = room.saturating_sub(rows);
            self.rows += rows;
            let ids = ids.clone();
            self.running.push(Running {
                ticket: waiting.ticket,
                text: waiting.text,
                cached: CachedText {
                    prompt,
                    slot,
                    ids,
                    scores,
                    repeated: false,
                    used: self.clock,
                },
                from,
            });
        }
        for (prompt, firsts) in firsts {
            self.score_firsts(session, &prompts[&prompt], &firsts)?;
        }
        Ok(())
    }

    /// Scores the first tokens of texts that share nothing, from the prompt's last row.
    fn score_firsts<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        prompt: &ReaderPrompt<B>,
        running: &[usize],
    ) -> Result<()> {
        let ask = |&at: &usize| {
            let ask = Ask {
                next: None,
                score: &self.running[at].cached.ids[..1],
            };
            (0, ask)
        };
        let asks: Vec<_> = running.iter().map(ask).collect();
        let answers = session.answer(&prompt.last, &asks)?;
        for (&at, answer) in running.iter().zip(answers) {
            self.running[at].cached.scores.extend(answer.scores);
        }
        Ok(())
    }

    /// A slot that continues the prompt: a free one, or that of the least recently used text, preferably one that did
    /// not recur. `parent` keeps its slot.
    fn slot<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        prompt: &ReaderPrompt<B>,
        parent: Option<Slot>,
    ) -> Result<Option<Slot>> {
        if self.cached.len() + self.running.len() >= self.capacity {
            let others = self.cached.iter().enumerate();
            let others = others.filter(|(_, text)| Some(text.slot) != parent);
            let Some((oldest, _)) = others.min_by_key(|(_, text)| (text.repeated, text.used))
            else {
                return Ok(None);
            };
            session.close(self.cached.swap_remove(oldest).slot)?;
        }
        Ok(Some(session.open_on(prompt.prefix, prompt.ids.len())?))
    }

    /// The rows of the texts that the pass scores.
    pub(super) fn feeds(&self) -> impl Iterator<Item = Feed<'_>> {
        let running = self.running.iter().filter(|text| !text.rows().is_empty());
        running.map(|text| Feed {
            ask: Ask {
                next: None,
                score: &text.cached.ids[text.from + 1..],
            },
            ..Feed::new(text.cached.slot, text.rows())
        })
    }

    /// Takes the answers to [`feeds`](Scored::feeds), and returns the texts with their scores.
    pub(super) fn take<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        mut answers: impl Iterator<Item = Answer>,
        finished: &mut Vec<(Ticket, Outcome)>,
    ) -> Result<()> {
        let known = self.known.drain(..);
        finished.extend(known.map(|(ticket, text)| (ticket, Outcome::Text(text))));
        for running in std::mem::take(&mut self.running) {
            let Running {
                ticket,
                mut text,
                mut cached,
                from,
            } = running;
            if cached.ids.len() - 1 > from {
                let answer = answers.next().ok_or(InterpError::Unanswered)?;
                cached.scores.extend(answer.scores);
            }
            if cached.scores.len() != cached.ids.len() {
                return Err(InterpError::Unanswered);
            }
            if cached.scores.iter().all(|score| score.is_finite()) {
                text.clean.clone_from(&cached.scores);
                self.cached.push(cached);
                finished.push((ticket, Outcome::Text(text)));
            } else {
                session.close(cached.slot)?;
                finished.push((ticket, Outcome::NotFinite));
            }
        }
        Ok(())
    }
}

/// The text on a prompt that shares the most leading tokens with `ids`, at least one, and their number.
fn longest<'a>(
    texts: impl Iterator<Item = &'a CachedText>,
    prompt: PromptId,
    ids: &[u32],
) -> Option<(usize, usize)> {
    let shared = |text: &CachedText| {
        let pairs = text.ids.iter().zip(ids);
        pairs.take_while(|(a, b)| a == b).count()
    };
    let of_prompt = texts.enumerate().filter(|(_, text)| text.prompt == prompt);
    of_prompt
        .map(|(at, text)| (at, shared(text)))
        .filter(|&(_, shared)| shared > 0)
        .max_by_key(|&(at, shared)| (shared, std::cmp::Reverse(at)))
}
