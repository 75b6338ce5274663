//! Adam (arXiv 1412.6980, algorithm 1). The gradient is computed on the way.

use rayon::prelude::*;

use super::CpuRows;
use super::linear_f32::{Outer, Scale};
use super::simd::{Isa, Loop, Simd};
use crate::batch::AdamRate;
use crate::error::check_shape;
use crate::{Adam, Result};

/// Columns of gradient to compute at a time: a page of each array, which is what the hardware prefetches.
const STRIP: usize = 1024;
/// Rows of a task. Their strip of the gradient stays in the L1 cache.
const GROUP: usize = 4;

/// One step on `w`, whose gradient is `dᵀ · x`. Each weight and moment is read and written once; only one strip of the
/// gradient is in memory at a time.
pub(super) fn adam(
    isa: Isa,
    w: &mut CpuRows,
    moments: [&mut CpuRows; 2],
    d: &CpuRows,
    x: &CpuRows,
    adam: &Adam,
) -> Result<()> {
    const OP: &str = "adam";
    let [m, v] = moments;
    let width = w.width();
    check_shape(OP, "rows of x", d.len(), x.len())?;
    check_shape(OP, "width of d", w.len(), d.width())?;
    check_shape(OP, "width of x", width, x.width())?;
    for moment in [&*m, &*v] {
        check_shape(OP, "rows of a moment", w.len(), moment.len())?;
        check_shape(OP, "width of a moment", width, moment.width())?;
    }
    let rate = AdamRate::new(adam);
    w.values_mut()
        .par_chunks_mut(GROUP * width)
        .zip(m.values_mut().par_chunks_mut(GROUP * width))
        .zip(v.values_mut().par_chunks_mut(GROUP * width))
        .enumerate()
        .for_each(|(group, ((w, m), v))| {
            let mut gradient = [0f32; GROUP * STRIP];
            let rows = w.len() / width;
            for first in (0..width).step_by(STRIP) {
                let columns = first..width.min(first + STRIP);
                gradient.fill(0.0);
                for row in 0..d.len() {
                    isa.run(Outer {
                        scale: Scale {
                            values: &d.row(row)[group * GROUP..][..rows],
                            step: 1,
                        },
                        row: &x.row(row)[columns.clone()],
                        sums: &mut gradient,
                        width: STRIP,
                    });
                }
                for (row, gradient) in gradient.chunks_exact(STRIP).take(rows).enumerate() {
                    let at = row * width + columns.start..row * width + columns.end;
                    isa.run(Update {
                        rate,
                        gradient,
                        w: &mut w[at.clone()],
                        m: &mut m[at.clone()],
                        v: &mut v[at],
                    });
                }
            }
        });
    Ok(())
}

struct Update<'a> {
    rate: AdamRate,
    gradient: &'a [f32],
    w: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Loop for Update<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let r = self.rate;
        let state = self.w.iter_mut().zip(self.m).zip(self.v);
        for (((w, m), v), &g) in state.zip(self.gradient) {
            *m = s.mul_add(g - *m, r.new1, *m);
            *v = s.mul_add(r.new2 * g, g, r.beta2 * *v);
            *w -= r.lr * *m / s.mul_add(v.sqrt(), r.root, r.eps);
        }
    }
}
