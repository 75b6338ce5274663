//! Memory of the host that the device copies from and to by itself.

use std::ffi::c_void;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

/// Bytes of each half: the device fetches one while the host fills the other.
pub(super) const HALF: usize = 16 << 20;

/// Where a piece begins is a multiple of this.
const ALIGN: usize = 64;

/// Takes pieces one after the other from two halves, in turn.
#[derive(Debug, Default)]
struct Ring {
    half: usize,
    at: usize,
}

/// Where a piece lies.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    half: usize,
    offset: usize,
    /// Whether the other half was in use before: it has to be marked, and this one to be waited for.
    turned: bool,
}

impl Ring {
    fn place(&mut self, bytes: usize) -> Place {
        assert!(bytes <= HALF, "a piece of {bytes} bytes");
        let turned = self.at + bytes > HALF;
        if turned {
            self.half = 1 - self.half;
            self.at = 0;
        }
        let offset = self.at;
        self.at = (offset + bytes).next_multiple_of(ALIGN);
        Place {
            half: self.half,
            offset,
            turned,
        }
    }
}

/// Pinned memory for copies to the device.
pub(super) struct Staging {
    ring: Ring,
    halves: [Pinned; 2],
    /// Recorded behind the last copy from a half.
    fetched: [Event; 2],
}

impl Staging {
    pub(super) fn new() -> Result<Self, DriverError> {
        Ok(Self {
            ring: Ring::default(),
            halves: [Pinned::new(HALF)?, Pinned::new(HALF)?],
            fetched: [Event::untimed()?, Event::untimed()?],
        })
    }

    /// Memory for a piece of at most [`HALF`] bytes that the stream copies from next.
    pub(super) fn piece(
        &mut self,
        bytes: usize,
        stream: sys::CUstream,
    ) -> Result<&mut [u8], DriverError> {
        let place = self.ring.place(bytes);
        if place.turned {
            self.fetched[1 - place.half].record(stream)?;
            self.fetched[place.half].wait()?;
        }
        Ok(&mut self.halves[place.half].bytes()[place.offset..][..bytes])
    }
}

/// Memory of the host that stays where it is.
pub(super) struct Pinned {
    start: *mut c_void,
    bytes: usize,
}

impl Pinned {
    pub(super) fn new(bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: it is set to zero before anybody reads it.
        let start = unsafe { result::malloc_host(bytes, 0) }?;
        // SAFETY: the allocation has these bytes.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Self { start, bytes })
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the allocation is this value's own, has these bytes, and they were written in `new`.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host`; the stream has been waited for.
        let _ = unsafe { result::free_host(self.start) };
    }
}

/// A point of the stream that can be waited for.
pub(super) struct Event(sys::CUevent);

impl Event {
    pub(super) fn new(flags: sys::CUevent_flags) -> Result<Self, DriverError> {
        Ok(Self(result::event::create(flags)?))
    }

    fn untimed() -> Result<Self, DriverError> {
        Self::new(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
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

    /// The time from this event to a later one that has been waited for.
    pub(super) fn milliseconds_to(&self, later: &Event) -> Result<f32, DriverError> {
        // SAFETY: both are alive, and record time.
        unsafe { result::event::elapsed(self.0, later.0) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the event is this value's own.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_half_do_not_overlap_and_halves_take_turns() {
        let mut ring = Ring::default();
        let mut pieces = Vec::new();
        let sizes = [1, 64, 65, HALF - 1000, HALF, 3, HALF - 64, 1];
        for bytes in sizes {
            let place = ring.place(bytes);
            assert_eq!(place.offset % ALIGN, 0);
            assert!(place.offset + bytes <= HALF);
            if place.turned {
                pieces.retain(|&(half, _, _)| half != place.half);
            }
            for &(half, from, to) in &pieces {
                let apart =
                    half != place.half || place.offset >= to || place.offset + bytes <= from;
                assert!(apart, "{bytes} bytes at {place:?} overlap {from}..{to}");
            }
            pieces.push((place.half, place.offset, place.offset + bytes));
        }
        let turns = {
            let mut ring = Ring::default();
            sizes.map(|bytes| {
                let place = ring.place(bytes);
                (place.half, place.turned)
            })
        };
        let want = [
            (0, false),
            (0, false),
            (0, false),
            (0, false),
            (1, true),
            (0, true),
            (0, false),
            (1, true),
        ];
        assert_eq!(turns, want);
    }
}
