//! Timing of work that a stream does on its own.

use std::time::Instant;

use selfie_kernels::Result;
use selfie_kernels::gpu::{Cuda, Driver};

/// How long a sample is: many launches, so that the host is ahead of the device for nearly all of it.
const SAMPLE_S: f64 = 0.03;
const SAMPLES: usize = 5;

/// What a piece of work takes.
pub(crate) struct Time {
    /// Seconds of the device's clock, by events.
    pub(crate) device: f64,
    /// Seconds that the host takes to ask for it.
    pub(crate) host: f64,
}

/// The median time of `work`, which is given the number of the round, to take turns between sets of buffers that
/// together do not fit the caches.
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
    // Kernels are assembled, algorithms chosen, and the series of launches becomes graphs.
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
