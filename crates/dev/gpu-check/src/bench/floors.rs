//! What the GPU can do at most: copies within its memory, and matrix products.

use selfie_kernels::gpu::{Cuda, Driver, Gemm, WeightOrder};
use selfie_kernels::{DType, Result};

use crate::report::Report;
use crate::sizes::Sizes;
use crate::timing::seconds;

pub(crate) struct Floors {
    /// Bytes read and written a second.
    pub(crate) copy: f64,
    /// bf16 operations a second.
    pub(crate) matrix: f64,
}

pub(crate) fn measure(cuda: &Cuda, sizes: &Sizes, report: &mut Report) -> Result<Floors> {
    let (copy, side) = (sizes.copy, sizes.product);
    let driver = cuda.driver();
    let allocate = |what, bytes| driver.alloc(what, bytes);
    let [from, to] = [allocate("a copy", copy)?, allocate("a copy", copy)?];
    // SAFETY: both have the bytes.
    unsafe { driver.zero(from, copy)? };
    // SAFETY: as above.
    let copied = seconds(cuda, |_| unsafe { driver.copy(from, to, copy) })?;
    // SAFETY: nobody uses them any more.
    unsafe {
        driver.free(from);
        driver.free(to);
    }

    let matrix = random(cuda, side * side)?;
    let weight = random(cuda, side * side)?;
    let product = allocate("a product", 4 * (side * side) as u64)?;
    let gemm = Gemm {
        a: matrix,
        w: weight,
        out: product,
        m: side,
        n: side,
        k: side,
        dtype: DType::Bf16,
        order: WeightOrder::Outputs,
        accumulate: false,
    };
    // SAFETY: the three were allocated with these sizes.
    let multiplied = seconds(cuda, |_| unsafe { driver.gemm(&gemm) })?;
    for address in [matrix, weight, product] {
        // SAFETY: nobody uses it any more.
        unsafe { driver.free(address) };
    }
    let floors = Floors {
        copy: 2.0 * copy as f64 / copied,
        matrix: 2.0 * (side as f64).powi(3) / multiplied,
    };
    report.add(
        "device copy, bytes read and written",
        floors.copy / 1e9,
        "GB/s",
    );
    report.add(
        &format!("bf16 matrix product {side}^3, f32 out"),
        floors.matrix / 1e12,
        "TFLOP/s",
    );
    Ok(floors)
}

/// `n` bf16 values on the device: products of zeros draw less power and run faster than those of data.
fn random(cuda: &Cuda, n: usize) -> Result<u64> {
    let mut state = 1u32;
    let mut bytes = vec![0u8; 2 * n];
    for value in bytes.as_chunks_mut::<2>().0 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Sign and mantissa at random, magnitudes from 1 to 2.
        let bits = (state >> 16) as u16 & 0x807f | 0x3f80;
        *value = bits.to_le_bytes();
    }
    let address = cuda.driver().alloc("a matrix", bytes.len() as u64)?;
    // SAFETY: it was allocated with these bytes.
    unsafe { cuda.driver().write(address, &bytes)? };
    Ok(address)
}
