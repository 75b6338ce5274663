//! Maps that turn an embedding into the vector to inject.
//!
//! - The trained projections of *selfie-adapters* (agencyenterprise/selfie-adapters, commit 7158081,
//!   `selfie_adapters/projection.py`), which are applied to embeddings before the reader sees them.
//! - Affine maps between layers, of one model or of two (Patchscopes, arXiv 2401.06102, section 3).
//!
//! Everything is computed in f32.

mod file;
mod fit;

use std::sync::Arc;

use selfie_kernels::Backend;

pub use fit::{Fit, Fitted};

use crate::{Embeddings, InterpError, Result};

/// A map from vectors of a subject's residual stream, `[d_from]`, to those of a reader's, `[d_to]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    name: String,
    from: usize,
    to: usize,
    writes_at: Option<usize>,
    entries: Vec<Entry>,
}

/// A function, and the layers it is for: all layers if none are named.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    layers: Option<(usize, usize)>,
    function: Arc<Function>,
}

/// `f(x) = e^s x + (x U) Vᵀ + x Wᵀ + b`, with the terms that are set. If asked for, `mean` is first subtracted from
/// `x`, and `x` is divided by `|x| + 1e-8`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Function {
    mean: Option<Vec<f32>>,
    normalize: bool,
    scale: Option<f32>,
    /// `Uᵀ`, `[r, d]`, and `V`, `[d, r]`.
    low_rank: Option<[Matrix; 2]>,
    /// `W`, `[d_to, d_from]`.
    weight: Option<Matrix>,
    bias: Option<Vec<f32>>,
}

/// Values `[rows, columns]`, row by row.
#[derive(Clone, Debug, PartialEq)]
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Map {
    /// The name of the map in rows: its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The width of its inputs.
    pub fn from_width(&self) -> usize {
        self.from
    }

    /// The width of its outputs.
    pub fn to_width(&self) -> usize {
        self.to
    }

    /// The layer to inject its outputs at, if it has only one.
    pub fn writes_at(&self) -> Option<usize> {
        self.writes_at
    }

    /// The pairs of a source layer (of `hidden_states`) and a target layer; empty if it is for all layers.
    pub fn layers(&self) -> Vec<(usize, usize)> {
        self.entries
            .iter()
            .filter_map(|entry| entry.layers)
            .collect()
    }

    /// The same map, with `mean` (`[d_from]`) subtracted from its inputs first.
    pub fn subtract(mut self, mean: &[f32]) -> Result<Self> {
        if mean.len() != self.from {
            return Err(InterpError::MapFile {
                path: self.name.into(),
                problem: format!(
                    "it takes vectors of {} values, but the vector to subtract has {}",
                    self.from,
                    mean.len()
                ),
            });
        }
        for entry in &mut self.entries {
            Arc::make_mut(&mut entry.function).mean = Some(mean.to_vec());
        }
        Ok(self)
    }

    /// An error unless the map leads from a subject of one width to a reader of the other, at these layers.
    pub(crate) fn check(
        &self,
        subject: usize,
        reader: usize,
        mut pairs: impl Iterator<Item = (Option<usize>, usize)>,
    ) -> Result<()> {
        if (self.from, self.to) != (subject, reader) {
            return Err(InterpError::MapWidth {
                map: self.name.clone(),
                from: self.from,
                to: self.to,
                subject,
                reader,
            });
        }
        pairs.try_for_each(|(source, target)| self.entry(source, target).map(drop))
    }

    fn entry(&self, source: Option<usize>, target: usize) -> Result<usize> {
        let is_for = |entry: &Entry| match (entry.layers, source) {
            (None, _) => true,
            (Some((_, to)), None) => to == target && self.entries.len() == 1,
            (Some(layers), Some(source)) => layers == (source, target),
        };
        self.entries.iter().position(is_for).ok_or_else(|| {
            let pair = |(from, to)| format!("hidden_states[{from}] to layer {to}");
            InterpError::MapLayers {
                map: self.name.clone(),
                source_layer: source,
                target,
                there: self.layers().into_iter().map(pair).collect(),
            }
        })
    }

    /// Maps vectors (`[n, d_from]`) of the layers `sources` (`[n]`) to layer `target`: `[n, d_to]`.
    pub fn apply<B: Backend>(
        &self,
        backend: &B,
        vectors: &Embeddings<B>,
        sources: &[Option<usize>],
        target: usize,
    ) -> Result<Embeddings<B>> {
        let values = vectors.to_host(backend)?;
        let mut entries = Vec::with_capacity(sources.len());
        for &source in sources {
            entries.push(self.entry(source, target)?);
        }
        let mut mapped = vec![0.0; sources.len() * self.to];
        for (at, entry) in self.entries.iter().enumerate() {
            let own: Vec<usize> = (0..entries.len()).filter(|&i| entries[i] == at).collect();
            if own.is_empty() {
                continue;
            }
            let row = |&i: &usize| &values[i * self.from..(i + 1) * self.from];
            let x: Vec<f32> = own.iter().flat_map(row).copied().collect();
            let y = entry.function.apply(backend, x, self.from, self.to)?;
            for (i, y) in own.into_iter().zip(y.chunks_exact(self.to)) {
                mapped[i * self.to..(i + 1) * self.to].copy_from_slice(y);
            }
        }
        Embeddings::from_host(backend, &mapped, self.to)
    }
}

impl Function {
    fn apply<B: Backend>(
        &self,
        backend: &B,
        mut x: Vec<f32>,
        from: usize,
        to: usize,
    ) -> Result<Vec<f32>> {
        for x in x.chunks_exact_mut(from) {
            if let Some(mean) = &self.mean {
                x.iter_mut().zip(mean).for_each(|(x, mean)| *x -= mean);
            }
            if self.normalize {
                let squares: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
                let norm = squares.sqrt() as f32 + 1e-8;
                x.iter_mut().for_each(|x| *x /= norm);
            }
        }
        let n = x.len() / from;
        let product = |x: &B::Rows, w: &Matrix| -> Result<B::Rows> {
            let mut weight = backend.rows(w.rows, w.columns)?;
            backend.write_rows(&w.values, &mut weight)?;
            let mut out = backend.rows(n, w.rows)?;
            backend.linear_f32(x, &weight, None, &mut out)?;
            Ok(out)
        };
        let mut rows = backend.rows(n, from)?;
        backend.write_rows(&x, &mut rows)?;
        let mut y = match self.scale {
            Some(scale) => x.iter().map(|x| scale * x).collect(),
            None => vec![0.0; n * to],
        };
        let mut add = |more: &B::Rows| -> Result<()> {
            let more = backend.read_rows(more, 0..n)?;
            y.iter_mut().zip(more).for_each(|(y, more)| *y += more);
            Ok(())
        };
        if let Some([u, v]) = &self.low_rank {
            add(&product(&product(&rows, u)?, v)?)?;
        }
        if let Some(weight) = &self.weight {
            add(&product(&rows, weight)?)?;
        }
        if let Some(bias) = &self.bias {
            for y in y.chunks_exact_mut(to) {
                y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
        Ok(y)
    }
}
