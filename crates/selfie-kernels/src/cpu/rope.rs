//! Rotary embedding (arXiv 2104.09864) of queries and keys, and the append to the cache.

use super::simd::{Isa, Loop, Simd};
use super::threads::Threads;
use super::{CpuBatch, CpuKv, CpuRows};
use crate::checks::{check_qkv, check_rope};
use crate::{AttnShape, Result};

pub(super) fn rope_append(
    isa: Isa,
    threads: &Threads,
    shape: &AttnShape,
    rope: Option<&CpuRows>,
    batch: &CpuBatch,
    layer: usize,
    qkv: &mut CpuRows,
    kv: &mut CpuKv,
) -> Result<()> {
    const OP: &str = "rope_append";
    let rows = batch.rows.len();
    check_qkv(OP, shape, &kv.layout, rows, (qkv.len(), qkv.width()))?;
    for row in &batch.rows {
        kv.check(OP, layer, row)?;
    }
    if let Some(rope) = rope {
        check_rope(OP, shape, (rope.len(), rope.width()), &batch.rows)?;
        let rotated = shape.q_dim() + shape.kv_dim();
        let width = shape.qkv_dim().max(1);
        let rows = qkv.values_mut().chunks_mut(width).zip(&batch.rows);
        threads.each(batch.rows.len(), rotated, rows, |(qkv, row)| {
            let table = rope.row(row.position as usize);
            for head in qkv[..rotated].chunks_exact_mut(shape.head_dim) {
                isa.run(Rotate { head, table });
            }
        });
    }
    kv.append(layer, &batch.rows, |i| {
        qkv.row(i)[shape.q_dim()..].split_at(shape.kv_dim())
    });
    Ok(())
}

struct Rotate<'a> {
    head: &'a mut [f32],
    table: &'a [f32],
}

impl Loop for Rotate<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.table.len() / 2;
        let (cos, sin) = self.table.split_at(half);
        let (first, second) = self.head.split_at_mut(half);
        for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            // Each product is rounded before the sum, as in PyTorch.
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
