//! Rows as GEMM operands, and rows added to rows.

use rayon::prelude::*;

use super::math::Operand;
use super::rows::ActValues;
use super::{CpuActs, CpuRows};
use crate::Result;
use crate::error::check_shape;

pub(super) fn cast(x: &CpuRows, out: &mut CpuActs) -> Result<()> {
    out.set_len("cast", x.len(), x.width())?;
    let stride = out.stride;
    match &mut out.values {
        ActValues::F32(out) => all_rows(x, out, stride),
        ActValues::Rounded(out) => all_rows(x, out, stride),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            all_rows(x, out, stride);
        }
    }
    Ok(())
}

fn all_rows<T: Operand>(x: &CpuRows, out: &mut [T], stride: usize) {
    out.par_chunks_mut(stride.max(1))
        .zip(x.values().par_chunks(x.width().max(1)))
        .for_each(|(out, x)| {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = T::round(x);
            }
        });
}

pub(super) fn add(x: &CpuRows, scale: f32, residual: &mut CpuRows) -> Result<()> {
    check_shape("add", "width of the residual", x.width(), residual.width())?;
    check_shape("add", "rows of the residual", x.len(), residual.len())?;
    let width = x.width().max(1);
    residual
        .values_mut()
        .par_chunks_mut(width)
        .zip(x.values().par_chunks(width))
        .for_each(|(residual, x)| {
            residual
                .iter_mut()
                .zip(x)
                .for_each(|(r, &x)| *r += scale * x);
        });
    Ok(())
}
