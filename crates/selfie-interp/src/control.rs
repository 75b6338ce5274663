//! Controls: what the model says when it is not given the embedding.
//!
//! A fluent text is no evidence that it comes from the embedding: benchmarks of such descriptions can be solved without
//! the embedding, out of the input and of what the describing model knows anyway (Li et al., "Do activation verbalization
//! methods convey privileged information?", arXiv 2509.13316). A control runs the same interpretation on something else,
//! and tells how much less likely that makes the cell's own text.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::{Cell, InterpError};

/// Something that is put in the place of a cell's embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Control {
    /// Nothing: the interpretation prompt as it is. It is the same for all cells, and is run once.
    None,
    /// A vector of the embedding's norm in a random direction.
    Random,
    /// The vector of another cell: at the same layer and of another prompt, where there is one.
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

/// A vector of `vector`'s norm in a random direction, which `seed` and the cell's index in the sweep settle: what
/// [`Control::Random`] puts in its place.
pub fn random_vector(vector: &[f32], seed: u64, index: usize) -> Vec<f32> {
    let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let values: Vec<f64> = vector.iter().map(|&x| f64::from(x)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64);
    let direction: Vec<f64> = StandardNormal
        .sample_iter(&mut rng)
        .take(values.len())
        .collect();
    let scale = norm(&values) / norm(&direction).max(f64::MIN_POSITIVE);
    direction.iter().map(|x| (x * scale) as f32).collect()
}

/// For each cell the index of the one whose vector it is shuffled with; `None` when all cells are the same.
///
/// It is the next cell, in a cycle through those of its layer by token and prompt, that is of another prompt; without one,
/// the next that is another token; without one, any other cell.
pub(crate) fn partners(cells: &[Cell]) -> Option<Vec<usize>> {
    let n = cells.len();
    // Cells of one layer, of one prompt after the other.
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| (cells[i].layer, cells[i].token, cells[i].prompt));
    let mut partners = vec![0; n];
    for same in order.chunk_by(|&a, &b| cells[a].layer == cells[b].layer) {
        for (at, &cell) in same.iter().enumerate() {
            let after = |wanted: &dyn Fn(&Cell) -> bool| {
                let mut others = same[at + 1..].iter().chain(&same[..at]);
                others.find(|&&other| wanted(&cells[other])).copied()
            };
            let own = cells[cell];
            let other = after(&|other| other.prompt != own.prompt)
                .or_else(|| after(&|other| *other != own))
                .or_else(|| (0..n).find(|&other| cells[other] != own));
            partners[cell] = other?;
        }
    }
    Some(partners)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(list: &[(usize, usize, usize)]) -> Vec<Cell> {
        let cell = |&(prompt, layer, token)| Cell {
            prompt,
            layer,
            token,
        };
        list.iter().map(cell).collect()
    }

    #[test]
    fn a_partner_is_at_the_same_layer_and_of_another_prompt_where_there_is_one() {
        let cells = cells(&[(0, 1, 5), (1, 1, 5), (0, 2, 5), (0, 2, 6), (1, 3, 0)]);
        let partners = partners(&cells).unwrap();
        assert_eq!(partners, [1, 0, 3, 2, 0]);
    }

    #[test]
    fn one_cell_has_no_partner() {
        assert_eq!(partners(&cells(&[(0, 1, 5)])), None);
        assert_eq!(partners(&cells(&[(0, 1, 5), (0, 1, 5)])), None);
    }

    #[test]
    fn a_random_vector_has_the_norm_of_its_cell_and_a_direction_of_its_own() {
        let vector: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let norm = dot(&vector, &vector).sqrt();
        let random = [(1, 0), (1, 1), (2, 0)].map(|(seed, i)| random_vector(&vector, seed, i));
        for (i, one) in random.iter().enumerate() {
            assert!((dot(one, one).sqrt() / norm - 1.0).abs() < 1e-5);
            for other in random[i + 1..].iter().chain([&vector]) {
                // 256 independent directions have a cosine of 1/16 in the mean square.
                assert!(dot(one, other).abs() / (norm * norm) < 0.3);
            }
        }
        assert_eq!(random[0], random_vector(&vector, 1, 0));
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
