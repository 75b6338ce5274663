//! Points of a stream: to wait for, and to measure between.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUevent_flags as Flags};

/// A point of the stream that can be waited for.
pub(super) struct Event(sys::CUevent);

impl Event {
    pub(super) fn new() -> Result<Self, DriverError> {
        Ok(Self(result::event::create(Flags::CU_EVENT_DISABLE_TIMING)?))
    }

    /// One that knows when the device got there.
    pub(super) fn timed() -> Result<Self, DriverError> {
        Ok(Self(result::event::create(Flags::CU_EVENT_DEFAULT)?))
    }

    pub(super) fn record(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: both belong to the current context.
        unsafe { result::event::record(self.0, stream) }
    }

    /// Returns at once if it was never recorded.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the event is this value's own.
        unsafe { result::event::synchronize(self.0) }
    }

    /// Seconds from `start` to this one; both are [timed](Self::timed), and the device has passed them.
    pub(super) fn seconds_since(&self, start: &Event) -> Result<f64, DriverError> {
        // SAFETY: both events belong to the current context.
        let milliseconds = unsafe { result::event::elapsed(start.0, self.0) }?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this value's own.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
