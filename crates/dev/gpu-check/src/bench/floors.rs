//! The GPU's limits: copies within its memory, and matrix products.

use selfie_kernels::gpu::{Cuda, Driver, Gemm, WeightOrder};
use selfie_kernels::{DType, Result};

use crate::report::Report;
use crate::sizes::Sizes;
use crate::timing::time;

/// The names of the two limits among the figures.
pub(crate) const COPY: &str = "device copy, bytes read and written";
pub(crate) const MATRIX: &str = "bf16 matrix product, f32 out";

/// Bytes read and written per second, and bf16 operations per second.
pub(crate) fn measure(cuda: &Cuda, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let (copy, side) = (sizes.copy, sizes.product);
    let driver = cuda.driver();
    let allocate = |what, bytes| driver.alloc(what, bytes);
    let [from, to] = [allocate("a copy", copy)?, allocate("a copy", copy)?];
    // SAFETY: both have that many bytes.
    unsafe { driver.zero(from, copy)? };
    // SAFETY: as above.
    let copied = time(cuda, |_| unsafe { driver.copy(from, to, copy) })?.device;
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
        out_dtype: DType::F32,
        order: WeightOrder::Outputs,
        accumulate: false,
    };
    // SAFETY: the three were allocated with these sizes.
    let multiplied = time(cuda, |_| unsafe { driver.gemm(&gemm) })?.device;
    for address in [matrix, weight, product] {
        // SAFETY: nobody uses it any more.
        unsafe { driver.free(address) };
    }
    report.add(COPY, 2.0 * copy as f64 / copied / 1e9, "GB/s");
    let operations = 2.0 * (side as f64).powi(3);
    report.add(MATRIX, operations / multiplied / 1e12, "TFLOP/s");
    Ok(())
}

/// `n` bf16 values on the device. Products of zeros draw less power and run faster than products of data.
fn random(cuda: &Cuda, n: usize) -> Result<u64> {
    let mut bytes = vec![0u8; 2 * n];
    fill(&mut bytes, 0);
    let address = cuda.driver().alloc("a matrix", bytes.len() as u64)?;
    // SAFETY: it was allocated with these bytes.
    unsafe { cuda.driver().write(address, &bytes)? };
    Ok(address)
}

/// Fills memory with bf16 values of random sign and mantissa, magnitudes from 1 to 2.
pub(crate) fn fill(bytes: &mut [u8], seed: u32) {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    for value in bytes.as_chunks_mut::<2>().0 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bits = (state >> 16) as u16 & 0x807f | 0x3f80;
        *value = bits.to_le_bytes();
    }
}
