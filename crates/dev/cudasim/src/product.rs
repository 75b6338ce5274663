//! Matrix products as cuBLASLt describes them.

use half::{bf16, f16};
use rayon::prelude::*;
use selfie_ptxsim::{Gpu, SimError, TensorCores};

/// Element types (`cudaDataType_t`).
pub(crate) const R_32F: i32 = 0;
pub(crate) const R_16F: i32 = 2;
pub(crate) const R_16BF: i32 = 14;

/// A matrix in memory, column-major.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub(crate) dtype: i32,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Elements from one column to the next.
    pub(crate) stride: usize,
}

/// `d = alpha * op(a) op(b) + beta * c`
#[derive(Clone, Debug)]
pub(crate) struct Product {
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) a: (u64, Matrix),
    pub(crate) b: (u64, Matrix),
    pub(crate) c: u64,
    pub(crate) d: (u64, Matrix),
    pub(crate) transpose_a: bool,
    pub(crate) transpose_b: bool,
}

impl Product {
    /// Computes the product; the sum over k runs in order, in f32, as tensor cores round it if the operands are halves.
    pub(crate) fn run(&self, gpu: &mut Gpu) -> Result<(), SimError> {
        let (at, d) = self.d;
        // In both operands k runs along memory.
        let a = read(gpu, self.a, self.transpose_a)?;
        let b = read(gpu, self.b, !self.transpose_b)?;
        let k = a.len() / d.rows.max(1);
        let old = if self.beta == 0.0 {
            Vec::new()
        } else {
            read(gpu, (self.c, d), true)?
        };
        let model = match self.a.1.dtype {
            R_32F => TensorCores::Nearest,
            _ => gpu.tensor_cores(),
        };
        let mut out = vec![0f32; d.rows * d.columns];
        out.par_chunks_mut(d.rows.max(1))
            .zip(b.par_chunks(k.max(1)))
            .enumerate()
            .for_each(|(column, (out, b))| {
                for (row, out) in out.iter_mut().enumerate() {
                    let sum = model.add_products(0.0, &a[row * k..][..k], b);
                    let old = old.get(column * d.rows + row).copied();
                    *out = self.alpha * sum + self.beta * old.unwrap_or(0.0);
                }
            });
        for (column, values) in out.chunks(d.rows.max(1)).enumerate() {
            let bytes: Vec<u8> = match d.dtype {
                R_32F => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                R_16F => values
                    .iter()
                    .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                    .collect(),
                _ => values
                    .iter()
                    .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                    .collect(),
            };
            gpu.write(at + (column * d.stride * size(d.dtype)) as u64, &bytes)?;
        }
        Ok(())
    }
}

/// Bytes of an element.
fn size(dtype: i32) -> usize {
    if dtype == R_32F { 4 } else { 2 }
}

/// The values, column by column, or row by row if `by_column` is false.
fn read(gpu: &Gpu, (at, matrix): (u64, Matrix), by_column: bool) -> Result<Vec<f32>, SimError> {
    let Matrix {
        dtype,
        rows,
        columns,
        stride,
    } = matrix;
    let size = size(dtype);
    let mut values = Vec::with_capacity(rows * columns);
    let mut bytes = vec![0; rows * size];
    for column in 0..columns {
        gpu.read(at + (column * stride * size) as u64, &mut bytes)?;
        match dtype {
            R_32F => values.extend(bytes.chunks_exact(4).map(|b| {
                let bits = [b[0], b[1], b[2], b[3]];
                f32::from_le_bytes(bits)
            })),
            R_16F => {
                let halves = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
                values.extend(halves.map(|b| f16::from_le_bytes(b).to_f32()));
            }
            _ => {
                let halves = bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
                values.extend(halves.map(|b| bf16::from_le_bytes(b).to_f32()));
            }
        }
    }
    if by_column {
        return Ok(values);
    }
    let by_row = (0..rows).flat_map(|row| values.iter().skip(row).step_by(rows.max(1)));
    Ok(by_row.copied().collect())
}
