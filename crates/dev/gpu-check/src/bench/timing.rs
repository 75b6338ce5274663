//! Timing of work that a stream does on its own.

use std::time::Instant;

use selfie_kernels::Result;
use selfie_kernels::gpu::{Cuda, Driver};

/// A sample is so long that putting its work on the stream hides behind the work.
const SAMPLE_S: f64 = 0.05;
const SAMPLES: usize = 7;

/// The median time of `work`, which is given the number of the round, to take turns between sets of buffers that
/// together do not fit the caches.
pub(crate) fn seconds(cuda: &Cuda, mut work: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let driver = cuda.driver();
    let mut rounds = |count: usize| -> Result<f64> {
        let start = Instant::now();
        (0..count).try_for_each(&mut work)?;
        driver.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    // Kernels are assembled, algorithms chosen, and the series of launches becomes a graph.
    rounds(4)?;
    let one = rounds(8)? / 8.0;
    let count = ((SAMPLE_S / one) as usize).clamp(1, 4000);
    rounds(count)?;
    rounds(count)?;
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        samples.push(rounds(count)? / count as f64);
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[SAMPLES / 2])
}
