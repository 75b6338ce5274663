//! `rms_norm` with an addend, which the backend does not use yet.

use selfie_kernels::gpu::Driver;
use selfie_kernels::gpu::plan::RmsNorm;
use selfie_kernels::{DType, Result, reference};
use selfie_sim::SimDriver;

fn values(n: usize, seed: usize) -> Vec<f32> {
    let value = |i: usize| ((i * 37 + seed * 101) % 83) as f32 / 41.0 - 1.0;
    (0..n).map(value).collect()
}

fn upload(driver: &SimDriver, values: &[f32]) -> Result<u64> {
    let address = driver.alloc("a test", 4 * values.len() as u64)?;
    // SAFETY: the range is the allocation.
    unsafe { driver.write(address, bytemuck::cast_slice(values))? };
    Ok(address)
}

fn download(driver: &SimDriver, address: u64, n: usize) -> Result<Vec<f32>> {
    let mut values = vec![0f32; n];
    // SAFETY: there are `n` values at the address.
    unsafe { driver.read(address, bytemuck::cast_slice_mut(&mut values))? };
    Ok(values)
}

#[test]
fn the_addend_is_added_to_the_residual_stream() -> Result<()> {
    let driver = SimDriver::new();
    for (n, width) in [(3, 64), (2, 33), (1, 2048)] {
        let (x, addend, weight) = (values(n * width, 1), values(n * width, 2), values(width, 3));
        let sums: Vec<f32> = x.iter().zip(&addend).map(|(x, a)| x + a).collect();
        let plan = RmsNorm {
            x: upload(&driver, &x)?,
            addend: upload(&driver, &addend)?,
            weight: upload(&driver, &weight)?,
            out: upload(&driver, &vec![f32::NAN; n * width])?,
            n: n as u32,
            width: width as u32,
            dtype: DType::F32,
            eps: 1e-5,
        };
        // SAFETY: the buffers have the shapes that the plan names.
        unsafe { driver.launch(&plan.launch())? };
        assert_eq!(download(&driver, plan.x, n * width)?, sums);
        let got = download(&driver, plan.out, n * width)?;
        let want = reference::rms_norm(&sums, &weight, 1e-5);
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-5 * want.abs(), "{got}, not {want}");
        }
    }
    Ok(())
}
