//! Choosing the next token by chance.

use std::cmp::Ordering;

use selfie_kernels::Best;

use crate::splitmix::{GAMMA, mix};
use crate::{LlamaError, Result};

/// How tokens are drawn; no `Sampling` means greedy decoding.
///
/// The logits are divided by `temperature`, then cut to the `top_k` most likely tokens, then to those
/// of `top_p`, in the order of transformers. Equal logits are ordered by token id, lowest first, so that
/// `top_k` is exact also among them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; finite and above 0.
    pub temperature: f32,
    /// How many of the most likely tokens are drawn from; 0 = all.
    pub top_k: usize,
    /// The fewest most likely tokens that have this probability together are drawn from; above 0, 1 = all.
    pub top_p: f32,
    /// With the number of the sequence and the step, it settles each draw.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether all values are in their ranges.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(LlamaError::SamplingValue {
                field: "temperature",
                value: self.temperature,
                expected: "a finite number above 0 (greedy decoding takes no sampling)",
            });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(LlamaError::SamplingValue {
                field: "top_p",
                value: self.top_p,
                expected: "a number above 0 and up to 1 (1 = all tokens)",
            });
        }
        Ok(())
    }

    /// Draws a token for step `step` of sequence `sequence` from its logits, one a token of the vocabulary.
    ///
    /// The draw depends on nothing but the logits, these two numbers and the seed. The log-probability is
    /// the token's under the logits as they are, before temperature, `top_k` and `top_p`; it is NaN where
    /// a logit is, and such tokens are not drawn.
    pub fn pick(&self, logits: &[f32], sequence: u64, step: u64) -> Best {
        let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut weights = self.weights(logits, top);
        self.cut(logits, &mut weights);
        let token = draw(&weights, uniform(self.seed, sequence, step));
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NAN);
        let mass = logits.iter().map(|&logit| (f64::from(logit) - top).exp());
        let logprob = f64::from(logit) - top - mass.sum::<f64>().ln();
        Best {
            token,
            logprob: logprob as f32,
        }
    }

    /// The tokens' probabilities at this temperature, up to a common factor; the largest is 1.
    fn weights(&self, logits: &[f32], top: f64) -> Vec<f64> {
        let temperature = f64::from(self.temperature);
        let weight = |&logit: &f32| {
            let weight = ((f64::from(logit) - top) / temperature).exp();
            if weight.is_nan() { 0.0 } else { weight }
        };
        logits.iter().map(weight).collect()
    }

    /// Sets the weights to 0 that `top_k` and `top_p` leave out.
    fn cut(&self, logits: &[f32], weights: &mut [f64]) {
        let top_k = match self.top_k {
            0 => logits.len(),
            k => k.min(logits.len()),
        };
        if top_k == logits.len() && self.top_p >= 1.0 {
            return;
        }
        let mut ranked: Vec<Ranked> = (0..).zip(logits).map(Ranked::new).collect();
        if top_k < ranked.len() {
            ranked.select_nth_unstable_by(top_k, Ranked::order);
        }
        let kept = if self.top_p < 1.0 {
            top_p_len(&mut ranked[..top_k], weights, f64::from(self.top_p))
        } else {
            top_k
        };
        for left_out in &ranked[kept..] {
            weights[left_out.token as usize] = 0.0;
        }
    }
}

/// How many of the most likely of `ranked` it takes for the share `top_p` of their mass, at least one;
/// moves them to the front.
///
/// Halves the range that the last one is in, so that nothing is sorted.
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

/// A token and its logit, which is not NaN.
struct Ranked {
    logit: f32,
    token: u32,
}

impl Ranked {
    fn new((token, logit): (u32, &f32)) -> Self {
        let logit = if logit.is_nan() {
            f32::NEG_INFINITY
        } else {
            logit + 0.0 // Makes -0 equal to 0.
        };
        Ranked { logit, token }
    }

    /// Higher logits first, then lower ids.
    fn order(&self, other: &Self) -> Ordering {
        let by_logit = other.logit.total_cmp(&self.logit);
        by_logit.then(self.token.cmp(&other.token))
    }
}

/// The token at `chance`, in 0..1, of the mass of all; 0 if there is none.
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

/// A number in 0..1 that looks random, from a counter instead of a state: 53 bits of SplitMix64.
fn uniform(seed: u64, sequence: u64, step: u64) -> f64 {
    let key = splitmix64(splitmix64(splitmix64(seed) ^ sequence) ^ step);
    (key >> 11) as f64 / (1_u64 << 53) as f64
}

/// The first output of SplitMix64 from a state.
fn splitmix64(state: u64) -> u64 {
    mix(state.wrapping_add(GAMMA))
}
