//! Scratch memory for intermediate values, kept between calls.
//!
//! Nothing here stays locked while an op works. Other callers' ops may work at the same time, on the same threads.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

thread_local! {
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with `len` values of the calling thread's buffer, which hold whatever the last user left.
pub(super) fn with_room<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = ROOM.take();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = f(&mut buffer[..len]);
    ROOM.set(buffer);
    result
}

/// The buffers not in use: as many as there have been simultaneous calls.
#[derive(Debug)]
pub(super) struct FreeList<T>(Mutex<Vec<Vec<T>>>);

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Default> FreeList<T> {
    /// Calls `f` with a buffer of `len` values, which hold whatever the last user left.
    pub(super) fn with<R>(&self, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
        let mut buffer = self.free().pop().unwrap_or_default();
        buffer.resize(len, T::default());
        let result = f(&mut buffer);
        self.free().push(buffer);
        result
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
