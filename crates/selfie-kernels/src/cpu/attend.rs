//! Causal attention over a shared segment and a slot's own.
//!
//! All scores of a row are computed before the softmax, and every sum runs over positions in order, so that the
//! result does not depend on where the shared segment ends.

use rayon::prelude::*;

use super::kv::Segment;
use super::math::{Operand, exp, lane_sum, max};
use super::rows::ActValues;
use super::simd::{Isa, LANES, Loop, Simd};
use super::{CpuActs, CpuBatch, CpuKv, CpuRows, Scratch};
use crate::checks::{check_groups, check_qkv};
use crate::{AttnShape, Result};

pub(super) fn attend(
    isa: Isa,
    scratch: &Scratch,
    shape: &AttnShape,
    qkv: &CpuRows,
    batch: &CpuBatch,
    layer: usize,
    kv: &CpuKv,
    out: &mut CpuActs,
) -> Result<()> {
    const OP: &str = "attend";
    let rows = batch.rows.len();
    check_qkv(OP, shape, &kv.layout, rows, (qkv.len(), qkv.width()))?;
    check_groups(OP, shape)?;
    for row in &batch.rows {
        kv.check(OP, layer, row)?;
    }
    out.set_len(OP, qkv.len(), shape.q_dim())?;
    let stride = out.stride;
    let rows = Rows {
        isa,
        scratch,
        shape,
        qkv,
        batch,
        layer,
        kv,
    };
    match &mut out.values {
        ActValues::F32(out) => rows.attend(out, stride),
        ActValues::Rounded(out) => rows.attend(out, stride),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            rows.attend(out, stride);
        }
    }
    Ok(())
}

struct Rows<'a> {
    isa: Isa,
    scratch: &'a Scratch,
    shape: &'a AttnShape,
    qkv: &'a CpuRows,
    batch: &'a CpuBatch,
    layer: usize,
    kv: &'a CpuKv,
}

impl Rows<'_> {
    fn attend<T: Operand>(&self, out: &mut [T], stride: usize) {
        let dim = self.shape.head_dim;
        let group = self.shape.heads / self.shape.kv_heads;
        out.par_chunks_mut(stride)
            .zip(&self.batch.rows)
            .enumerate()
            .for_each(|(i, (out, row))| {
                let q = &self.qkv.row(i)[..self.shape.q_dim()];
                let out = &mut out[..self.shape.q_dim()];
                let groups = q
                    .chunks_exact(group * dim)
                    .zip(out.chunks_exact_mut(group * dim));
                let room = row.position as usize + 1 + 2 * LANES;
                self.scratch.with(room, |scores| {
                    for (head, (q, out)) in groups.enumerate() {
                        let segments = self.kv.segments(self.layer, row, head);
                        for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
                            self.isa.run(Head {
                                q,
                                segments: &segments,
                                value_width: self.kv.value_width(),
                                scores,
                                out,
                            });
                        }
                    }
                });
            });
    }
}

/// One query against all that it sees.
struct Head<'a, T> {
    q: &'a [f32],
    segments: &'a [Segment<'a>; 2],
    value_width: usize,
    scores: &'a mut [f32],
    out: &'a mut [T],
}

impl<T: Operand> Loop for Head<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = 1.0 / (self.q.len() as f32).sqrt();
        let mut n = 0;
        for segment in self.segments {
            for first in (0..segment.len).step_by(2 * LANES) {
                // The last chunk runs into the padding; what it leaves there is overwritten or never read.
                if first + LANES < segment.capacity {
                    score::<S, { 2 * LANES }>(
                        s,
                        self.q,
                        segment,
                        first,
                        &mut self.scores[n + first..],
                    );
                } else {
                    score::<S, LANES>(s, self.q, segment, first, &mut self.scores[n + first..]);
                }
            }
            n += segment.len;
        }
        let scores = &mut self.scores[..n];
        let top = max(scores);
        for score in scores.iter_mut() {
            *score = exp(s, (*score - top) * scale);
        }
        let norm = 1.0 / lane_sum(scores, |x, sum| sum + x);
        let mut column = 0;
        while column < self.out.len() {
            let out = &mut self.out[column..];
            if self.value_width - column >= 2 * LANES {
                mix::<S, T, { 2 * LANES }>(
                    s,
                    self.segments,
                    scores,
                    self.value_width,
                    column,
                    norm,
                    out,
                );
                column += 2 * LANES;
            } else {
                mix::<S, T, LANES>(
                    s,
                    self.segments,
                    scores,
                    self.value_width,
                    column,
                    norm,
                    out,
                );
                column += LANES;
            }
        }
    }
}

/// Dot products of the query with `W` neighbouring keys.
#[inline(always)]
fn score<S: Simd, const W: usize>(
    s: S,
    q: &[f32],
    segment: &Segment<'_>,
    first: usize,
    out: &mut [f32],
) {
    let mut sums = [0f32; W];
    for (d, &q) in q.iter().enumerate() {
        let keys = &segment.keys[d * segment.capacity + first..][..W];
        for (sum, &k) in sums.iter_mut().zip(keys) {
            *sum = s.mul_add(q, k, *sum);
        }
    }
    out[..W].copy_from_slice(&sums);
}

/// The weighted sum of `W` neighbouring columns of the values.
#[inline(always)]
fn mix<S: Simd, T: Operand, const W: usize>(
    s: S,
    segments: &[Segment<'_>; 2],
    weights: &[f32],
    value_width: usize,
    column: usize,
    norm: f32,
    out: &mut [T],
) {
    let mut sums = [0f32; W];
    let mut n = 0;
    for segment in segments {
        let values = segment.values.chunks_exact(value_width);
        for (row, &weight) in values.zip(&weights[n..n + segment.len]) {
            for (sum, &v) in sums.iter_mut().zip(&row[column..column + W]) {
                *sum = s.mul_add(weight, v, *sum);
            }
        }
        n += segment.len;
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = T::round(sum * norm);
    }
}
