//! Times work that a stream does on its own.

use std::time::Instant;

use selfie_kernels::Result;
use selfie_kernels::gpu::{Cuda, Driver};

/// The length of a sample: many launches, so that the host is nearly always ahead of the device.
const SAMPLE_S: f64 = 0.03;
const SAMPLES: usize = 5;

/// The time of a piece of work.
pub(crate) struct Time {
    /// Seconds of the device's clock, by events.
    pub(crate) device: f64,
    /// Seconds that the host takes to request it.
    pub(crate) host: f64,
}

/// The median time of `work`. It gets the number of the round, to alternate between sets of buffers that together
/// exceed the caches.
pub(crate) fn time(cuda: &Cuda, mut work: impl FnMut(usize) -> Result<()>) -> Result<Time> {
    let driver = cuda.driver();
    let mut rounds = |count: usize| -> Result<Time> {
        let mut host = 0.0;
        let device = driver.timed(|| {
            let start = Instant::now();
            let done = (0..count).try_for_each(&mut work);
            host = start.elapsed().as_secs_f64();
            done
        })?;
        let each = |seconds: f64| seconds / count as f64;
        Ok(Time {
            device: each(device),
            host: each(host),
        })
    };
    // Assembles kernels, chooses algorithms, and turns the series of launches into graphs.
    rounds(4)?;
    let one = rounds(8)?.device;
    let count = ((SAMPLE_S / one) as usize).clamp(1, 2000);
    rounds(count)?;
    rounds(count)?;
    driver.synchronize()?;
    let samples: Vec<Time> = (0..SAMPLES).map(|_| rounds(count)).collect::<Result<_>>()?;
    let median = |of: fn(&Time) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[SAMPLES / 2]
    };
    Ok(Time {
        device: median(|time| time.device),
        host: median(|time| time.host),
    })
}
