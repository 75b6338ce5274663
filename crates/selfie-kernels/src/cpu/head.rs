//! The best token, and the log-probability of a token, without writing out the logits.
//!
//! The vocabulary is cut into chunks of [`CHUNK`] columns. For all rows, a task reduces a chunk to its maximum, its
//! best token and a sum of exponentials. The chunks of a row are then merged in order.

use super::gemm::{PRODUCTS_A_VALUE, TILE, for_tiles, with_product};
use super::math::{exp, lane_sum, max, tanh};
use super::scratch::with_room;
use super::simd::{Isa, Loop, Simd};
use super::threads::Threads;
use super::{CpuActs, CpuMatrix, Scratch};
use crate::error::{check_index, check_shape};
use crate::{Best, KernelError, LogitMap, Result};

const CHUNK: usize = 16 * TILE;

pub(super) fn best(
    isa: Isa,
    threads: &Threads,
    free: &Scratch,
    a: &CpuActs,
    head: &CpuMatrix,
    map: &LogitMap,
) -> Result<Vec<Best>> {
    reduce(isa, threads, free, a, head, map, None, |_, _, merged| {
        Best {
            token: merged.token,
            logprob: -merged.log_sum,
        }
    })
}

pub(super) fn score(
    isa: Isa,
    threads: &Threads,
    free: &Scratch,
    a: &CpuActs,
    head: &CpuMatrix,
    map: &LogitMap,
    tokens: &[u32],
) -> Result<Vec<f32>> {
    check_shape("head_score", "number of tokens", a.len, tokens.len())?;
    for &token in tokens {
        check_index("head_score", "token", token as usize, head.rows)?;
    }
    reduce(
        isa,
        threads,
        free,
        a,
        head,
        map,
        Some(tokens),
        |parts, row, merged| {
            let logit = parts[tokens[row] as usize / CHUNK * a.len + row].wanted;
            logit - merged.top - merged.log_sum
        },
    )
}

/// One row's logits over one chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    top: f32,
    token: u32,
    /// Sum of `e^(logit - top)`; NaN if a logit is not finite.
    sum: f32,
    /// The logit of the token to score, in the chunk that holds it.
    wanted: f32,
}

struct Merged {
    top: f32,
    token: u32,
    /// Log of the sum of `e^(logit - top)` over the vocabulary; NaN if a logit is not finite.
    log_sum: f32,
}

/// Reduces all chunks (`[chunks, rows]`), and calls `each(parts, row, merged)` for every row.
fn reduce<T>(
    isa: Isa,
    threads: &Threads,
    free: &Scratch,
    a: &CpuActs,
    head: &CpuMatrix,
    map: &LogitMap,
    tokens: Option<&[u32]>,
    each: impl Fn(&[Part], usize, Merged) -> T,
) -> Result<Vec<T>> {
    check_shape("head", "width of the operand", head.columns, a.width)?;
    let [weights] = head.parts() else {
        return Err(KernelError::Unsupported {
            op: "head",
            reason: "the head is stacked from several formats; it must have one".to_owned(),
        });
    };
    let rows = a.len;
    let chunks = head.rows.div_ceil(CHUNK);
    with_product(
        isa,
        threads,
        "head",
        &free.operands,
        a,
        weights,
        |product| {
            free.head_parts.with(chunks * rows, |parts| {
                let chunk_parts = parts.chunks_mut(rows.max(1)).enumerate();
                let work = rows * CHUNK * head.columns / PRODUCTS_A_VALUE;
                threads.each(chunks, work, chunk_parts, |(chunk, parts)| {
                    let first = chunk * CHUNK;
                    let width = CHUNK.min(head.rows - first);
                    with_room(rows * CHUNK, |logits| {
                        let pairs = first / TILE..(first + width).div_ceil(TILE);
                        for_tiles(isa, product, pairs, |row, pair, sums| {
                            logits[row * CHUNK + pair * TILE - first..][..TILE]
                                .copy_from_slice(sums);
                        });
                        for (row, part) in parts.iter_mut().enumerate() {
                            let logits = &mut logits[row * CHUNK..][..width];
                            if *map != LogitMap::PLAIN {
                                isa.run(Mapped { logits, map });
                            }
                            *part = isa.run(Chunk {
                                logits,
                                first: first as u32,
                                token: tokens.map(|tokens| tokens[row]),
                            });
                        }
                    });
                });
                let rows = (0..rows).map(|row| each(parts, row, merge(parts, rows, row)));
                rows.collect()
            })
        },
    )
}

struct Mapped<'a> {
    logits: &'a mut [f32],
    map: &'a LogitMap,
}

impl Loop for Mapped<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = self.map.scale;
        match self.map.softcap {
            None => self.logits.iter_mut().for_each(|x| *x *= scale),
            // 0 times a value that is not finite is NaN, which keeps a cap from hiding it.
            Some(cap) => self.logits.iter_mut().for_each(|x| {
                *x = s.mul_add(cap, tanh(s, *x * (scale / cap)), 0.0 * *x);
            }),
        }
    }
}

struct Chunk<'a> {
    logits: &'a [f32],
    first: u32,
    token: Option<u32>,
}

impl Loop for Chunk<'_> {
    type Out = Part;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Part {
        let top = max(self.logits);
        let at = self.logits.iter().position(|&x| x == top).unwrap_or(0);
        let wanted = self
            .token
            .and_then(|token| token.checked_sub(self.first))
            .and_then(|i| self.logits.get(i as usize));
        Part {
            top,
            token: self.first + at as u32,
            // Adding 0 times a logit changes the sum only if the logit is not finite: then to NaN.
            sum: lane_sum(self.logits, |x, sum| {
                s.mul_add(x, 0.0, sum) + exp(s, x - top)
            }),
            wanted: wanted.copied().unwrap_or(f32::NAN),
        }
    }
}

fn merge(parts: &[Part], rows: usize, row: usize) -> Merged {
    let chunks = || parts.iter().skip(row).step_by(rows);
    let mut top = f32::NEG_INFINITY;
    let mut token = 0;
    for part in chunks() {
        if part.top > top {
            (top, token) = (part.top, part.token);
        }
    }
    let sum: f64 = chunks()
        .map(|part| f64::from(part.sum) * f64::from(part.top - top).exp())
        .sum();
    Merged {
        top,
        token,
        log_sum: sum.ln() as f32,
    }
}
