//! Causal attention over a prefix, then a slot's own positions.
//!
//! The kernel computes all scores of a row before the softmax, and sums over positions in order. The result therefore
//! does not depend on where the prefix ends. Keys and values in bf16 or f16 are widened as they are loaded.

use std::array::from_fn;

use super::kv::{LayerKv, Segment, Store};
use super::math::{Operand, Stored, exp, lane_sum, max, tanh};
use super::rows::ActValues;
use super::scratch::with_room;
use super::simd::{Isa, LANES, Loop, Simd};
use super::threads::Threads;
use super::{CpuActs, CpuBatch, CpuKv, CpuRows};
use crate::checks::{check_groups, check_qkv};
use crate::{Attend, Result};

pub(super) fn attend(
    isa: Isa,
    threads: &Threads,
    attend: &Attend,
    qkv: &CpuRows,
    batch: &CpuBatch,
    layer: usize,
    kv: &CpuKv,
    out: &mut CpuActs,
) -> Result<()> {
    const OP: &str = "attend";
    let shape = &attend.shape;
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
        threads,
        attend,
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
    threads: &'a Threads,
    attend: &'a Attend,
    qkv: &'a CpuRows,
    batch: &'a CpuBatch,
    layer: usize,
    kv: &'a CpuKv,
}

/// Query heads of one key head that walk its keys and values together, so that each is loaded once for all of them.
const HEADS: usize = 4;

/// The most sums of a query at a time.
const MOST_SUMS: usize = 4 * LANES;

impl Rows<'_> {
    fn attend<T: Operand>(&self, out: &mut [T], stride: usize) {
        match &self.kv.store {
            Store::F32(layers) => self.attend_to(&layers[self.layer], out, stride),
            Store::Bf16(layers) => self.attend_to(&layers[self.layer], out, stride),
            Store::F16(layers) => self.attend_to(&layers[self.layer], out, stride),
        }
    }

    fn attend_to<T: Operand, E: Stored>(&self, kv: &LayerKv<E>, out: &mut [T], stride: usize) {
        let shape = &self.attend.shape;
        let dim = shape.head_dim;
        let group = shape.heads / shape.kv_heads;
        let heads = out.chunks_mut(stride).zip(&self.batch.rows).enumerate();
        let heads = heads.flat_map(|(i, (out, row))| {
            let out = out[..shape.q_dim()].chunks_exact_mut(group * dim);
            out.enumerate().map(move |(head, out)| (i, row, head, out))
        });
        let positions = self.batch.rows.iter().map(|row| row.position as usize + 1);
        let n = self.batch.rows.len() * shape.kv_heads;
        let work = positions.sum::<usize>() / self.batch.rows.len().max(1) * 2 * dim;
        self.threads.each(n, work, heads, |(i, row, head, out)| {
            let q = &self.qkv.row(i)[head * group * dim..][..group * dim];
            let segments = self.kv.segments(kv, self.layer, row, head);
            let first = self.attend.first(row.position as usize);
            // The last chunk of keys runs into the padding.
            let room = row.position as usize + 1 + MOST_SUMS;
            with_room(HEADS * room, |scores| {
                let parts = q.chunks(HEADS * dim).zip(out.chunks_mut(HEADS * dim));
                for (q, out) in parts {
                    let heads = Heads {
                        q,
                        dim,
                        scale: self.attend.scale,
                        softcap: self.attend.softcap,
                        first,
                        segments: &segments,
                        value_width: self.kv.value_width(),
                        scores,
                        room,
                        out,
                    };
                    match q.len() / dim {
                        1 => self.isa.run(HeadGroup::<_, _, 1>(heads)),
                        2 => self.isa.run(HeadGroup::<_, _, 2>(heads)),
                        3 => self.isa.run(HeadGroup::<_, _, 3>(heads)),
                        _ => self.isa.run(HeadGroup::<_, _, HEADS>(heads)),
                    }
                }
            });
        });
    }
}

/// Some query heads and everything that they attend to.
struct Heads<'a, T, E> {
    /// `[heads, dim]`
    q: &'a [f32],
    dim: usize,
    scale: f32,
    softcap: Option<f32>,
    /// The first position that they see.
    first: usize,
    segments: &'a [Segment<'a, E>; 2],
    value_width: usize,
    /// `[heads, room]`
    scores: &'a mut [f32],
    room: usize,
    /// `[heads, dim]`
    out: &'a mut [T],
}

/// [`Heads`] with exactly `G` query heads.
struct HeadGroup<'a, T, E, const G: usize>(Heads<'a, T, E>);

impl<T: Operand, E: Stored, const G: usize> Loop for HeadGroup<'_, T, E, G> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Heads {
            q,
            dim,
            scale,
            softcap,
            first: seen,
            segments,
            value_width,
            scores,
            room,
            out,
        } = self.0;
        let mut n = 0;
        for segment in segments {
            let mut first = 0;
            while first < segment.len {
                let keys = Keys { segment, first };
                let scores = &mut scores[n + first..];
                // A chunk may run past the segment; the excess is overwritten or never read.
                let width = width::<S, G>(segment.len - first, segment.capacity - first);
                // Positions before the window are overwritten.
                if n + first + width > seen {
                    match width {
                        64 => score::<S, E, G, 64>(s, q, keys, scores, room),
                        32 => score::<S, E, G, 32>(s, q, keys, scores, room),
                        _ => score::<S, E, G, LANES>(s, q, keys, scores, room),
                    }
                }
                first += width;
            }
            n += segment.len;
        }

        // A cap already includes the scale.
        let scale = match softcap {
            Some(cap) => {
                for score in scores.chunks_mut(room).flat_map(|scores| &mut scores[..n]) {
                    *score = cap * tanh(s, *score * (scale / cap));
                }
                1.0
            }
            None => scale,
        };
        let mut norms = [0f32; G];
        for (scores, norm) in scores.chunks_mut(room).zip(&mut norms) {
            // Whole vectors only: the padding becomes 0 and changes no sum.
            scores[n..n.next_multiple_of(LANES)].fill(f32::NEG_INFINITY);
            scores[..seen].fill(f32::NEG_INFINITY);
            let scores = &mut scores[..n.next_multiple_of(LANES)];
            let top = max(scores);
            for score in scores.iter_mut() {
                *score = exp(s, (*score - top) * scale);
            }
            *norm = 1.0 / lane_sum(scores, |x, sum| sum + x);
        }

        let weights = Weights {
            scores,
            room,
            norms,
        };
        let mut column = 0;
        while column < dim {
            let width = width::<S, G>(dim - column, value_width - column);
            let values = Values {
                segments,
                value_width,
                column,
                first: seen,
            };
            match width {
                64 => mix::<S, T, E, G, 64>(s, &weights, values, out, dim),
                32 => mix::<S, T, E, G, 32>(s, &weights, values, out, dim),
                _ => mix::<S, T, E, G, LANES>(s, &weights, values, out, dim),
            }
            column += width;
        }
    }
}

/// How many neighbours to take at a time, given how many are wanted and how many exist with the padding.
#[inline(always)]
fn width<S: Simd, const G: usize>(wanted: usize, available: usize) -> usize {
    let mut width = (S::SUMS / G.next_power_of_two()).min(MOST_SUMS);
    while width > LANES && (width > available || width / 2 >= wanted) {
        width /= 2;
    }
    width
}

/// The keys of a segment, from one position on.
struct Keys<'a, E> {
    segment: &'a Segment<'a, E>,
    first: usize,
}

/// Dot products of the queries with `W` adjacent keys: `[G, W]` at `scores[g * room..]`.
#[inline(always)]
fn score<S: Simd, E: Stored, const G: usize, const W: usize>(
    s: S,
    q: &[f32],
    keys: Keys<'_, E>,
    scores: &mut [f32],
    room: usize,
) {
    let dim = q.len() / G;
    let mut sums = [[0f32; W]; G];
    let keys_at = keys.segment.keys.chunks_exact(keys.segment.capacity);
    for (d, keys_at) in keys_at.enumerate().take(dim) {
        let q: [f32; G] = from_fn(|g| q[g * dim + d]);
        sums = add_scaled(s, q, &keys_at[keys.first..][..W], sums);
    }
    for (g, sums) in sums.iter().enumerate() {
        scores[g * room..][..W].copy_from_slice(sums);
    }
}

/// The softmax weights of each query, before the division by their sum.
struct Weights<'a, const G: usize> {
    scores: &'a [f32],
    room: usize,
    /// The reciprocals of the sums.
    norms: [f32; G],
}

/// The values of a segment, from one column on.
struct Values<'a, E> {
    segments: &'a [Segment<'a, E>; 2],
    value_width: usize,
    column: usize,
    /// The first position that counts.
    first: usize,
}

/// The weighted sums of `W` adjacent columns of the values.
#[inline(always)]
fn mix<S: Simd, T: Operand, E: Stored, const G: usize, const W: usize>(
    s: S,
    weights: &Weights<'_, G>,
    values: Values<'_, E>,
    out: &mut [T],
    dim: usize,
) {
    let mut sums = [[0f32; W]; G];
    let mut n = 0;
    for segment in values.segments {
        let rows = segment.values.chunks_exact(values.value_width);
        let before = values.first.saturating_sub(n);
        for (i, row) in rows.take(segment.len).enumerate().skip(before) {
            let weights: [f32; G] = from_fn(|g| weights.scores[g * weights.room + n + i]);
            sums = add_scaled(s, weights, &row[values.column..][..W], sums);
        }
        n += segment.len;
    }
    let rows = out.chunks_exact_mut(dim);
    for ((out, sums), norm) in rows.zip(&sums).zip(weights.norms) {
        for (out, sum) in out[values.column..].iter_mut().zip(sums) {
            *out = T::round(sum * norm);
        }
    }
}

/// `sums[g] + scale[g] * x`. Takes the sums by value, so that the compiler keeps them in registers.
#[inline(always)]
fn add_scaled<S: Simd, E: Stored, const G: usize, const W: usize>(
    s: S,
    scale: [f32; G],
    x: &[E],
    mut sums: [[f32; W]; G],
) -> [[f32; W]; G] {
    let Some(x) = x.first_chunk::<W>() else {
        return sums;
    };
    let x = E::widen(s, x);
    for (sums, scale) in sums.iter_mut().zip(scale) {
        for i in 0..W {
            sums[i] = s.mul_add(scale, x[i], sums[i]);
        }
    }
    sums
}
