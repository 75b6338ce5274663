//! Rewards from lists of words.

use std::collections::HashMap;

use selfie_kernels::Backend;
use selfie_llama::{Bos, Decoding, Llama, Tokenizer};
use serde_json::{Value, json};

use super::{Interpreted, Reward, Verdicts};
use crate::states::{continue_all, encode_all};
use crate::{ControlError, Result};

/// Gives 1 if the interpretation mentions the words as asked, else -1.
///
/// An interpretation is a reading, not behaviour: it may stop saying a word that the model's answer still says.
/// [`with_answers`](WordReward::with_answers) also checks the model's answer to the embedding's prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct WordReward {
    words: Vec<String>,
    when: When,
    answers: Option<(Vec<String>, Decoding)>,
}

/// When to reward an interpretation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// When it mentions none of the words.
    None,
    /// When it mentions any of the words.
    Any,
}

impl WordReward {
    /// Fails if there are no words.
    pub fn new(words: Vec<String>, when: When) -> Result<Self> {
        check_words(&words)?;
        Ok(Self {
            words,
            when,
            answers: None,
        })
    }

    /// Also checks how the model, with the edit so far, continues the prompt. The continuation must mention any of
    /// `words` for [`When::Any`], and none for [`When::None`], in addition to the condition on the interpretation.
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
        let bos = items.first().map_or(Bos::Auto, |item| item.bos);
        let ids = encode_all(tokenizer, &prompts, bos)?;
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

/// Whether the text contains any of the words, ignoring case, also inside longer words.
pub fn mentions(text: &str, words: &[String]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| text.contains(&word.to_lowercase()))
}
