//! The row operations of a probe: gather and inject.

use super::CpuRows;
use crate::batch::LEAST_LENGTH;
use crate::checks::check_injections;
use crate::error::{check_index, check_shape};
use crate::{Injection, KernelError, Result};

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

/// How many rows injections should have written on the CPU, and how many they did write.
#[derive(Clone, Debug, Default)]
pub struct CpuTally {
    asked: u64,
    written: u64,
}

impl CpuTally {
    pub(super) fn check(&mut self) -> Result<()> {
        let CpuTally { asked, written } = std::mem::take(self);
        if asked == written {
            return Ok(());
        }
        Err(KernelError::MissedInjection { asked, written })
    }
}

pub(super) fn inject(
    vectors: &CpuRows,
    writes: &[Injection],
    rows: &mut CpuRows,
    tally: &mut CpuTally,
) -> Result<()> {
    check_injections(
        writes,
        (vectors.len(), vectors.width()),
        (rows.len(), rows.width()),
    )?;
    tally.asked += writes.len() as u64;
    for write in writes {
        let form = write.mode.form();
        let (h, v) = (rows.row_mut(write.row), vectors.row(write.vector));
        let keep = form.keep.factor(write.strength);
        let mut scale = write.strength;
        if form.matched {
            scale *= length(h);
        }
        let pairs = h.iter_mut().zip(v);
        if form.unit {
            let length = length(v).max(LEAST_LENGTH);
            // Divide first: the quotient of a scale could leave the range of f32.
            pairs.for_each(|(h, &v)| *h = scale * (v / length) + keep * *h);
        } else {
            pairs.for_each(|(h, &v)| *h = scale * v + keep * *h);
        }
        tally.written += 1;
    }
    Ok(())
}

/// The Euclidean length, from f64 squares, which hold the square of any f32. The order of the sum is fixed.
fn length(values: &[f32]) -> f32 {
    let mut lanes = [0f64; 8];
    for chunk in values.chunks(8) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>().sqrt() as f32
}
