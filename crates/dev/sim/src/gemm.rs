//! Matrix products, in plain Rust.

use rayon::prelude::*;
use selfie_kernels::DType;
use selfie_kernels::gpu::{Gemm, WeightOrder};
use selfie_ptxsim::{Gpu, SimError, TensorCores};

/// Sums that run side by side; they are then added from first to last.
const LANES: usize = 8;

/// Computes a [`Gemm`]. The order of each sum depends only on `k`.
pub(crate) fn gemm(gpu: &mut Gpu, gemm: &Gemm) -> Result<(), SimError> {
    let Gemm { m, n, k, .. } = *gemm;
    let a = read(gpu, gemm.a, m * k, gemm.dtype)?;
    let mut w = read(gpu, gemm.w, n * k, gemm.dtype)?;
    if gemm.order == WeightOrder::Terms {
        w = transposed(&w, n);
    }
    let mut out = if gemm.accumulate {
        read(gpu, gemm.out, m * n, gemm.out_dtype)?
    } else {
        vec![0.0; m * n]
    };
    let model = match gemm.dtype {
        DType::F32 => TensorCores::Nearest,
        DType::Bf16 | DType::F16 => gpu.tensor_cores(),
    };
    out.par_chunks_mut(n).enumerate().for_each(|(row, out)| {
        let a = &a[row * k..][..k];
        for (column, out) in out.iter_mut().enumerate() {
            let w = &w[column * k..][..k];
            let sum = match model {
                TensorCores::Nearest => dot(a, w),
                _ => model.add_products(0.0, a, w),
            };
            *out = if gemm.accumulate { *out + sum } else { sum };
        }
    });
    gpu.write(gemm.out, &gemm.out_dtype.to_bytes(&out))
}

fn read(gpu: &Gpu, address: u64, values: usize, dtype: DType) -> Result<Vec<f32>, SimError> {
    let mut bytes = vec![0; values * dtype.size()];
    gpu.read(address, &mut bytes)?;
    Ok(dtype.to_f32(&bytes))
}

/// Turns `[k, n]` into `[n, k]`.
fn transposed(values: &[f32], n: usize) -> Vec<f32> {
    let columns = (0..n).flat_map(|column| values.iter().skip(column).step_by(n));
    columns.copied().collect()
}

fn dot(a: &[f32], w: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    for (a, w) in a.chunks(LANES).zip(w.chunks(LANES)) {
        for ((lane, &a), &w) in lanes.iter_mut().zip(a).zip(w) {
            *lane += a * w;
        }
    }
    lanes.iter().sum()
}
