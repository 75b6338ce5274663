//! Fitting an affine map between the states of two layers.

use std::collections::HashMap;
use std::path::Path;

use nalgebra::{DMatrix, DVector};
use safetensors::tensor::{Dtype, TensorView, serialize};

use crate::{InterpError, Result};

/// Pairs of vectors to fit a map to, and held-out pairs to judge it by.
pub struct Fit {
    widths: [usize; 2],
    pairs: [Pairs; 2],
}

/// Sources `[n, d_from]` and targets `[n, d_to]`.
#[derive(Default)]
struct Pairs {
    from: Vec<f32>,
    to: Vec<f32>,
}

/// A fitted affine map: `y = W x + b`.
pub struct Fitted {
    weight: DMatrix<f64>,
    bias: DVector<f64>,
    /// The number of fitted pairs, and of held-out pairs.
    pub pairs: [usize; 2],
    /// The share of the held-out targets' variance (about their mean) that the map explains, over all coordinates.
    pub r2: f64,
    /// The same for the fitted pairs.
    pub r2_fitted: f64,
}

impl Fit {
    /// No pairs yet, for vectors `[from]` and `[to]`.
    pub fn new(from: usize, to: usize) -> Self {
        Self {
            widths: [from, to],
            pairs: Default::default(),
        }
    }

    /// Adds pairs: sources `[n, from]`, targets `[n, to]`.
    pub fn add(&mut self, from: &[f32], to: &[f32], held_out: bool) {
        let pairs = &mut self.pairs[usize::from(held_out)];
        pairs.from.extend_from_slice(from);
        pairs.to.extend_from_slice(to);
    }

    /// Ridge regression in f64, by a Cholesky decomposition. It minimizes `|Y - X Wᵀ - b|² + λ |W|²`, where λ is
    /// `ridge` times the mean variance of the sources times their number. The bias is not penalized.
    pub fn solve(&self, ridge: f64) -> Result<Fitted> {
        let refuse = |problem: String| InterpError::Fit { problem };
        if !(ridge.is_finite() && ridge >= 0.0) {
            return Err(refuse(format!(
                "the ridge is {ridge}; expected a finite number of at least 0"
            )));
        }
        let [x, held_x] = [0, 1].map(|i| matrix(&self.pairs[i].from, self.widths[0]));
        let [y, held_y] = [0, 1].map(|i| matrix(&self.pairs[i].to, self.widths[1]));
        if x.ncols() < 2 || held_x.ncols() < 2 {
            return Err(refuse(format!(
                "there are {} pairs of tokens to fit and {} held-out pairs; expected at least 2 of each; give more \
                 prompts (every fifth is held out)",
                x.ncols(),
                held_x.ncols()
            )));
        }
        let (mean_x, mean_y) = (x.column_mean(), y.column_mean());
        let (x0, y0) = (centred(&x, &mean_x), centred(&y, &mean_y));
        let mut gram = &x0 * x0.transpose();
        let lambda = ridge * gram.trace() / gram.nrows() as f64;
        for i in 0..gram.nrows() {
            gram[(i, i)] += lambda;
        }
        let Some(cholesky) = gram.cholesky() else {
            return Err(refuse(format!(
                "{} pairs do not determine a map of {} values with a ridge of {ridge}; give more prompts or a larger \
                 --ridge",
                x.ncols(),
                self.widths[0]
            )));
        };
        let weight = cholesky.solve(&(x0 * y0.transpose())).transpose();
        let bias = &mean_y - &weight * mean_x;
        let r2 = |x: &DMatrix<f64>, y: &DMatrix<f64>| {
            let mut rest = y - &weight * x;
            rest.column_iter_mut()
                .for_each(|mut column| column -= &bias);
            1.0 - rest.norm_squared() / centred(y, &y.column_mean()).norm_squared()
        };
        Ok(Fitted {
            r2: r2(&held_x, &held_y),
            r2_fitted: r2(&x, &y),
            pairs: [x.ncols(), held_x.ncols()],
            weight,
            bias,
        })
    }
}

impl Fitted {
    /// The bytes of the map's file, which [`Map::open`](super::Map::open) reads: `weight` `[d_to, d_from]` and `bias`
    /// `[d_to]` in f32. Its header has the layers and the entries of `header`.
    pub fn to_bytes(&self, layers: (usize, usize), header: &[(&str, String)]) -> Result<Vec<u8>> {
        // nalgebra stores columns, the file rows.
        let weight = bytes(self.weight.transpose().iter());
        let bias = bytes(self.bias.iter());
        let shape = vec![self.weight.nrows(), self.weight.ncols()];
        let failed = |source| InterpError::VectorFile {
            path: Path::new("map").to_owned(),
            source,
        };
        let tensors = [
            (
                "weight",
                TensorView::new(Dtype::F32, shape, &weight).map_err(failed)?,
            ),
            (
                "bias",
                TensorView::new(Dtype::F32, vec![self.bias.len()], &bias).map_err(failed)?,
            ),
        ];
        let layers = [
            ("source_layer", layers.0.to_string()),
            ("target_layer", layers.1.to_string()),
        ];
        let entries = layers.iter().chain(header);
        let header: HashMap<String, String> = entries
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        serialize(tensors, Some(header)).map_err(failed)
    }
}

/// `[width, n]`.
fn matrix(values: &[f32], width: usize) -> DMatrix<f64> {
    DMatrix::from_iterator(
        width,
        values.len() / width,
        values.iter().map(|&x| f64::from(x)),
    )
}

fn centred(values: &DMatrix<f64>, mean: &DVector<f64>) -> DMatrix<f64> {
    let mut values = values.clone();
    values
        .column_iter_mut()
        .for_each(|mut column| column -= mean);
    values
}

fn bytes<'a>(values: impl Iterator<Item = &'a f64>) -> Vec<u8> {
    values.flat_map(|&x| (x as f32).to_le_bytes()).collect()
}
