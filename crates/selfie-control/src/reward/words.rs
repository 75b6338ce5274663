//! Rewards by lists of words.

use selfie_kernels::Backend;
use selfie_llama::{Llama, Tokenizer};
use serde_json::{Value, json};

use super::{Interpreted, Reward, Verdicts};
use crate::{ControlError, Result};

/// 1 where a list of words is mentioned as it should be, else -1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordReward {
    words: Vec<String>,
    when: When,
}

/// When an interpretation is rewarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When it mentions none of the words.
    None,
    /// When it mentions any of them.
    Any,
}

impl WordReward {
    /// An error when there are no words.
    pub fn new(words: Vec<String>, when: When) -> Result<Self> {
        if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
            return Err(ControlError::Nothing {
                what: "reward word",
            });
        }
        Ok(Self { words, when })
    }
}

impl<B: Backend> Reward<B> for WordReward {
    fn rewards(
        &mut self,
        _: &Llama<B>,
        _: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        let reward = |item: &Interpreted<'_>| {
            let any = mentions(item.interpretation, &self.words);
            if any == (self.when == When::Any) {
                1.0
            } else {
                -1.0
            }
        };
        Ok(Verdicts {
            rewards: interpretations.iter().map(reward).collect(),
            undecided: Vec::new(),
        })
    }

    fn describe(&self) -> Value {
        json!({
            "words": self.words,
            "when": match self.when {
                When::None => "none",
                When::Any => "any",
            },
        })
    }
}

/// Whether any of the words is somewhere in the text, in capitals or not, also as a part of a longer word.
pub fn mentions(text: &str, words: &[String]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| text.contains(&word.to_lowercase()))
}
