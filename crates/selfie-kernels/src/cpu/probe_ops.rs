//! What a probe does with rows: gather, scatter, inject.

use super::CpuRows;
use crate::error::{check_index, check_shape};
use crate::{InjectMode, Injection, Result};

pub(super) fn gather(src: &CpuRows, index: &[usize], dst: &mut CpuRows) -> Result<()> {
    check_shape("gather", "width of the target", src.width(), dst.width())?;
    for &i in index {
        check_index("gather", "row", i, src.len())?;
    }
    let first = dst.len();
    dst.set_len("gather", first + index.len())?;
    for (n, &i) in index.iter().enumerate() {
        dst.row_mut(first + n).copy_from_slice(src.row(i));
    }
    Ok(())
}

pub(super) fn scatter(
    src: &CpuRows,
    index: &[usize],
    dst: &mut CpuRows,
    at: &[usize],
) -> Result<()> {
    check_shape("scatter", "width of the target", src.width(), dst.width())?;
    check_shape("scatter", "number of targets", index.len(), at.len())?;
    for (&i, &to) in index.iter().zip(at) {
        check_index("scatter", "row of the source", i, src.len())?;
        check_index("scatter", "row of the target", to, dst.len())?;
        dst.row_mut(to).copy_from_slice(src.row(i));
    }
    Ok(())
}

pub(super) fn inject(vectors: &CpuRows, writes: &[Injection], rows: &mut CpuRows) -> Result<usize> {
    check_shape(
        "inject",
        "width of the vectors",
        rows.width(),
        vectors.width(),
    )?;
    for write in writes {
        check_index("inject", "row", write.row, rows.len())?;
        check_index("inject", "vector", write.vector, vectors.len())?;
        let s = write.strength;
        let row = rows.row_mut(write.row).iter_mut();
        let pairs = row.zip(vectors.row(write.vector));
        match write.mode {
            InjectMode::Replace => pairs.for_each(|(h, &v)| *h = s * v + (1.0 - s) * *h),
            InjectMode::Add => pairs.for_each(|(h, &v)| *h += s * v),
        }
    }
    Ok(writes.len())
}
