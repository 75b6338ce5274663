//! Room for a thread's intermediate values, kept between calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::head::Part;

/// One growing buffer a worker thread, and one for what they hand on.
pub(super) struct Scratch {
    threads: Vec<Mutex<Vec<f32>>>,
    head_parts: Mutex<Vec<Part>>,
}

impl Scratch {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            threads: (0..threads.max(1)).map(|_| Mutex::default()).collect(),
            head_parts: Mutex::default(),
        }
    }

    /// `len` parts, as the last user left them.
    pub(super) fn head_parts(&self, len: usize) -> MutexGuard<'_, Vec<Part>> {
        let mut parts = self
            .head_parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        parts.resize(len, Part::default());
        parts
    }

    /// Calls `f` with `len` values of the calling thread's buffer, as the last user left them.
    pub(super) fn with<R>(&self, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        let thread = rayon::current_thread_index().unwrap_or(0);
        let mut buffer = self.threads[thread % self.threads.len()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        f(&mut buffer[..len])
    }
}
