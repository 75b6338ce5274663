//! The expected value of a row, and its error bound.
//!
//! Computed in f64, with roundings where the kernel rounds: the queries, and each weight before its product with the
//! values. A weight before that rounding depends on the largest score so far, so the oracle walks along the keys as the
//! kernel does, tile by tile and part by part. The bounds are those of `crates/dev/testkit/src/cases`. A score is off
//! by the error of its sum; the weights' sum, the exponentials and the last division add to that. A weight may be so
//! close to the middle of two bf16 values that its error could change its rounding. Then the difference is added to the
//! bound of that row only, so that the bounds of all other rows stay small.

use selfie_kernels::{DType, reference};

use selfie_testkit::cases::{U, sum_bound};

/// Keys of a tile.
const TILE: usize = 64;

/// How a kernel walks along the keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Walk {
    /// In plain f32.
    F32,
    /// In one go, with operands of this type.
    Whole(DType),
    /// In parts of `keys` keys, which are merged.
    Parts { dtype: DType, keys: usize },
}

/// A segment: the keys and values of the positions that the row sees, `[head_dim]` each.
pub(super) type Segment<'a> = Vec<(&'a [f32], &'a [f32])>;

/// One output value.
pub(super) struct Want {
    pub(super) value: f64,
    pub(super) bound: f64,
}

/// Sums over the keys seen so far, in units of 2^top.
struct Sums {
    top: f64,
    weights: f64,
    values: Vec<f64>,
    magnitudes: Vec<f64>,
    doubts: Vec<f64>,
}

/// One row and head: `q` is `[head_dim]`.
pub(super) fn attend(walk: Walk, q: &[f32], segments: &[Segment<'_>; 2]) -> Vec<Want> {
    let dtype = match walk {
        Walk::F32 => DType::F32,
        Walk::Whole(dtype) | Walk::Parts { dtype, .. } => dtype,
    };
    let q: Vec<f64> = q
        .iter()
        .map(|&x| reference::round(dtype, x).into())
        .collect();
    let row = Row {
        dtype,
        score_error: score_error(&q, segments),
        q,
    };
    let sums = match walk {
        Walk::F32 | Walk::Whole(_) => {
            let mut sums = row.nothing();
            segments
                .iter()
                .for_each(|segment| row.walk(segment, &mut sums));
            sums
        }
        Walk::Parts { keys, .. } => {
            let mut merged = row.nothing();
            for part in segments.iter().flat_map(|segment| segment.chunks(keys)) {
                let mut sums = row.nothing();
                row.walk(part, &mut sums);
                merged.add(sums);
            }
            merged
        }
    };
    let n = segments.iter().map(Vec::len).sum();
    let share = (2.0 * row.score_error).exp_m1() + sum_bound(n) + 12.0 * U;
    let wants = (0..row.q.len()).map(|d| Want {
        value: sums.values[d] / sums.weights,
        bound: (share * sums.magnitudes[d] + sums.doubts[d]) / sums.weights,
    });
    wants.collect()
}

struct Row {
    dtype: DType,
    q: Vec<f64>,
    score_error: f64,
}

impl Row {
    fn nothing(&self) -> Sums {
        let zeros = || vec![0.0; self.q.len()];
        Sums {
            top: f64::NEG_INFINITY,
            weights: 0.0,
            values: zeros(),
            magnitudes: zeros(),
            doubts: zeros(),
        }
    }

    fn walk(&self, segment: &[(&[f32], &[f32])], sums: &mut Sums) {
        let scale = std::f64::consts::LOG2_E / (self.q.len() as f64).sqrt();
        for tile in segment.chunks(TILE) {
            let score = |(key, _): &(&[f32], _)| scale * dot(&self.q, key);
            let scores: Vec<f64> = tile.iter().map(score).collect();
            sums.rescale(scores.iter().fold(sums.top, |top, &score| top.max(score)));
            for (score, (_, value)) in scores.iter().zip(tile) {
                self.weigh((score - sums.top).exp2(), value, sums);
            }
        }
    }

    fn weigh(&self, weight: f64, value: &[f32], sums: &mut Sums) {
        let round = |x: f64| f64::from(reference::round(self.dtype, x as f32));
        let error = (2.0 * self.score_error).exp_m1() + 8.0 * U;
        let doubt = match self.dtype {
            DType::F32 => 0.0,
            _ => round(weight * (1.0 + error)) - round(weight * (1.0 - error)),
        };
        let rounded = round(weight);
        sums.weights += weight;
        for (d, &v) in value.iter().enumerate() {
            let v = f64::from(v);
            sums.values[d] += rounded * v;
            sums.magnitudes[d] += rounded * v.abs();
            sums.doubts[d] += doubt * v.abs();
        }
    }
}

impl Sums {
    fn rescale(&mut self, top: f64) {
        let factor = (self.top - top).exp2();
        self.top = top;
        self.weights *= factor;
        for sums in [&mut self.values, &mut self.magnitudes, &mut self.doubts] {
            sums.iter_mut().for_each(|x| *x *= factor);
        }
    }

    fn add(&mut self, mut other: Sums) {
        let top = self.top.max(other.top);
        self.rescale(top);
        other.rescale(top);
        self.weights += other.weights;
        for (to, from) in [
            (&mut self.values, &other.values),
            (&mut self.magnitudes, &other.magnitudes),
            (&mut self.doubts, &other.doubts),
        ] {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }
}

/// The largest error of a score: from its sum, and from the multiplication by the scale.
fn score_error(q: &[f64], segments: &[Segment<'_>; 2]) -> f64 {
    let magnitude = |key: &[f32]| -> f64 {
        let products = q.iter().zip(key).map(|(q, &k)| (q * f64::from(k)).abs());
        products.sum()
    };
    let keys = segments.iter().flatten();
    let largest = keys.map(|(key, _)| magnitude(key)).fold(0.0, f64::max);
    (sum_bound(q.len()) + 4.0 * U) * largest / (q.len() as f64).sqrt()
}

fn dot(q: &[f64], key: &[f32]) -> f64 {
    q.iter().zip(key).map(|(q, &k)| q * f64::from(k)).sum()
}
