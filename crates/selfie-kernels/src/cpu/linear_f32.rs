//! Products with f32 master weights, which lie as they are trained: row after row.

use rayon::prelude::*;

use super::CpuRows;
use super::simd::{Isa, LANES, Loop, Simd};
use crate::Result;
use crate::error::check_shape;

/// Weight rows of a task.
const TASK_ROWS: usize = 32;
/// Weight rows and activation rows whose products are summed side by side.
const TILE: usize = 4;

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
    // A task owns some columns of `out`; it writes them as rows, and they are turned afterwards.
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
        for (columns, w) in columns.chunks_exact_mut(n).zip(w.chunks_exact(k)) {
            let mut tiles = x.chunks_exact(TILE * k);
            let mut row = 0;
            for x in &mut tiles {
                let dots = dots::<S, TILE>(s, x, w);
                columns[row..row + TILE].copy_from_slice(&dots);
                row += TILE;
            }
            for x in tiles.remainder().chunks_exact(k) {
                columns[row] = dots::<S, 1>(s, x, w)[0];
                row += 1;
            }
        }
    }
}

/// The dot products of `R` rows with one; the order of each sum does not depend on `R`.
#[inline(always)]
fn dots<S: Simd, const R: usize>(s: S, x: &[f32], w: &[f32]) -> [f32; R] {
    let k = w.len();
    let mut lanes = [[0f32; LANES]; R];
    let whole = k / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let w = &w[at..at + LANES];
        for (row, lanes) in lanes.iter_mut().enumerate() {
            let x = &x[row * k + at..][..LANES];
            for ((lane, &x), &w) in lanes.iter_mut().zip(x).zip(w) {
                *lane = s.mul_add(x, w, *lane);
            }
        }
    }
    for (row, lanes) in lanes.iter_mut().enumerate() {
        let x = &x[row * k + whole..(row + 1) * k];
        for ((lane, &x), &w) in lanes.iter_mut().zip(x).zip(&w[whole..]) {
            *lane = s.mul_add(x, w, *lane);
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

/// `out = d · w`: the gradient of the input from that of the output.
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

/// Columns that [`linear_f32_back`] sums at a time: with [`GROUP`] rows they stay in the first-level cache.
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
