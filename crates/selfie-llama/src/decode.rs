//! Decoding: how a sequence continues and when it ends.

use selfie_kernels::{Best, Slot};

use crate::{Answer, Ask, Draw, Feed, LlamaError, Result, Sampling};

/// How to choose tokens and when to end a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoding {
    /// The most new tokens of a sequence.
    pub max_new_tokens: usize,
    /// Ids that end a sequence; the id that ended it is kept.
    pub eos: Vec<u32>,
    /// `None` means greedy.
    pub sampling: Option<Sampling>,
}

/// A sequence being decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The sequence's number. Sampling depends on it and on the seed, not on the batch.
    pub key: u64,
    /// The slot that holds its keys and values.
    pub slot: Slot,
    /// The prompt's tokens, then those chosen so far, then a draft.
    ids: Vec<u32>,
    prompt_len: usize,
    logprobs: Vec<f32>,
}

impl Sequence {
    /// A sequence whose prompt is in `slot`, or is about to be.
    pub fn new(key: u64, slot: Slot, prompt: Vec<u32>) -> Self {
        Self {
            key,
            slot,
            prompt_len: prompt.len(),
            ids: prompt,
            logprobs: Vec::new(),
        }
    }

    /// The tokens chosen so far.
    pub fn new_ids(&self) -> &[u32] {
        &self.ids[self.prompt_len..self.len()]
    }

    /// The number of tokens without the draft.
    fn len(&self) -> usize {
        self.prompt_len + self.logprobs.len()
    }

    /// Their log-probabilities under the raw logits, before temperature, top-k and top-p.
    pub fn logprobs(&self) -> &[f32] {
        &self.logprobs
    }

    /// Guesses the next tokens. The next [`feed`](Self::feed) has them checked ([`Draw::Verify`]), so that a good
    /// guess saves steps, and a bad one changes nothing. Returns how many of them the feed takes: none when sampling,
    /// none from an id that ends the text on, and no more than the text has room for.
    pub fn draft(&mut self, guess: &[u32], decoding: &Decoding) -> usize {
        self.ids.truncate(self.len());
        // The last new token is chosen after the draft, and is not fed.
        let room = decoding
            .max_new_tokens
            .saturating_sub(self.logprobs.len() + 1);
        let is_inner = |id: &&u32| !decoding.eos.contains(id);
        if decoding.sampling.is_none() {
            self.ids
                .extend(guess.iter().take(room).take_while(is_inner));
        }
        self.drafted()
    }

    /// The number of guessed tokens in the next feed.
    pub fn drafted(&self) -> usize {
        self.ids.len() - self.len()
    }

    /// How to choose the next token.
    pub fn draw<'a>(&'a self, decoding: &'a Decoding) -> Draw<'a> {
        match &decoding.sampling {
            None if self.drafted() > 0 => Draw::Verify {
                draft: self.drafted(),
            },
            None => Draw::Greedy,
            Some(sampling) => Draw::Sample {
                sampling,
                context: &self.ids[..self.len()],
                key: self.key,
                step: self.logprobs.len() as u64,
            },
        }
    }

    /// A decode step: feeds the last token, and the draft, and asks for the next one.
    pub fn feed<'a>(&'a self, decoding: &'a Decoding) -> Feed<'a> {
        Feed {
            slot: self.slot,
            tokens: &self.ids[self.len().saturating_sub(1)..],
            ask: Ask {
                next: Some(self.draw(decoding)),
                score: &[],
            },
        }
    }

    /// Takes the answer to a feed: the tokens of the draft that are right, and the token after them. An error if its
    /// logits are not finite.
    pub fn push(&mut self, answer: &Answer) -> Result<()> {
        self.ids.truncate(self.len());
        for best in answer
            .accepted
            .iter()
            .map(Some)
            .chain([answer.next.as_ref()])
        {
            match best {
                Some(Best { token, logprob }) if logprob.is_finite() => {
                    self.ids.push(*token);
                    self.logprobs.push(*logprob);
                }
                _ => {
                    return Err(LlamaError::LogitNotFinite {
                        position: self.len().saturating_sub(1),
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether the sequence has ended.
    pub fn is_done(&self, decoding: &Decoding) -> bool {
        let last = self.new_ids().last();
        let ended = last.is_some_and(|id| decoding.eos.contains(id));
        ended || self.new_ids().len() >= decoding.max_new_tokens
    }

    /// The new tokens and their log-probabilities.
    pub fn into_new(self) -> (Vec<u32>, Vec<f32>) {
        (self.new_ids().to_vec(), self.logprobs)
    }
}
