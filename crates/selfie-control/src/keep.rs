//! What an edit should leave alone: the MLP's outputs on reference prompts.

use selfie_kernels::Backend;

use crate::{Result, TrainedMlp};

/// Rows to run through the unedited MLP at a time.
const CHUNK: usize = 256;

/// The MLP inputs on the reference prompts, and the unedited MLP's outputs for them.
pub(crate) struct Keep<B: Backend> {
    /// `[rows, d_model]`
    inputs: B::Rows,
    /// `[rows, d_model]`
    outputs: Vec<f32>,
    rows: usize,
    /// The largest number of rows in a step.
    batch: usize,
    order: Vec<usize>,
    next: usize,
    random: fastrand::Rng,
}

impl<B: Backend> Keep<B> {
    /// Takes the MLP inputs whose outputs should stay.
    pub(crate) fn new(backend: &B, inputs: B::Rows) -> Self {
        let rows = backend.len(&inputs);
        Self {
            inputs,
            outputs: Vec::new(),
            rows,
            batch: rows.max(1),
            order: Vec::new(),
            next: 0,
            random: fastrand::Rng::with_seed(0),
        }
    }

    /// Starts a run whose steps have up to `batch` rows.
    pub(crate) fn begin(&mut self, batch: usize, seed: u64) {
        self.batch = batch.clamp(1, self.rows.max(1));
        self.order = (0..self.rows).collect();
        self.next = 0;
        self.random = fastrand::Rng::with_seed(seed);
    }

    /// The number of rows in a step.
    pub(crate) fn batch(&self) -> usize {
        self.batch
    }

    /// Computes the unedited MLP's outputs for all rows, unless they are known.
    pub(crate) fn measure(
        &mut self,
        backend: &B,
        mlp: &mut TrainedMlp<B>,
        x: &mut B::Rows,
    ) -> Result<()> {
        if !self.outputs.is_empty() {
            return Ok(());
        }
        let rows: Vec<usize> = (0..self.rows).collect();
        for rows in rows.chunks(CHUNK.min(self.batch)) {
            backend.clear(x);
            backend.gather(&self.inputs, rows, x)?;
            self.outputs.extend(mlp.forward(backend, x)?);
        }
        Ok(())
    }

    /// The rows of the next step: all of them if they fit, else the next ones in a shuffled order.
    pub(crate) fn draw(&mut self) -> Vec<usize> {
        if self.batch == self.rows {
            return self.order.clone();
        }
        if self.next == 0 || self.next + self.batch > self.rows {
            self.random.shuffle(&mut self.order);
            self.next = 0;
        }
        let drawn = self.order[self.next..self.next + self.batch].to_vec();
        self.next += self.batch;
        drawn
    }

    /// Appends the inputs of some rows to `x`.
    pub(crate) fn gather(&self, backend: &B, rows: &[usize], x: &mut B::Rows) -> Result<()> {
        Ok(backend.gather(&self.inputs, rows, x)?)
    }

    /// The mean squared distance of `out` (`[rows, d_model]`) from the unedited MLP's outputs for the rows. Appends its
    /// gradient, times `beta`, to `d_out`.
    pub(crate) fn loss(&self, rows: &[usize], out: &[f32], beta: f64, d_out: &mut Vec<f32>) -> f64 {
        let width = out.len() / rows.len().max(1);
        let kept = rows
            .iter()
            .flat_map(|row| &self.outputs[row * width..(row + 1) * width]);
        let scale = 2.0 * beta / out.len() as f64;
        let mut sum = 0.0;
        for (&now, &before) in out.iter().zip(kept) {
            let off = f64::from(now) - f64::from(before);
            sum += off * off;
            d_out.push((scale * off) as f32);
        }
        sum / out.len() as f64
    }
}
