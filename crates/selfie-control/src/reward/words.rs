//! Rewards by lists of words.

use std::collections::HashMap;

use selfie_kernels::Backend;
use selfie_llama::{Decoding, Llama, Tokenizer};
use serde_json::{Value, json};

use super::{Interpreted, Reward, Verdicts};
use crate::states::continue_all;
use crate::{ControlError, Result};

/// 1 where a list of words is mentioned as it should be, else -1.
///
/// An interpretation is a reading, not what the model does: it may stop saying a word while the answer still does.
/// [`with_answers`](WordReward::with_answers) has the model's answer to the embedding's prompt count as well.
#[derive(Clone, Debug, PartialEq)]
pub struct WordReward {
    words: Vec<String>,
    when: When,
    answers: Option<(Vec<String>, Decoding)>,
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
        check_words(&words)?;
        Ok(Self {
            words,
            when,
            answers: None,
        })
    }

    /// Also looks at what the model, with the edit so far, goes on with after the prompt. It has to mention any of `words`
    /// for [`When::Any`] and none for [`When::None`], beside what the interpretation has to.
    pub fn with_answers(mut self, words: Vec<String>, decoding: Decoding) -> Result<Self> {
        check_words(&words)?;
        self.answers = Some((words, decoding));
        Ok(self)
    }

    /// Whether each prompt's answer mentions any of the words.
    fn answered<'a, B: Backend>(
        &self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        items: &[Interpreted<'a>],
    ) -> Result<HashMap<&'a str, bool>> {
        let Some((words, decoding)) = &self.answers else {
            return Ok(HashMap::new());
        };
        let mut prompts: Vec<&str> = items.iter().map(|item| item.prompt).collect();
        prompts.sort_unstable();
        prompts.dedup();
        let ids = prompts.iter().map(|prompt| Ok(tokenizer.encode(prompt)?));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        let answers = continue_all(model, tokenizer, &ids, decoding, |_| {})?;
        let found = answers.iter().map(|answer| mentions(answer, words));
        Ok(prompts.into_iter().zip(found).collect())
    }
}

fn check_words(words: &[String]) -> Result<()> {
    if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
        return Err(ControlError::Nothing {
            what: "reward word",
        });
    }
    Ok(())
}

impl<B: Backend> Reward<B> for WordReward {
    fn rewards(
        &mut self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        let answered = self.answered(model, tokenizer, interpretations)?;
        let reward = |item: &Interpreted<'_>| {
            let wanted = self.when == When::Any;
            let right = |found: bool| found == wanted;
            let answer_right = answered.get(item.prompt).is_none_or(|&found| right(found));
            if answer_right && right(mentions(item.interpretation, &self.words)) {
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
            "answers": self.answers.as_ref().map(|(words, decoding)| json!({
                "words": words,
                "max_new_tokens": decoding.max_new_tokens,
            })),
        })
    }
}

/// Whether any of the words is somewhere in the text, in capitals or not, also as a part of a longer word.
pub fn mentions(text: &str, words: &[String]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| text.contains(&word.to_lowercase()))
}
