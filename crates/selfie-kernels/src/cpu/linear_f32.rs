//! Products with f32 master weights. The weights lie row after row, as training updates them.

use rayon::prelude::*;

use super::CpuRows;
use super::simd::{Isa, LANES, Loop, Simd};
use crate::Result;
use crate::error::check_shape;

/// Weight rows of a task.
const TASK_ROWS: usize = 32;

/// `out = x · wᵀ (+ bias)`.
pub(super) fn linear_f32(
    isa: Isa,
    x: &CpuRows,
    w: &CpuRows,
    bias: Option<&CpuRows>,
    out: &mut CpuRows,
) -> Result<()> {
    const OP: &str = "linear_f32";
    check_shape(OP, "columns of the weight", x.width(), w.width())?;
    check_shape(OP, "width of the output", w.len(), out.width())?;
    let bias = bias.map_or(&[][..], CpuRows::values);
    if !bias.is_empty() {
        check_shape(OP, "length of the bias", w.len(), bias.len())?;
    }
    let (n, k) = (x.len(), w.width());
    out.set_len(OP, n)?;
    if n == 0 {
        return Ok(());
    }
    // A task owns some columns of `out`. It writes them as rows, which are transposed afterwards.
    let mut columns = vec![0.0; w.len() * n];
    columns
        .par_chunks_mut(TASK_ROWS * n)
        .zip(w.values().par_chunks(TASK_ROWS * k))
        .for_each(|(columns, w)| {
            let x = x.values();
            isa.run(Dots {
                x,
                w,
                k,
                n,
                columns,
            });
        });
    let width = out.width();
    out.values_mut()
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(row, out)| {
            for (o, out) in out.iter_mut().enumerate() {
                *out = columns[o * n + row] + bias.get(o).copied().unwrap_or(0.0);
            }
        });
    Ok(())
}

/// `columns[o][row] = x[row] · w[o]`.
struct Dots<'a> {
    x: &'a [f32],
    w: &'a [f32],
    k: usize,
    n: usize,
    columns: &'a mut [f32],
}

impl Loop for Dots<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Dots {
            x,
            w,
            k,
            n,
            columns,
        } = self;
        // A row of weights stays in the L1 cache for all rows of x.
        for (columns, w) in columns.chunks_exact_mut(n).zip(w.chunks_exact(k)) {
            for (column, x) in columns.iter_mut().zip(x.chunks_exact(k)) {
                *column = dot(s, x, w);
            }
        }
    }
}

/// The dot product of two rows. The order of the sum depends only on their length.
#[inline(always)]
fn dot<S: Simd>(s: S, x: &[f32], w: &[f32]) -> f32 {
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (w_blocks, w_rest) = w.as_chunks::<LANES>();
    let mut lanes = [0f32; LANES];
    for (x, w) in x_blocks.iter().zip(w_blocks) {
        lanes = add_products(s, x, w, lanes);
    }
    for ((lane, &x), &w) in lanes.iter_mut().zip(x_rest).zip(w_rest) {
        *lane = s.mul_add(x, w, *lane);
    }
    lanes.iter().sum()
}

/// `sums + x * w`, lane by lane. Takes the sums by value, so that the compiler keeps them in registers.
#[inline(always)]
fn add_products<S: Simd>(
    s: S,
    x: &[f32; LANES],
    w: &[f32; LANES],
    mut sums: [f32; LANES],
) -> [f32; LANES] {
    for lane in 0..LANES {
        sums[lane] = s.mul_add(x[lane], w[lane], sums[lane]);
    }
    sums
}

/// `out = d · w`: the gradient of the input, from that of the output.
pub(super) fn linear_f32_back(isa: Isa, d: &CpuRows, w: &CpuRows, out: &mut CpuRows) -> Result<()> {
    const OP: &str = "linear_f32_back";
    check_shape(OP, "rows of the weight", d.width(), w.len())?;
    check_shape(OP, "width of the output", w.width(), out.width())?;
    let (n, width) = (d.len(), w.width());
    out.set_len(OP, n)?;
    if n == 0 {
        return Ok(());
    }
    // A task owns a strip of columns of all rows: `[strips][n][STRIP]`.
    let mut strips = vec![0.0; width.div_ceil(STRIP) * n * STRIP];
    strips
        .par_chunks_mut(n * STRIP)
        .enumerate()
        .for_each(|(strip, sums)| {
            let first = strip * STRIP;
            let columns = STRIP.min(width - first);
            for (group, sums) in sums.chunks_mut(GROUP * STRIP).enumerate() {
                for o in 0..w.len() {
                    isa.run(Outer {
                        scale: Scale {
                            values: &d.values()[group * GROUP * d.width() + o..],
                            step: d.width(),
                        },
                        row: &w.row(o)[first..first + columns],
                        sums,
                        width: STRIP,
                    });
                }
            }
        });
    out.values_mut()
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(row, out)| {
            for (strip, out) in out.chunks_mut(STRIP).enumerate() {
                let sums = &strips[(strip * n + row) * STRIP..];
                out.copy_from_slice(&sums[..out.len()]);
            }
        });
    Ok(())
}

/// Columns that [`linear_f32_back`] sums at a time. With [`GROUP`] rows they stay in the L1 cache.
const STRIP: usize = 512;
/// Rows of a strip.
const GROUP: usize = 16;

/// `sums[i] += scale[i] * row`: one term of a sum of outer products, `sums` `[rows, width]`.
pub(super) struct Outer<'a> {
    pub(super) scale: Scale<'a>,
    /// At most `width` values.
    pub(super) row: &'a [f32],
    pub(super) sums: &'a mut [f32],
    pub(super) width: usize,
}

/// Factors that lie `step` apart.
pub(super) struct Scale<'a> {
    pub(super) values: &'a [f32],
    pub(super) step: usize,
}

impl Loop for Outer<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let scale = self.scale.values.iter().step_by(self.scale.step);
        for (sums, &scale) in self.sums.chunks_exact_mut(self.width).zip(scale) {
            for (sum, &x) in sums.iter_mut().zip(self.row) {
                *sum = s.mul_add(scale, x, *sum);
            }
        }
    }
}
