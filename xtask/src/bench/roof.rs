//! The limits of this machine, and the time that nothing on it can beat (Williams, Waterman, Patterson 2009: the
//! roofline model).

use std::hint::black_box;

use rayon::prelude::*;
use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Cpu, DType};
use serde::Serialize;

use super::child::SweepRun;
use super::ops::median_seconds;
use crate::Result;

/// Bytes of the plain read: more than any cache.
const READ_BYTES: usize = 512 << 20;

/// The limits, measured in this run.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Roof {
    /// Multiply-adds on registers, on all threads.
    pub(super) peak_gflop_per_s: f64,
    /// A plain parallel read.
    pub(super) read_gb_per_s: f64,
}

impl Roof {
    pub(super) fn measure(cpu: &Cpu, dtype: DType, repeat: usize) -> Result<Self> {
        let peaks: Vec<f64> = (0..repeat).map(|_| selfie_peak::peak(cpu, dtype)).collect();
        let plain = vec![1u64; READ_BYTES / 8];
        let seconds = median_seconds(repeat, &mut || {
            black_box(plain.par_iter().sum::<u64>());
            Ok(())
        })?;
        Ok(Self {
            peak_gflop_per_s: super::median(&peaks) / 1e9,
            read_gb_per_s: READ_BYTES as f64 / seconds / 1e9,
        })
    }

    /// The higher of each limit.
    pub(super) fn higher(self, other: Self) -> Self {
        Self {
            peak_gflop_per_s: self.peak_gflop_per_s.max(other.peak_gflop_per_s),
            read_gb_per_s: self.read_gb_per_s.max(other.read_gb_per_s),
        }
    }

    /// Seconds for so many operations on so many bytes, perfectly overlapped.
    pub(super) fn seconds(&self, flop: f64, bytes: f64) -> f64 {
        let arithmetic = flop / self.peak_gflop_per_s / 1e9;
        let reading = bytes / self.read_gb_per_s / 1e9;
        arithmetic.max(reading)
    }

    /// The roofline of a sweep: the rows of the prompt passes and of scoring run at the peak, and all cells share
    /// decode steps, each of which reads the weights. Attention, norms and the source prompt count as free.
    pub(super) fn sweep_seconds(
        &self,
        shape: &RandomCheckpoint,
        cells: usize,
        run: &SweepRun,
    ) -> f64 {
        let work = Work::new(shape);
        let (cells, steps) = (cells as f64, (run.new_tokens - 1) as f64);
        let prompts = cells * (run.own_rows as f64 * work.layers + work.head);
        let scores = run.scored_rows as f64 * (work.layers + work.head);
        let step = cells * (work.layers + work.head);
        self.seconds(prompts + scores, 0.0) + steps * self.seconds(step, work.bytes)
    }

    /// Floating-point operations of a sweep's matrix products.
    pub(super) fn sweep_flop(shape: &RandomCheckpoint, cells: usize, run: &SweepRun) -> f64 {
        let work = Work::new(shape);
        let rows = run.own_rows as f64 + (run.new_tokens - 1) as f64;
        let heads = run.new_tokens as f64;
        let scores = run.scored_rows as f64 * (work.layers + work.head);
        cells as f64 * (rows * work.layers + heads * work.head) + scores
    }
}

/// The cost of a row.
struct Work {
    /// Operations in all layers.
    layers: f64,
    /// Operations in the head.
    head: f64,
    /// Bytes of the weights that a decode step reads.
    bytes: f64,
}

impl Work {
    fn new(shape: &RandomCheckpoint) -> Self {
        let d = shape.d_model;
        let attention = d * shape.attn.qkv_dim() + shape.attn.q_dim() * d;
        let layers = shape.n_layers * (attention + 3 * d * shape.ffn);
        let head = d * shape.vocab_size;
        Self {
            layers: 2.0 * layers as f64,
            head: 2.0 * head as f64,
            bytes: ((layers + head) * shape.dtype.size()) as f64,
        }
    }
}
