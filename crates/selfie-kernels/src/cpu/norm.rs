//! RMSNorm (arXiv 1910.07467, equation 4).

use super::math::{Operand, lane_sum};
use super::rows::ActValues;
use super::simd::{Isa, Loop, Simd};
use super::threads::Threads;
use super::{CpuActs, CpuRows};
use crate::checks::check_parts;
use crate::error::check_shape;
use crate::{Parts, Result};

pub(super) fn rms_norm(
    isa: Isa,
    threads: &Threads,
    x: &CpuRows,
    weight: &[f32],
    eps: f32,
    out: &mut CpuActs,
) -> Result<()> {
    check_shape("rms_norm", "length of the weight", x.width(), weight.len())?;
    out.set_len("rms_norm", x.len(), x.width())?;
    let stride = out.stride;
    match &mut out.values {
        ActValues::F32(out) => all_rows(isa, threads, x, weight, eps, out, stride),
        ActValues::Rounded(out) => all_rows(isa, threads, x, weight, eps, out, stride),
        ActValues::Bf16(out) => {
            let out: &mut [half::bf16] = bytemuck::cast_slice_mut(out);
            all_rows(isa, threads, x, weight, eps, out, stride);
        }
    }
    Ok(())
}

pub(super) fn rms_norm_f32(
    isa: Isa,
    threads: &Threads,
    x: &CpuRows,
    weight: &[f32],
    eps: f32,
    out: &mut CpuRows,
) -> Result<()> {
    check_shape("rms_norm", "length of the weight", x.width(), weight.len())?;
    check_shape("rms_norm", "width of the output", x.width(), out.width())?;
    out.set_len("rms_norm", x.len())?;
    all_rows(isa, threads, x, weight, eps, out.values_mut(), x.width());
    Ok(())
}

pub(super) fn rms_norm_parts(
    isa: Isa,
    threads: &Threads,
    parts: Parts,
    weight: &[f32],
    eps: f32,
    rows: &mut CpuRows,
) -> Result<()> {
    check_parts(parts, weight.len(), rows.width())?;
    let width = rows.width();
    let (n, work) = (rows.len(), parts.count * parts.width);
    let rows = rows.values_mut().chunks_mut(width.max(1));
    threads.each(n, work, rows, |row| {
        let normed = &mut row[parts.first..][..parts.count * parts.width];
        for x in normed.chunks_exact_mut(parts.width) {
            isa.run(Part { x, weight, eps });
        }
    });
    Ok(())
}

struct Part<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Loop for Part<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = scale(s, self.x, self.eps);
        for (x, &w) in self.x.iter_mut().zip(self.weight) {
            *x = *x * scale * w;
        }
    }
}

fn all_rows<T: Operand>(
    isa: Isa,
    threads: &Threads,
    x: &CpuRows,
    weight: &[f32],
    eps: f32,
    out: &mut [T],
    stride: usize,
) {
    let rows = out.chunks_mut(stride.max(1)).zip(x.rows());
    threads.each(x.len(), x.width(), rows, |(out, x)| {
        isa.run(Row {
            x,
            weight,
            eps,
            out,
        });
    });
}

struct Row<'a, T> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [T],
}

impl<T: Operand> Loop for Row<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = scale(s, self.x, self.eps);
        for ((out, &x), &w) in self.out.iter_mut().zip(self.x).zip(self.weight) {
            *out = T::round(x * scale * w);
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
#[inline(always)]
fn scale<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let squares = lane_sum(x, |x, sum| s.mul_add(x, x, sum));
    // A sum that overflows would scale the row to zeros, indistinguishable from a real one.
    if squares.is_finite() {
        1.0 / (squares / x.len() as f32 + eps).sqrt()
    } else {
        f32::NAN
    }
}
