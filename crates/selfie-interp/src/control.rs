//! Controls: what the model says when it is not given the embedding.
//!
//! A fluent text is no evidence that it comes from the embedding: benchmarks of such descriptions can be solved without
//! the embedding, out of the input and of what the describing model knows anyway (Li et al., "Do activation verbalization
//! methods convey privileged information?", arXiv 2509.13316). A control runs the same interpretation on something else,
//! and tells how much less likely that makes the cell's own text.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{Cell, InterpError, Key};

/// Something that is put in the place of a cell's embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Nothing: the interpretation prompt as it is. It is the same for all cells, and is run once.
    None,
    /// A vector of the embedding's norm in a random direction.
    Random,
    /// The embedding of another token, at the same layer: of another of the prompts behind where the two part, where there
    /// is one, else of the same prompt. The cell and the seed settle which, not the other cells.
    Shuffled,
}

impl Control {
    /// All controls.
    pub const ALL: [Control; 3] = [Control::None, Control::Random, Control::Shuffled];

    /// Its name, as [`FromStr`] reads it.
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

/// What came of a control.
#[derive(Clone, Debug, PartialEq)]
pub struct Controlled {
    /// Which control.
    pub control: Control,
    /// What the model says under it.
    pub interpretation: String,
    /// How much the embedding speaks for the cell's own text: the mean over its tokens of
    /// `log p(token | embedding) - log p(token | control)`, in nats a token. Near 0, the model would have said it anyway.
    pub evidence: f32,
}

/// The mean of `with - without`, in nats a token.
pub(crate) fn evidence(with: &[f32], without: &[f32]) -> f32 {
    let pairs = with.iter().zip(without);
    let sum: f64 = pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)).sum();
    (sum / with.len().max(1) as f64) as f32
}

/// A vector of `vector`'s norm in a random direction, which `seed` and the cell's key settle: what
/// [`Control::Random`] puts in its place.
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

/// The cell whose embedding [`Control::Shuffled`] puts in the place of `cell`'s. `texts` and `ids` are the prompts and their
/// tokens; `None` when these hold one token only.
///
/// Prompts that begin alike have the same states as far as they do, so the token is one behind where the two part.
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
        let behind = alike.min(other.len() - 1)..other.len();
        let token = if behind.contains(&cell.token) {
            cell.token
        } else {
            behind.start + below(&mut rng, behind.len())
        };
        return Some(Cell {
            prompt,
            token,
            ..cell
        });
    }
    // The first token says nothing of a prompt: it is the last choice.
    let tokens: Vec<usize> = (1..own.len()).filter(|&t| t != cell.token).collect();
    let token = match tokens.len() {
        0 if cell.token > 0 => 0,
        0 => return None,
        n => tokens[below(&mut rng, n)],
    };
    Some(Cell { token, ..cell })
}

/// A number below `n`; the bias of the remainder is of no account here.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    (rng.next_u64() % n as u64) as usize
}

/// The vector that [`Control::Shuffled`] puts in the place of vector `item`, of `n`: any other.
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
    fn a_partner_is_of_another_prompt_behind_where_the_two_part() {
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
        assert_eq!(tokens.len(), 2, "the seed settles which");
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
    fn a_random_vector_has_the_norm_of_its_cell_and_a_direction_of_its_own() {
        let vector: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let norm = dot(&vector, &vector).sqrt();
        let random = [(1, 0), (1, 1), (2, 0)];
        let random = random.map(|(seed, key)| random_vector(&vector, seed, Key(key)));
        for (i, one) in random.iter().enumerate() {
            assert!((dot(one, one).sqrt() / norm - 1.0).abs() < 1e-5);
            for other in random[i + 1..].iter().chain([&vector]) {
                // 256 independent directions have a cosine of 1/16 in the mean square.
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
