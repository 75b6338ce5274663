//! Finds the fastest of several algorithms by timing them.

use cudarc::cublaslt::result::CublasError;
use cudarc::cublaslt::sys::cublasLtMatmulAlgo_t as Algorithm;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::CUstream;

use super::event::Event;
use super::problem::Problem;
use crate::gpu::Gemm;

/// Roughly how many multiplications to time an algorithm with: a millisecond on the fastest devices.
const TIMED_WORK: f64 = 3e11;
/// The most products in one timing.
const MOST_TIMED: f64 = 8.0;

/// The index of the fastest algorithm. If nothing can be timed it is 0, the heuristic's own choice.
///
/// The product runs as it is, and its output is the one it will have anyway. A product that adds to its output runs
/// without adding, into scratch memory.
pub(super) fn fastest(
    gemm: &Gemm,
    problem: &Problem,
    algorithms: &[Algorithm],
    stream: CUstream,
    multiply: impl Fn(&Gemm, &Algorithm) -> Result<(), CublasError>,
) -> usize {
    if algorithms.len() < 2 {
        return 0;
    }
    let Ok(trial) = Trial::new(gemm, problem) else {
        return 0;
    };
    let repeats = (TIMED_WORK / problem.work()).clamp(1.0, MOST_TIMED) as usize;
    let times = algorithms.iter().map(|algorithm| {
        let run = |_| multiply(&trial.gemm, algorithm);
        // The first run may have to load the algorithm's code.
        run(0).ok()?;
        trial.start.record(stream).ok()?;
        (0..repeats).try_for_each(run).ok()?;
        trial.end.record(stream).ok()?;
        trial.end.wait().ok()?;
        trial.end.seconds_since(&trial.start).ok()
    });
    let timed = times.enumerate().filter_map(|(i, time)| Some((i, time?)));
    let fastest = timed.min_by(|(_, a), (_, b)| a.total_cmp(b));
    fastest.map_or(0, |(i, _)| i)
}

/// The parts of a trial.
struct Trial {
    gemm: Gemm,
    /// Scratch memory for the output, or 0.
    scratch: u64,
    start: Event,
    end: Event,
}

impl Trial {
    fn new(gemm: &Gemm, problem: &Problem) -> Result<Self, DriverError> {
        let mut trial = Self {
            gemm: *gemm,
            scratch: 0,
            start: Event::timed()?,
            end: Event::timed()?,
        };
        if gemm.accumulate {
            // SAFETY: it is written, never read: the trial does not accumulate.
            trial.scratch = unsafe { result::malloc_sync(problem.out_bytes() as usize) }?;
            trial.gemm = Gemm {
                out: trial.scratch,
                accumulate: false,
                ..*gemm
            };
        }
        Ok(trial)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if self.scratch != 0 {
            // SAFETY: this value owns it; a free waits for the device.
            let _ = unsafe { result::free_sync(self.scratch) };
        }
    }
}
