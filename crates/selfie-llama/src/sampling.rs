//! Choosing the next token by sampling, or with a penalty for repetitions.

use std::cmp::Ordering;

use selfie_kernels::{Best, TokenDraw};

use crate::splitmix::{GAMMA, mix};
use crate::{LlamaError, Result};

/// How to draw tokens. Without a `Sampling`, decoding is greedy by the raw logits.
///
/// The steps and their order are those of transformers 4.57. First `repetition_penalty` changes the logits of tokens
/// already in the context (Keskar et al., arXiv 1909.05858, section 4.1). Then all logits are divided by `temperature`.
/// Then the candidates are cut to the `top_k` most likely tokens, to those of `top_p`, and to those of `min_p`. Equal
/// logits are ordered by token id, lowest first, so that `top_k` is exact even then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; finite and at least 0. With 0 the likeliest token is taken, after the penalty.
    pub temperature: f32,
    /// How many of the most likely tokens to draw from; 0 means all.
    pub top_k: usize,
    /// Draw from the fewest most likely tokens that together have this probability; above 0, and 1 means all.
    pub top_p: f32,
    /// The least probability to draw, relative to that of the likeliest token; from 0 (all) to 1.
    pub min_p: f32,
    /// The logits of the context's tokens are divided by this, or multiplied if they are negative; finite and above 0,
    /// and 1 means no penalty.
    pub repetition_penalty: f32,
    /// The seed. A draw depends only on it, the number of the sequence and the step.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks that all values are in range.
    pub fn check(&self) -> Result<()> {
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature.is_finite() && self.temperature >= 0.0,
                "a finite number of at least 0 (0 = greedy)",
            ),
            (
                "top_p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "a number above 0 and up to 1 (1 = all tokens)",
            ),
            (
                "min_p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "a number from 0 to 1 (0 = all tokens)",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0,
                "a finite number above 0 (1 = none)",
            ),
        ];
        match checks.into_iter().find(|(_, _, right, _)| !right) {
            None => Ok(()),
            Some((field, value, _, expected)) => Err(LlamaError::SamplingValue {
                field,
                value,
                expected,
            }),
        }
    }

    /// Chooses a token for step `step` of sequence `sequence`. `logits` has one value per token of the vocabulary, and
    /// `context` holds the preceding ids: the prompt and the tokens chosen so far.
    ///
    /// The choice depends only on these arguments and the seed. The log-probability is the token's under the raw
    /// logits, before all steps. If a logit is not finite, the log-probability is NaN and the token is meaningless; the
    /// caller must report that.
    pub fn pick(&self, logits: &[f32], context: &[u32], sequence: u64, step: u64) -> Best {
        if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
            return Best {
                token: 0,
                logprob: f32::NAN,
            };
        }
        let penalized = self.penalized(logits, context);
        let scores = penalized.as_deref().unwrap_or(logits);
        let token = if self.temperature == 0.0 {
            most_likely(scores)
        } else {
            let weights = self.weights(scores);
            draw(&weights, uniform(self.seed, sequence, step))
        };
        Best {
            token,
            logprob: log_probability(logits, token),
        }
    }

    /// What a device needs to choose the token that [`pick`](Self::pick) chooses; `None` if it cannot, because the
    /// token is the most likely one, or because a penalty changes the logits.
    pub fn on_device(&self, sequence: u64, step: u64) -> Option<TokenDraw> {
        let draws = self.temperature > 0.0 && self.repetition_penalty == 1.0;
        draws.then(|| TokenDraw {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            chance: uniform(self.seed, sequence, step),
        })
    }

    /// The logits after the penalty, applied once to each token of the context; `None` if nothing changes.
    fn penalized(&self, logits: &[f32], context: &[u32]) -> Option<Vec<f32>> {
        if self.repetition_penalty == 1.0 {
            return None;
        }
        let mut scores = logits.to_owned();
        for &token in context {
            let token = token as usize;
            // Start from the raw logit, so that a repeated token is penalized only once.
            let Some(&logit) = logits.get(token) else {
                continue;
            };
            scores[token] = if logit < 0.0 {
                logit * self.repetition_penalty
            } else {
                logit / self.repetition_penalty
            };
        }
        Some(scores)
    }

    /// The tokens' probabilities at this temperature, up to a common factor. The largest is 1; tokens that were cut
    /// have 0.
    fn weights(&self, scores: &[f32]) -> Vec<f64> {
        let top = f64::from(scores[most_likely(scores) as usize]);
        let temperature = f64::from(self.temperature);
        let weight = |&score: &f32| ((f64::from(score) - top) / temperature).exp();
        let mut weights: Vec<f64> = scores.iter().map(weight).collect();
        self.cut(scores, &mut weights);
        let least = f64::from(self.min_p);
        for weight in weights.iter_mut().filter(|weight| **weight < least) {
            *weight = 0.0;
        }
        weights
    }

    /// Sets the weights that `top_k` and `top_p` cut to 0.
    fn cut(&self, scores: &[f32], weights: &mut [f64]) {
        let top_k = match self.top_k {
            0 => scores.len(),
            k => k.min(scores.len()),
        };
        if top_k == scores.len() && self.top_p >= 1.0 {
            return;
        }
        let mut ranked: Vec<Ranked> = (0..).zip(scores).map(Ranked::new).collect();
        if top_k < ranked.len() {
            ranked.select_nth_unstable_by(top_k, Ranked::order);
        }
        let kept = if self.top_p < 1.0 {
            top_p_len(&mut ranked[..top_k], weights, f64::from(self.top_p))
        } else {
            top_k
        };
        for dropped in &ranked[kept..] {
            weights[dropped.token as usize] = 0.0;
        }
    }
}

/// The token with the highest score; the lowest id in a tie.
fn most_likely(scores: &[f32]) -> u32 {
    let ranked = (0..).zip(scores).map(Ranked::new);
    ranked.min_by(Ranked::order).map_or(0, |best| best.token)
}

fn log_probability(logits: &[f32], token: u32) -> f32 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mass = logits.iter().map(|&logit| (f64::from(logit) - top).exp());
    (f64::from(logits[token as usize]) - top - mass.sum::<f64>().ln()) as f32
}

/// How many of the most likely of `ranked` make up the share `top_p` of the mass, at least one. Moves them to the
/// front.
///
/// Bisects the range that contains the last one, so nothing is sorted.
fn top_p_len(ranked: &mut [Ranked], weights: &[f64], top_p: f64) -> usize {
    let mass = |ranked: &[Ranked]| -> f64 {
        let weights = ranked.iter().map(|ranked| weights[ranked.token as usize]);
        weights.sum()
    };
    let mut missing = top_p * mass(ranked);
    let (mut begin, mut end) = (0, ranked.len());
    while end - begin > 1 {
        let middle = begin.midpoint(end);
        ranked[begin..end].select_nth_unstable_by(middle - begin, Ranked::order);
        let half = mass(&ranked[begin..middle]);
        if half >= missing {
            end = middle;
        } else {
            missing -= half;
            begin = middle;
        }
    }
    end
}

/// A token with its score.
struct Ranked {
    score: f32,
    token: u32,
}

impl Ranked {
    fn new((token, score): (u32, &f32)) -> Self {
        // Turns -0 into 0.
        let score = score + 0.0;
        Ranked { score, token }
    }

    /// Orders by higher score, then by lower id.
    fn order(&self, other: &Self) -> Ordering {
        let by_score = other.score.total_cmp(&self.score);
        by_score.then(self.token.cmp(&other.token))
    }
}

/// The token at `chance`, in 0..1, of the total mass; 0 if there is no mass.
fn draw(weights: &[f64], chance: f64) -> u32 {
    let target = chance * weights.iter().sum::<f64>();
    let mut mass = 0.0;
    let mut drawn = 0;
    for (token, weight) in (0..).zip(weights) {
        if *weight > 0.0 {
            drawn = token;
            mass += weight;
            if mass > target {
                break;
            }
        }
    }
    drawn
}

/// A pseudorandom number in 0..1, from a counter instead of a state: 53 bits of SplitMix64.
fn uniform(seed: u64, sequence: u64, step: u64) -> f64 {
    let key = splitmix64(splitmix64(splitmix64(seed) ^ sequence) ^ step);
    (key >> 11) as f64 / (1_u64 << 53) as f64
}

/// The first output of SplitMix64 for a state.
fn splitmix64(state: u64) -> u64 {
    mix(state.wrapping_add(GAMMA))
}
