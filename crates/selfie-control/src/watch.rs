//! Measures what the edited model writes, by the unedited model.

use std::collections::HashSet;

use selfie_kernels::Backend;
use selfie_llama::{
    Decoding, Generated, Llama, Sampling, Session, SessionSize, Tokenizer, generate_all,
};
use serde::{Deserialize, Serialize};

use crate::drift::{Drift, DriftMeter};
use crate::{Result, Watch};

/// Texts to score together.
const SLOTS: usize = 16;

/// What a model wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Written {
    /// The unedited model's mean surprise in nats per token: the logarithm of its perplexity.
    pub surprise: f64,
    /// The share of token triples that occurred before in the same text.
    pub repetition: f64,
    /// The texts, one per prompt, without special tokens.
    pub texts: Vec<String>,
}

/// How the edit changes the model's texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Watched {
    /// The drift on the unedited model's answers to the reference prompts; `None` without reference prompts.
    pub answers: Option<Drift>,
    /// The drift on the unedited model's sampled continuations of the controlled prompts. It should change where an
    /// answer should.
    pub continuations: Drift,
    /// What the model now writes after the controlled prompts.
    pub written: Written,
}

/// One figure of the report at the end of a run, without and with the edit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, and on what.
    pub name: String,
    /// The unedited model's value.
    pub before: f64,
    /// The value with the edit.
    pub after: f64,
}

/// The texts of a run, and the unedited model's results on them.
pub(crate) struct Watcher<B: Backend> {
    unedited: Llama<B>,
    prompts: Prompts,
    continuations: DriftMeter<B>,
    references: Option<(Prompts, DriftMeter<B>)>,
}

/// Prompts and the unedited model's continuations.
struct Prompts {
    ids: Vec<Vec<u32>>,
    decoding: Decoding,
    before: Written,
}

impl<B: Backend> Watcher<B> {
    /// `layer` is the first that may change.
    pub(crate) fn new(
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        watch: &Watch,
        prompts: Vec<Vec<u32>>,
        references: Option<&[Vec<u32>]>,
        layer: usize,
    ) -> Result<Self> {
        let decoding = |prompts: &[Vec<u32>]| {
            let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
            let left = model.config().max_positions.saturating_sub(longest);
            Decoding {
                max_new_tokens: watch.new_tokens.min(left),
                eos: model.config().eos.clone(),
                sampling: None,
            }
        };
        let drawn = Decoding {
            sampling: Some(Sampling::default()),
            ..decoding(&prompts)
        };
        // A draw depends on its place in the list.
        let repeated: Vec<Vec<u32>> = prompts
            .iter()
            .flat_map(|prompt| std::iter::repeat_n(prompt.clone(), watch.draws))
            .collect();
        let continued = generate_all(model, &repeated, &drawn, |_| {})?;
        let continuations = continuation_drift(model, &repeated, &continued, layer)?;
        let (prompts, _) = Prompts::new(model, tokenizer, prompts, decoding)?;
        let mut held = None;
        if let Some(references) = references {
            let (references, answers) =
                Prompts::new(model, tokenizer, references.to_vec(), decoding)?;
            let meter = continuation_drift(model, &references.ids, &answers, layer)?;
            held = Some((references, meter));
        }
        Ok(Self {
            unedited: model.clone(),
            prompts,
            continuations,
            references: held,
        })
    }

    /// Measures the effect of the edit so far.
    pub(crate) fn measure(&mut self, model: &Llama<B>, tokenizer: &Tokenizer) -> Result<Watched> {
        let answers = match &mut self.references {
            Some((_, meter)) => Some(meter.measure(model)?),
            None => None,
        };
        Ok(Watched {
            answers,
            continuations: self.continuations.measure(model)?,
            written: self.prompts.measure(model, &self.unedited, tokenizer)?,
        })
    }

    /// The rise in surprise, if it exceeds the bound.
    pub(crate) fn excess_surprise(&self, watched: &Watched, bound: f64) -> Option<f64> {
        let (before, after) = (self.prompts.before.surprise, watched.written.surprise);
        (after - before > bound || after.is_nan()).then_some(after - before)
    }

    /// The final report, with the texts before the edit.
    pub(crate) fn report(
        &mut self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Figure>> {
        let current = self.measure(model, tokenizer)?;
        let mut figures = Vec::new();
        if let Some(answers) = current.answers {
            push_drift(&mut figures, "answers to the references", &answers);
        }
        let continuations = &current.continuations;
        push_drift(
            &mut figures,
            "controlled prompts' continuations",
            continuations,
        );
        if let Some((references, _)) = &self.references {
            let after = references.measure(model, &self.unedited, tokenizer)?;
            push_written(
                &mut figures,
                "after the references",
                &references.before,
                &after,
            );
        }
        let before = &self.prompts.before;
        push_written(
            &mut figures,
            "after the controlled prompts",
            before,
            &current.written,
        );
        Ok(figures)
    }
}

impl Prompts {
    fn new<B: Backend>(
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        ids: Vec<Vec<u32>>,
        decoding: impl Fn(&[Vec<u32>]) -> Decoding,
    ) -> Result<(Self, Vec<Generated>)> {
        let mut prompts = Self {
            decoding: decoding(&ids),
            ids,
            before: Written::default(),
        };
        let generated = generate_all(model, &prompts.ids, &prompts.decoding, |_| {})?;
        let logprobs: Vec<Vec<f32>> = generated.iter().map(|g| g.logprobs.clone()).collect();
        prompts.before = written(tokenizer, &generated, &logprobs)?;
        Ok((prompts, generated))
    }

    /// What a model writes now, as measured by another.
    fn measure<B: Backend>(
        &self,
        model: &Llama<B>,
        unedited: &Llama<B>,
        tokenizer: &Tokenizer,
    ) -> Result<Written> {
        let generated = generate_all(model, &self.ids, &self.decoding, |_| {})?;
        let mut logprobs = Vec::new();
        let pairs: Vec<(&Vec<u32>, &Generated)> = self.ids.iter().zip(&generated).collect();
        for pairs in pairs.chunks(SLOTS) {
            let texts: Vec<Vec<u32>> = pairs
                .iter()
                .map(|(prompt, new)| [&prompt[..], &new.new_ids].concat())
                .collect();
            let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
            let size = SessionSize::new(unedited, texts.len(), longest);
            let mut session = Session::new(unedited, &size)?;
            let mut feeds = Vec::new();
            for text in &texts {
                feeds.push((session.open()?, &text[..]));
            }
            let scores = session.score(&feeds)?;
            for (scores, (prompt, _)) in scores.into_iter().zip(pairs) {
                logprobs.push(scores[prompt.len() - 1..].to_vec());
            }
        }
        written(tokenizer, &generated, &logprobs)
    }
}

/// Drift on the continuations of prompts.
fn continuation_drift<B: Backend>(
    model: &Llama<B>,
    prompts: &[Vec<u32>],
    generated: &[Generated],
    layer: usize,
) -> Result<DriftMeter<B>> {
    let begins: Vec<usize> = prompts.iter().map(Vec::len).collect();
    let pairs = prompts.iter().zip(generated);
    let texts: Vec<Vec<u32>> = pairs
        .map(|(prompt, new)| [&prompt[..], &new.new_ids].concat())
        .collect();
    DriftMeter::on_continuations(model, &texts, &begins, layer)
}

fn written(
    tokenizer: &Tokenizer,
    generated: &[Generated],
    logprobs: &[Vec<f32>],
) -> Result<Written> {
    let tokens: usize = logprobs.iter().map(Vec::len).sum();
    let sum: f64 = logprobs.iter().flatten().map(|&x| f64::from(x)).sum();
    let mut texts = Vec::new();
    let (mut triples, mut again) = (0, 0);
    for text in generated {
        texts.push(tokenizer.decode(&text.new_ids)?);
        let (all, repeated) = repetition(&text.new_ids);
        triples += all;
        again += repeated;
    }
    Ok(Written {
        surprise: -sum / tokens.max(1) as f64,
        repetition: again as f64 / triples.max(1) as f64,
        texts,
    })
}

/// The number of token triples, and how many of them occurred before.
fn repetition(ids: &[u32]) -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut triples = ids.windows(3);
    let all = triples.len();
    (
        all,
        all - triples.by_ref().filter(|t| seen.insert(*t)).count(),
    )
}

pub(crate) fn push_drift(figures: &mut Vec<Figure>, what: &str, drift: &Drift) {
    figures.push(Figure {
        name: format!("KL (nats), {what}"),
        before: 0.0,
        after: drift.kl,
    });
    figures.push(Figure {
        name: format!("top-1 agreement, {what}"),
        before: 1.0,
        after: drift.top1,
    });
}

fn push_written(figures: &mut Vec<Figure>, what: &str, before: &Written, after: &Written) {
    figures.push(Figure {
        name: format!("perplexity of what comes {what}"),
        before: before.surprise.exp(),
        after: after.surprise.exp(),
    });
    figures.push(Figure {
        name: format!("repetition of what comes {what}"),
        before: before.repetition,
        after: after.repetition,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_counts_triples_that_came_before() {
        assert_eq!(repetition(&[1, 2]), (0, 0));
        assert_eq!(repetition(&[1, 2, 3, 4]), (2, 0));
        // 121 212 121 212: two of four.
        assert_eq!(repetition(&[1, 2, 1, 2, 1, 2]), (4, 2));
    }
}
