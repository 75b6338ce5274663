//! Token embeddings, read from the packed table.

use rayon::prelude::*;

use super::{CpuBatch, CpuMatrix, CpuRows};
use crate::Result;
use crate::error::{check_index, check_shape};

pub(super) fn embed(
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
    out.values_mut()
        .par_chunks_mut(table.columns)
        .zip(&batch.rows)
        .for_each(|(out, row)| {
            table.read_row(row.token as usize, out);
            out.iter_mut().for_each(|x| *x *= scale);
        });
    Ok(())
}
