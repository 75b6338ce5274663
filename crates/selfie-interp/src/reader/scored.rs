//! Texts that are scored against a prompt as it is.
//!
//! Texts of a sweep begin alike: of 8,000 tokens that a real sweep has to score, 2,500 are different after different
//! beginnings. So texts stay in the cache when they are scored, and one that comes later continues the one that it shares
//! most tokens with, from where they part. The bits are those that it would have alone.

use std::collections::{BTreeMap, VecDeque};

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Answer, Ask, Feed, Session};

use super::job::{Outcome, PromptId, Text, Ticket};
use super::prompt::ReaderPrompt;
use crate::{InterpError, Result};

/// The texts, in slots of their own.
pub(super) struct Scored {
    /// Slots that they may have.
    capacity: usize,
    /// Texts that are scored, and in the cache still.
    there: Vec<Resident>,
    /// Texts that the pass under way scores.
    running: Vec<Running>,
    waiting: VecDeque<Waiting>,
    /// Texts that were there already, to the last token.
    known: Vec<(Ticket, Text)>,
    /// Counts plans, so that it is known which text was of no use for longest.
    clock: u64,
    tokens: usize,
    rows: usize,
}

struct Waiting {
    ticket: Ticket,
    prompt: PromptId,
    text: Text,
}

struct Resident {
    prompt: PromptId,
    slot: Slot,
    ids: Vec<u32>,
    scores: Vec<f32>,
    /// Whether a later text was the same: such texts come again, and stay longest.
    repeated: bool,
    used: u64,
}

struct Running {
    ticket: Ticket,
    text: Text,
    /// What it becomes; its scores are known as far as they are there.
    resident: Resident,
    /// The first of its tokens that is run.
    from: usize,
}

impl Running {
    /// The tokens that are run; none for a single token, whose score the prompt's last row gives.
    fn rows(&self) -> &[u32] {
        &self.resident.ids[self.from..self.resident.ids.len() - 1]
    }
}

impl Scored {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            there: Vec::new(),
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

    /// Drops a text that waits, between two passes.
    pub(super) fn cancel(&mut self, ticket: Ticket) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
        self.known.retain(|(known, _)| *known != ticket);
    }

    /// Whether a text of a prompt waits.
    pub(super) fn waits_for(&self, prompt: PromptId) -> bool {
        self.waiting.iter().any(|waiting| waiting.prompt == prompt)
    }

    /// Closes the texts of a prompt.
    pub(super) fn forget<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        prompt: PromptId,
    ) -> Result<()> {
        for text in self.there.extract_if(.., |text| text.prompt == prompt) {
            session.close(text.slot)?;
        }
        Ok(())
    }

    /// Tokens that were to be scored, and rows that were run for them.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tokens, self.rows)
    }

    /// Chooses the texts that the next pass scores, in at most `room` rows; one of more than `most` rows, which no
    /// pass has room for, and with `alone` the first one are chosen all the same.
    ///
    /// A text that shares more with one of this pass than with those that are there waits for it.
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
            let running = self.running.iter().map(|running| &running.resident);
            let soon = longest(running, prompt, ids).map_or(0, |(_, shared)| shared);
            let parent = longest(self.there.iter(), prompt, ids);
            let shared = parent.map_or(0, |(_, shared)| shared);
            if soon > shared {
                self.waiting.push_back(waiting);
                continue;
            }
            if let Some((parent, _)) = parent.filter(|_| shared == ids.len()) {
                let parent = &mut self.there[parent];
                parent.used = self.clock;
                parent.repeated = true;
                let mut text = waiting.text;
                text.clean = parent.scores[..shared].to_vec();
                self.known.push((waiting.ticket, text));
                continue;
            }
            // The last shared token is run again: what follows it is another token now.
            let from = shared.saturating_sub(1);
            let rows = ids.len() - 1 - from;
            let must = rows > most || (alone && self.running.is_empty());
            if rows > room && !must {
                self.waiting.push_back(waiting);
                continue;
            }
            let ready = &prompts[&prompt];
            let parent = parent.map(|(at, _)| self.there[at].slot);
            let Some(slot) = self.slot(session, ready, parent)? else {
                self.waiting.push_back(waiting);
                continue;
            };
            let mut scores = Vec::with_capacity(ids.len());
            if let Some(parent) = parent {
                session.fork(parent, slot, ready.ids.len() + from)?;
                if let Some(parent) = self.there.iter_mut().find(|text| text.slot == parent) {
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
                resident: Resident {
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

    /// The first tokens of texts that share nothing with another: the prompt's last row gives their scores.
    fn score_firsts<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        prompt: &ReaderPrompt<B>,
        running: &[usize],
    ) -> Result<()> {
        let ask = |&at: &usize| {
            let ask = Ask {
                next: None,
                score: &self.running[at].resident.ids[..1],
            };
            (0, ask)
        };
        let asks: Vec<_> = running.iter().map(ask).collect();
        let answers = session.answer(&prompt.last, &asks)?;
        for (&at, answer) in running.iter().zip(answers) {
            self.running[at].resident.scores.extend(answer.scores);
        }
        Ok(())
    }

    /// A slot that continues the prompt: a free one, or that of a text that did not come again and was of no use for
    /// longest. `parent` keeps its own.
    fn slot<B: Backend>(
        &mut self,
        session: &mut Session<B>,
        prompt: &ReaderPrompt<B>,
        parent: Option<Slot>,
    ) -> Result<Option<Slot>> {
        if self.there.len() + self.running.len() >= self.capacity {
            let others = self.there.iter().enumerate();
            let others = others.filter(|(_, text)| Some(text.slot) != parent);
            let Some((oldest, _)) = others.min_by_key(|(_, text)| (text.repeated, text.used))
            else {
                return Ok(None);
            };
            session.close(self.there.swap_remove(oldest).slot)?;
        }
        Ok(Some(session.open_on(prompt.prefix, prompt.ids.len())?))
    }

    /// The rows of the texts that the pass scores.
    pub(super) fn feeds(&self) -> impl Iterator<Item = Feed<'_>> {
        let running = self.running.iter().filter(|text| !text.rows().is_empty());
        running.map(|text| Feed {
            ask: Ask {
                next: None,
                score: &text.resident.ids[text.from + 1..],
            },
            ..Feed::new(text.resident.slot, text.rows())
        })
    }

    /// Takes the answers to [`feeds`](Scored::feeds), and hands out the texts with their scores.
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
                mut resident,
                from,
            } = running;
            if resident.ids.len() - 1 > from {
                let answer = answers.next().ok_or(InterpError::Unanswered)?;
                resident.scores.extend(answer.scores);
            }
            if resident.scores.len() != resident.ids.len() {
                return Err(InterpError::Unanswered);
            }
            if resident.scores.iter().all(|score| score.is_finite()) {
                text.clean.clone_from(&resident.scores);
                self.there.push(resident);
                finished.push((ticket, Outcome::Text(text)));
            } else {
                session.close(resident.slot)?;
                finished.push((ticket, Outcome::NotFinite));
            }
        }
        Ok(())
    }
}

/// The text of a prompt that shares the most first tokens with `ids`, at least one, and how many.
fn longest<'a>(
    texts: impl Iterator<Item = &'a Resident>,
    prompt: PromptId,
    ids: &[u32],
) -> Option<(usize, usize)> {
    let shared = |text: &Resident| {
        let pairs = text.ids.iter().zip(ids);
        pairs.take_while(|(a, b)| a == b).count()
    };
    let of_prompt = texts.enumerate().filter(|(_, text)| text.prompt == prompt);
    of_prompt
        .map(|(at, text)| (at, shared(text)))
        .filter(|&(_, shared)| shared > 0)
        .max_by_key(|&(at, shared)| (shared, std::cmp::Reverse(at)))
}
