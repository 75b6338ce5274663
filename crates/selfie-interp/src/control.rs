//! Controls: what the model says without the embedding.
//!
//! A fluent text does not prove that it comes from the embedding. Benchmarks of such descriptions can be solved without
//! the embedding, from the input and the describing model's own knowledge (Li et al., "Do activation verbalization
//! methods convey privileged information?", arXiv 2509.13316). A control runs the same interpretation on something
//! else, and measures how much less likely that makes the cell's own text.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{Cell, InterpError, Key};

/// What replaces a cell's embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Nothing: the interpretation prompt without an injection. It is the same for all cells, and runs once.
    None,
    /// A vector of the embedding's norm in a random direction.
    Random,
    /// The embedding of another token at the same layer. It comes from another prompt, after the point where the two
    /// diverge, or from the same prompt if there is no other. The cell and the seed choose it, independently of the
    /// other cells.
    Shuffled,
}

impl Control {
    /// All controls.
    pub const ALL: [Control; 3] = [Control::None, Control::Random, Control::Shuffled];

    /// The name of the control, as [`FromStr`] reads it.
    pub fn name(self) -> &'static str {
        match self {
            Control::None => "none",
            Control::Random => "random",
            Control::Shuffled => "shuffled",
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Control {
    type Err = InterpError;

    fn from_str(name: &str) -> Result<Self, InterpError> {
        let found = Control::ALL.into_iter().find(|c| c.name() == name);
        found.ok_or_else(|| InterpError::UnknownControl {
            name: name.to_owned(),
        })
    }
}

/// The result of a control.
#[derive(Clone, Debug, PartialEq)]
pub struct Controlled {
    /// Which control.
    pub control: Control,
    /// What the model says under the control.
    pub interpretation: String,
    /// The embedding's evidence for the cell's own text: the mean over its tokens of `log p(token | embedding) - log
    /// p(token | control)`, in nats per token. Near 0, the model would have said it anyway.
    pub evidence: f32,
}

/// The mean of `with - without`, in nats per token.
pub(crate) fn evidence(with: &[f32], without: &[f32]) -> f32 {
    let pairs = with.iter().zip(without);
    let sum: f64 = pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)).sum();
    (sum / with.len().max(1) as f64) as f32
}

/// A vector in a random direction with the norm of `vector`, chosen by `seed` and the cell's key. [`Control::Random`]
/// injects it.
pub fn random_vector(vector: &[f32], seed: u64, key: Key) -> Vec<f32> {
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let values: Vec<f64> = vector.iter().map(|&x| f64::from(x)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(key.0);
    let direction: Vec<f64> = StandardNormal
        .sample_iter(&mut rng)
        .take(values.len())
        .collect();
    let scale = norm(&values) / norm(&direction).max(f64::MIN_POSITIVE);
    direction.iter().map(|x| (x * scale) as f32).collect()
}

/// The cell whose embedding [`Control::Shuffled`] injects instead of `cell`'s. `texts` and `ids` are the prompts and
/// their tokens; `None` if there is only one token in all.
///
/// Prompts with a common beginning have the same states there, so the token comes after the point where the two
/// diverge.
pub fn partner_of_cell(cell: Cell, texts: &[&str], ids: &[Vec<u32>], seed: u64) -> Option<Cell> {
    let own = &ids[cell.prompt];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(Key::of_place(texts[cell.prompt], cell.layer, cell.token).0);
    let n = texts.len();
    let first = below(&mut rng, n);
    let others = (0..n).map(|i| (first + i) % n);
    let mut others = others.filter(|&other| ids[other] != *own);
    if let Some(prompt) = others.next() {
        let other = &ids[prompt];
        let alike = own.iter().zip(other).take_while(|(a, b)| a == b).count();
        let diverged = alike.min(other.len() - 1)..other.len();
        let token = if diverged.contains(&cell.token) {
            cell.token
        } else {
            diverged.start + below(&mut rng, diverged.len())
        };
        return Some(Cell {
            prompt,
            token,
            ..cell
        });
    }
    // The first token says nothing about a prompt, so it is the last choice.
    let tokens: Vec<usize> = (1..own.len()).filter(|&t| t != cell.token).collect();
    let token = match tokens.len() {
        0 if cell.token > 0 => 0,
        0 => return None,
        n => tokens[below(&mut rng, n)],
    };
    Some(Cell { token, ..cell })
}

/// A random number below `n`. The bias of the remainder does not matter here.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    (rng.next_u64() % n as u64) as usize
}

/// The vector, of `n`, that [`Control::Shuffled`] injects instead of vector `item`: any other.
pub fn partner_of_vector(item: usize, n: usize, seed: u64) -> usize {
    if n < 2 {
        return item;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(item as u64);
    (item + 1 + below(&mut rng, n - 1)) % n
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(prompt: usize, layer: usize, token: usize) -> Cell {
        Cell {
            prompt,
            layer,
            token,
        }
    }

    #[test]
    fn a_partner_is_from_another_prompt_after_the_common_beginning() {
        let texts = ["a", "b", "a"];
        let ids = [vec![1, 5, 6, 7, 8], vec![1, 5, 9, 10], vec![1, 5, 6, 7, 8]];
        for seed in 0..20 {
            for token in 0..5 {
                let partner = partner_of_cell(cell(0, 3, token), &texts, &ids, seed).unwrap();
                assert_eq!((partner.prompt, partner.layer), (1, 3));
                assert!((2..4).contains(&partner.token), "{partner:?}");
                if (2..4).contains(&token) {
                    assert_eq!(partner.token, token);
                }
                // The same prompt under another index is the same cell.
                let again = partner_of_cell(cell(2, 3, token), &texts, &ids, seed);
                assert_eq!(again, Some(partner));
            }
        }
    }

    #[test]
    fn one_prompt_gives_another_of_its_tokens() {
        let ids = [vec![1, 5, 6, 7]];
        let partner = |token, seed| partner_of_cell(cell(0, 2, token), &["a"], &ids, seed);
        for seed in 0..20 {
            let of_two = partner(2, seed).unwrap();
            assert!([1, 3].contains(&of_two.token) && of_two.layer == 2);
        }
        let tokens: std::collections::HashSet<_> = (0..20).map(|seed| partner(2, seed)).collect();
        assert_eq!(tokens.len(), 2, "the seed decides which");
        let two = [vec![1, 5]];
        assert_eq!(
            partner_of_cell(cell(0, 2, 1), &["a"], &two, 0),
            Some(cell(0, 2, 0))
        );
        let one = [vec![1]];
        assert_eq!(partner_of_cell(cell(0, 2, 0), &["a"], &one, 0), None);
    }

    #[test]
    fn a_vectors_partner_is_any_other() {
        for n in [2, 3, 200_000] {
            for item in [0, 1, n - 1] {
                let partner = partner_of_vector(item, n, 7);
                assert!(partner < n && partner != item);
            }
        }
    }

    #[test]
    fn a_random_vector_has_its_cells_norm_and_its_own_direction() {
        let vector: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let norm = dot(&vector, &vector).sqrt();
        let random = [(1, 0), (1, 1), (2, 0)];
        let random = random.map(|(seed, key)| random_vector(&vector, seed, Key(key)));
        for (i, one) in random.iter().enumerate() {
            assert!((dot(one, one).sqrt() / norm - 1.0).abs() < 1e-5);
            for other in random[i + 1..].iter().chain([&vector]) {
                // In 256 dimensions, independent directions have a root-mean-square cosine of 1/16.
                assert!(dot(one, other).abs() / (norm * norm) < 0.3);
            }
        }
        assert_eq!(random[0], random_vector(&vector, 1, Key(0)));
    }

    #[test]
    fn evidence_is_the_mean_difference() {
        assert_eq!(evidence(&[-0.5, -1.0], &[-2.5, -1.5]), 1.25);
    }

    #[test]
    fn controls_have_names() {
        for control in Control::ALL {
            assert_eq!(control.to_string().parse::<Control>().unwrap(), control);
        }
        let error = "nothing".parse::<Control>().unwrap_err().to_string();
        assert!(error.contains("nothing") && error.contains("none, random, shuffled"));
    }
}
