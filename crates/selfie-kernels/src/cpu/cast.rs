//! Conversion of rows to GEMM operands, and addition of rows.

use super::math::Operand;
use super::rows::ActValues;
use super::simd::Isa;
use super::threads::Threads;
use super::{CpuActs, CpuRows};
use crate::error::check_shape;
use crate::{DType, Result};

pub(super) fn cast(threads: &Threads, x: &CpuRows, out: &mut CpuActs) -> Result<()> {
    out.set_len("cast", x.len(), x.width())?;
    let stride = out.stride;
    match &mut out.values {
        ActValues::F32(out) => all_rows(threads, x, out, stride),
        ActValues::Rounded(out) => all_rows(threads, x, out, stride),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            all_rows(threads, x, out, stride);
        }
    }
    Ok(())
}

fn all_rows<T: Operand>(threads: &Threads, x: &CpuRows, out: &mut [T], stride: usize) {
    let rows = out.chunks_mut(stride.max(1)).zip(x.rows());
    threads.each(x.len(), x.width(), rows, |(out, x)| {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = T::round(x);
        }
    });
}

/// Converts an f32 operand to the form that weights of dtype `weights` take.
pub(super) fn recast(isa: Isa, a: &CpuActs, weights: DType) -> CpuActs {
    let mut out = CpuActs::new(isa, a.len, a.width, weights);
    out.len = a.len;
    let (from, to) = (a.stride, out.stride);
    match &mut out.values {
        ActValues::F32(out) => recast_rows(a.values.f32(), from, a.width, out, to),
        ActValues::Rounded(out) => recast_rows(a.values.f32(), from, a.width, out, to),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            recast_rows(a.values.f32(), from, a.width, out, to);
        }
    }
    out
}

fn recast_rows<T: Operand>(a: &[f32], from: usize, width: usize, out: &mut [T], to: usize) {
    for (out, a) in out.chunks_exact_mut(to).zip(a.chunks_exact(from)) {
        for (out, &x) in out.iter_mut().zip(&a[..width]) {
            *out = T::round(x);
        }
    }
}

pub(super) fn add(
    threads: &Threads,
    x: &CpuRows,
    scale: f32,
    residual: &mut CpuRows,
) -> Result<()> {
    check_shape("add", "width of the residual", x.width(), residual.width())?;
    check_shape("add", "rows of the residual", x.len(), residual.len())?;
    let width = x.width().max(1);
    let rows = residual.values_mut().chunks_mut(width).zip(x.rows());
    threads.each(x.len(), width, rows, |(residual, x)| {
        residual
            .iter_mut()
            .zip(x)
            .for_each(|(r, &x)| *r += scale * x);
    });
    Ok(())
}
