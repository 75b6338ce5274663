//! The products of a model's layer, for few rows and for many: weights in bf16, sums in f32.

use std::io;
use std::ops::Range;

use selfie_kernels::gpu::Cuda;
use selfie_kernels::{Backend, DType, MatrixSource, Result};

use crate::report::Report;
use crate::sizes::Sizes;
use crate::timing::time;

/// Bytes of the weights used in turn: several times the size of a cache.
const TURNS: usize = 256 << 20;

/// Times each shape at each number of rows: microseconds, and the share of the GPU's limits.
pub(crate) fn measure(cuda: &Cuda, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let (copy, matrix) = (report.copy(), report.matrix());
    for &(n, dtype, k) in sizes.products {
        let sets = (TURNS / (2 * n * k)).clamp(1, 8);
        let weight = Waves {
            rows: n,
            columns: k,
        };
        let weights: Vec<_> = (0..sets)
            .map(|_| cuda.matrix(&[&weight], DType::Bf16))
            .collect::<Result<_>>()?;
        for &m in sizes.product_rows {
            let values: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut x = cuda.rows(m, k)?;
            cuda.write_rows(&values, &mut x)?;
            let mut acts = cuda.acts(m, k, DType::Bf16)?;
            cuda.cast(&x, &mut acts)?;
            let mut out = cuda.projections(m, n, dtype)?;
            let time = time(cuda, |i| {
                cuda.linear(&acts, &weights[i % sets], None, &mut out)
            })?;
            let name = format!("product {m} x {n} x {k}");
            report.add(&name, time.device * 1e6, "us");
            let bytes = 2 * n * k + m * (2 * k + dtype.size() * n);
            let floor = (bytes as f64 / copy).max(2.0 * (m * n * k) as f64 / matrix);
            report.add(
                &format!("{name}, of the limits"),
                100.0 * floor / time.device,
                "%",
            );
        }
    }
    Ok(())
}

/// A matrix that is not zero: products of zeros draw less power and run faster than products of data.
struct Waves {
    rows: usize,
    columns: usize,
}

impl MatrixSource for Waves {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn dtype(&self) -> DType {
        DType::Bf16
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut bytes = vec![0; 2 * rows.len() * self.columns];
        crate::floors::fill(&mut bytes, rows.start as u32);
        read(&bytes);
        Ok(())
    }
}
