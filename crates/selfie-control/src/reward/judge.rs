//! Rewards by a model that is asked about each interpretation.

use selfie_kernels::Backend;
use selfie_llama::{Decoding, Llama, Tokenizer};
use serde_json::{Value, json};

use super::{Interpreted, Reward, Verdicts};
use crate::states::continue_all;
use crate::{ControlError, Result};

/// What stands for the interpretation in a template.
const PLACE: &str = "{interpretation}";

/// Asks a model about each interpretation. The first of its words that the answer says decides: 1, or -1. An answer with
/// none of them is worth 0 and is reported.
pub struct Judge<B: Backend> {
    /// What answers, with the name of its checkpoint; `None` is the model that is controlled, with the edit so far.
    other: Option<(Llama<B>, Tokenizer, String)>,
    template: String,
    good: Vec<String>,
    bad: Vec<String>,
    decoding: Decoding,
}

impl<B: Backend> Judge<B> {
    /// The controlled model is its own judge. `template` holds `{interpretation}`; `good` and `bad` are the words that are
    /// worth 1 and -1.
    pub fn new(
        template: String,
        good: Vec<String>,
        bad: Vec<String>,
        decoding: Decoding,
    ) -> Result<Self> {
        if !template.contains(PLACE) {
            return Err(ControlError::JudgeTemplate { template });
        }
        for (words, what) in [
            (&good, "word that is worth 1"),
            (&bad, "word that is worth -1"),
        ] {
            if words.is_empty() || words.iter().any(|word| word.trim().is_empty()) {
                return Err(ControlError::Nothing { what });
            }
        }
        Ok(Self {
            other: None,
            template,
            good,
            bad,
            decoding,
        })
    }

    /// Another model judges.
    pub fn by(self, model: Llama<B>, tokenizer: Tokenizer, name: String) -> Self {
        Self {
            other: Some((model, tokenizer, name)),
            ..self
        }
    }
}

impl<B: Backend> Reward<B> for Judge<B> {
    fn rewards(
        &mut self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        let (model, tokenizer) = match &self.other {
            Some((model, tokenizer, _)) => (model, tokenizer),
            None => (model, tokenizer),
        };
        let prompt = |item: &Interpreted<'_>| {
            let text = self.template.replace(PLACE, item.interpretation);
            Ok(tokenizer.encode(&text)?)
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

    fn describe(&self) -> Value {
        json!({
            "judge": self.other.as_ref().map_or("the controlled model", |(_, _, name)| name),
            "template": self.template,
            "good": self.good,
            "bad": self.bad,
            "max_new_tokens": self.decoding.max_new_tokens,
        })
    }
}

/// What the first of the words in an answer is worth.
fn decide(answer: &str, good: &[String], bad: &[String]) -> Option<f64> {
    let first = |words: &[String]| words.iter().filter_map(|word| says_at(answer, word)).min();
    match (first(good), first(bad)) {
        (None, None) => None,
        (Some(_), None) => Some(1.0),
        (None, Some(_)) => Some(-1.0),
        (Some(good), Some(bad)) => Some(if good < bad { 1.0 } else { -1.0 }),
    }
}

/// Where a text first says a word as a word of its own ("no" is not in "know"), in capitals or not.
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
