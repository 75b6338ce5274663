//! Rotary position embeddings: the frequencies, and the table of cosines and sines.
//!
//! Rounding follows transformers: frequencies and angles are f32, so that far positions get the same angles.

use std::f64::consts::PI;

/// The rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies: a pair i of a head rotates by `theta^(-2i / head_dim)` per position.
    pub theta: f64,
    /// How the frequencies are changed for a longer context.
    pub scaling: RopeScaling,
}

/// A change of the frequencies, for contexts longer than that of pretraining.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// The unchanged frequencies.
    None,
    /// All frequencies are divided by `factor`.
    Linear {
        /// The ratio of the new context length to the old one.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided by `factor`, high ones are kept, and those between are blended linearly.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Pairs with fewer turns than this in the original context are divided.
        low_freq_factor: f64,
        /// Pairs with more turns than this in the original context are kept.
        high_freq_factor: f64,
        /// Context length of pretraining, in positions.
        original_max_positions: usize,
    },
    /// YaRN: like Llama 3.1, but with a ramp over the pairs' indices and with scaled cosines and sines.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Context length of pretraining, in positions.
        original_max_positions: usize,
        /// Pairs with at least this many turns in the original context are kept.
        beta_fast: f64,
        /// Pairs with at most this many turns in the original context are divided.
        beta_slow: f64,
        /// The factor of cosines and sines; `None` means it is derived from `factor` and the mscales.
        attention_factor: Option<f64>,
        /// With `mscale_all_dim`, determines the derived attention factor; 0 counts as `None`.
        mscale: Option<f64>,
        /// See `mscale`.
        mscale_all_dim: Option<f64>,
        /// Whether the ends of the ramp are rounded outwards to whole pairs.
        truncate: bool,
    },
}

impl Rope {
    /// The angle per position of each pair, in radians: `[head_dim / 2]`.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        // The power is computed in f64, because f32 powers differ between math libraries.
        let theta = f64::from(self.theta as f32);
        let periods = (0..head_dim / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            theta.powf(f64::from(exponent)) as f32
        });
        match self.scaling {
            RopeScaling::None => periods.map(|period| 1.0 / period).collect(),
            RopeScaling::Linear { factor } => {
                periods.map(|period| 1.0 / period / factor as f32).collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => {
                let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
                let span = (high_freq_factor - low_freq_factor) as f32;
                let factor = factor as f32;
                periods
                    .map(|period| {
                        let inv_freq = 1.0 / period;
                        let wavelength = (2.0 * PI) as f32 / inv_freq;
                        let turns = original_max_positions as f32 / wavelength;
                        if turns < low {
                            inv_freq / factor
                        } else if turns > high {
                            inv_freq
                        } else {
                            let keep = (turns - low) / span;
                            (1.0 - keep) * inv_freq / factor + keep * inv_freq
                        }
                    })
                    .collect()
            }
            RopeScaling::Yarn {
                factor,
                original_max_positions,
                beta_fast,
                beta_slow,
                truncate,
                ..
            } => {
                let pair_of =
                    |turns| pair_that_turns(turns, head_dim, self.theta, original_max_positions);
                let (mut start, mut end) = (pair_of(beta_fast), pair_of(beta_slow));
                if truncate {
                    (start, end) = (start.floor(), end.ceil());
                }
                // transformers bounds the end by head_dim - 1, although there are only head_dim / 2 pairs.
                start = start.max(0.0);
                end = end.min(head_dim as f64 - 1.0);
                if start == end {
                    end += 0.001;
                }
                let factor = factor as f32;
                periods
                    .enumerate()
                    .map(|(pair, period)| {
                        let ramp = (pair as f32 - start as f32) / (end - start) as f32;
                        let keep = 1.0 - ramp.clamp(0.0, 1.0);
                        1.0 / (factor * period) * (1.0 - keep) + 1.0 / period * keep
                    })
                    .collect()
            }
        }
    }

    /// The factor of cosines and sines: 1 for all scalings except YaRN.
    pub fn attention_factor(&self) -> f32 {
        let RopeScaling::Yarn {
            factor,
            attention_factor,
            mscale,
            mscale_all_dim,
            ..
        } = self.scaling
        else {
            return 1.0;
        };
        let scale = |mscale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * mscale * factor.ln() + 1.0
            }
        };
        let derived = match (mscale, mscale_all_dim) {
            (Some(one), Some(all)) if one != 0.0 && all != 0.0 => scale(one) / scale(all),
            _ => scale(1.0),
        };
        attention_factor.unwrap_or(derived) as f32
    }

    /// `[positions, head_dim]`: for each position the `head_dim / 2` cosines, then the sines, all times the [attention
    /// factor](Self::attention_factor).
    pub fn table(&self, head_dim: usize, positions: usize) -> Vec<f32> {
        let inv_freq = self.inv_freq(head_dim);
        let scale = self.attention_factor();
        let mut table = Vec::with_capacity(positions * 2 * inv_freq.len());
        for position in 0..positions {
            let angles = inv_freq
                .iter()
                .map(|inv_freq| f64::from(inv_freq * position as f32));
            table.extend(angles.clone().map(|angle| angle.cos() as f32 * scale));
            table.extend(angles.map(|angle| angle.sin() as f32 * scale));
        }
        table
    }
}

/// The (fractional) index of the pair that makes `turns` turns in `positions`: the inverse of `turns = positions / (2
/// pi theta^(2 pair / head_dim))`.
fn pair_that_turns(turns: f64, head_dim: usize, theta: f64, positions: usize) -> f64 {
    head_dim as f64 * (positions as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
}
