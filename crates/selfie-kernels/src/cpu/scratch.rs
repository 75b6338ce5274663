//! Room for intermediate values, kept between calls.
//!
//! Nothing here is locked while an op works: a thread that waits for others in the middle of an op may begin
//! another caller's, which asks for the same room.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

thread_local! {
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with `len` values of the calling thread's buffer, as the last user left them.
pub(super) fn with_room<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = ROOM.take();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = f(&mut buffer[..len]);
    ROOM.set(buffer);
    result
}

/// Buffers that nobody uses just now: as many as there were calls at the same time.
#[derive(Debug)]
pub(super) struct FreeList<T>(Mutex<Vec<Vec<T>>>);

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Default> FreeList<T> {
    /// Calls `f` with a buffer of `len` values, as the last user left them.
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
