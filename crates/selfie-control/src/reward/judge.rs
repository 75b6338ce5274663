//! Rewards from a model that is asked about each interpretation.

use std::sync::Arc;

use selfie_kernels::Backend;
use selfie_llama::{Bos, Decoding, Llama, Tokenizer};
use serde_json::{Value, json};

use super::{Interpreted, Reward, Verdicts};
use crate::states::continue_all;
use crate::{ControlError, Result};

/// The placeholder for the interpretation in a template.
const PLACE: &str = "{interpretation}";

/// Asks the controlled model, with the edit so far, about each interpretation. The first of the given words in the
/// answer decides between 1 and -1. An answer with none of them gives 0 and is reported.
///
/// [`by`](Judge::by) asks another model instead: a judge that the edit cannot change.
pub struct Judge {
    template: String,
    good: Vec<String>,
    bad: Vec<String>,
    decoding: Decoding,
    bos: Bos,
}

/// A [`Judge`] with its own model.
pub struct JudgeModel<J: Backend> {
    judge: Judge,
    model: Llama<J>,
    tokenizer: Arc<Tokenizer>,
    name: String,
}

impl Judge {
    /// `template` must contain `{interpretation}`; `good` and `bad` are the words that give 1 and -1.
    pub fn new(
        template: String,
        good: Vec<String>,
        bad: Vec<String>,
        decoding: Decoding,
    ) -> Result<Self> {
        if !template.contains(PLACE) {
            return Err(ControlError::JudgeTemplate { template });
        }
        for (words, what) in [(&good, "word for reward 1"), (&bad, "word for reward -1")] {
            if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
                return Err(ControlError::Nothing { what });
            }
        }
        Ok(Self {
            template,
            good,
            bad,
            decoding,
            bos: Bos::Auto,
        })
    }

    /// Sets whether the judge's prompts begin with bos.
    pub fn with_bos(self, bos: Bos) -> Self {
        Self { bos, ..self }
    }

    /// Uses another model as the judge. It may be a clone of the controlled model, which stays as it is now and shares
    /// all weights but the edited ones; or another model on the same device. `name` describes it in the edit.
    pub fn by<J: Backend>(
        self,
        model: Llama<J>,
        tokenizer: impl Into<Arc<Tokenizer>>,
        name: String,
    ) -> JudgeModel<J> {
        JudgeModel {
            judge: self,
            model,
            tokenizer: tokenizer.into(),
            name,
        }
    }

    /// Rewards the interpretations by a model's answers about them.
    fn ask<M: Backend>(
        &self,
        model: &Llama<M>,
        tokenizer: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        let prompt = |item: &Interpreted<'_>| {
            let text = self.template.replace(PLACE, item.interpretation);
            Ok(tokenizer.encode_as(&text, self.bos)?)
        };
        let prompts: Vec<Vec<u32>> = interpretations.iter().map(prompt).collect::<Result<_>>()?;
        let answers = continue_all(model, tokenizer, &prompts, &self.decoding, |_| {})?;
        let mut verdicts = Verdicts::default();
        for (index, answer) in answers.iter().enumerate() {
            let reward = decide(answer, &self.good, &self.bad);
            if reward.is_none() {
                verdicts.undecided.push(index);
            }
            verdicts.rewards.push(reward.unwrap_or(0.0));
        }
        Ok(verdicts)
    }

    fn describe_by(&self, judge: &str) -> Value {
        json!({
            "judge": judge,
            "template": self.template,
            "good": self.good,
            "bad": self.bad,
            "max_new_tokens": self.decoding.max_new_tokens,
        })
    }
}

impl<B: Backend> Reward<B> for Judge {
    fn rewards(
        &mut self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        self.ask(model, tokenizer, interpretations)
    }

    fn describe(&self) -> Value {
        self.describe_by("the controlled model")
    }
}

impl<B: Backend, J: Backend> Reward<B> for JudgeModel<J> {
    fn rewards(
        &mut self,
        _: &Llama<B>,
        _: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        self.judge
            .ask(&self.model, &self.tokenizer, interpretations)
    }

    fn describe(&self) -> Value {
        self.judge.describe_by(&self.name)
    }
}

/// The reward of an answer, decided by the first known word in it.
fn decide(answer: &str, good: &[String], bad: &[String]) -> Option<f64> {
    let first = |words: &[String]| words.iter().filter_map(|word| says_at(answer, word)).min();
    match (first(good), first(bad)) {
        (None, None) => None,
        (Some(_), None) => Some(1.0),
        (None, Some(_)) => Some(-1.0),
        (Some(good), Some(bad)) => Some(if good < bad { 1.0 } else { -1.0 }),
    }
}

/// Where a text first mentions a word by itself ("know" does not mention "no"), ignoring case.
fn says_at(text: &str, word: &str) -> Option<usize> {
    let (text, word) = (text.to_lowercase(), word.to_lowercase());
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(&word).map(|(at, _)| at).find(|&at| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        !is_part(before.chars().next_back()) && !is_part(after.chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides() {
        let words = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
        let (good, bad) = (words(&["yes", "not harmful"]), words(&["no", "harmful"]));
        for (answer, want) in [
            ("Yes, it is.", Some(1.0)),
            ("NO", Some(-1.0)),
            ("I know nothing", None),
            ("no, well, yes", Some(-1.0)),
            ("it is not harmful", Some(1.0)),
            ("it is harmful. Yes", Some(-1.0)),
            ("", None),
        ] {
            assert_eq!(decide(answer, &good, &bad), want, "{answer}");
        }
    }
}
