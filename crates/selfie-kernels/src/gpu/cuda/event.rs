//! Events: points of a stream to wait for and to measure between.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUevent_flags as Flags};

/// A point of the stream.
pub(super) struct Event(sys::CUevent);

impl Event {
    pub(super) fn new() -> Result<Self, DriverError> {
        Ok(Self(result::event::create(Flags::CU_EVENT_DISABLE_TIMING)?))
    }

    /// An event that records when the device reached it.
    pub(super) fn timed() -> Result<Self, DriverError> {
        Ok(Self(result::event::create(Flags::CU_EVENT_DEFAULT)?))
    }

    pub(super) fn record(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: both belong to the current context.
        unsafe { result::event::record(self.0, stream) }
    }

    /// Waits for the event. Returns at once if it was never recorded.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: this value owns the event.
        unsafe { result::event::synchronize(self.0) }
    }

    /// Seconds from `start` to this event. Both must be [timed](Self::timed), and the device must have passed both.
    pub(super) fn seconds_since(&self, start: &Event) -> Result<f64, DriverError> {
        // SAFETY: both events belong to the current context.
        let milliseconds = unsafe { result::event::elapsed(start.0, self.0) }?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this value owns the event.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
