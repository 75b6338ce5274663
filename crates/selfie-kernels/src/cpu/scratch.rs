//! Room for a thread's intermediate values, kept between calls.

use std::sync::{Mutex, PoisonError};

/// One growing buffer a worker thread.
pub(super) struct Scratch(Vec<Mutex<Vec<f32>>>);

impl Scratch {
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads.max(1)).map(|_| Mutex::default()).collect())
    }

    /// Calls `f` with `len` values of the calling thread's buffer, as the last user left them.
    pub(super) fn with<R>(&self, len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
        let thread = rayon::current_thread_index().unwrap_or(0);
        let mut buffer = self.0[thread % self.0.len()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        f(&mut buffer[..len])
    }
}
