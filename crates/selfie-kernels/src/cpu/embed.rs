//! Token embeddings, read from the packed table.

use super::threads::Threads;
use super::{CpuBatch, CpuMatrix, CpuRows};
use crate::Result;
use crate::error::{check_index, check_shape};

/// What a value of a row costs, which lie far apart in a packed matrix.
const READ_WORK: usize = 4;

pub(super) fn embed(
    threads: &Threads,
    table: &CpuMatrix,
    batch: &CpuBatch,
    scale: f32,
    out: &mut CpuRows,
) -> Result<()> {
    check_shape("embed", "width of the output", table.columns, out.width())?;
    for row in &batch.rows {
        check_index("embed", "token", row.token as usize, table.rows)?;
    }
    out.set_len("embed", batch.rows.len())?;
    let columns = table.columns.max(1);
    let rows = out.values_mut().chunks_mut(columns).zip(&batch.rows);
    threads.each(batch.rows.len(), READ_WORK * columns, rows, |(out, row)| {
        table.read_row(row.token as usize, out);
        out.iter_mut().for_each(|x| *x *= scale);
    });
    Ok(())
}
