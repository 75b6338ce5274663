//! Pinned host memory, which the device copies from and to by itself.

use std::ffi::c_void;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::event::Event;

/// Bytes of each half: the device reads one while the host fills the other.
pub(super) const HALF: usize = 16 << 20;

/// Pieces begin at multiples of this.
const ALIGN: usize = 64;

/// Hands out pieces from two halves, one half after the other.
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
    /// Whether this piece starts a new half. The old half must then be marked, and this one waited for.
    switched: bool,
}

impl Ring {
    fn place(&mut self, bytes: usize) -> Place {
        assert!(bytes <= HALF, "a piece of {bytes} bytes");
        let switched = self.at + bytes > HALF;
        if switched {
            self.half = 1 - self.half;
            self.at = 0;
        }
        let offset = self.at;
        self.at = (offset + bytes).next_multiple_of(ALIGN);
        Place {
            half: self.half,
            offset,
            switched,
        }
    }
}

/// Pinned memory for copies to the device.
pub(super) struct Staging {
    ring: Ring,
    halves: [Pinned; 2],
    /// Recorded after the last copy from each half.
    fetched: [Event; 2],
}

impl Staging {
    pub(super) fn new() -> Result<Self, DriverError> {
        Ok(Self {
            ring: Ring::default(),
            halves: [Pinned::new(HALF)?, Pinned::new(HALF)?],
            fetched: [Event::new()?, Event::new()?],
        })
    }

    /// Memory for a piece of at most [`HALF`] bytes, which the stream copies from next.
    pub(super) fn piece(
        &mut self,
        bytes: usize,
        stream: sys::CUstream,
    ) -> Result<&mut [u8], DriverError> {
        let place = self.ring.place(bytes);
        if place.switched {
            self.fetched[1 - place.half].record(stream)?;
            self.fetched[place.half].wait()?;
        }
        Ok(&mut self.halves[place.half].bytes()[place.offset..][..bytes])
    }
}

/// Pinned host memory.
pub(super) struct Pinned {
    start: *mut c_void,
    bytes: usize,
}

impl Pinned {
    pub(super) fn new(bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: it is set to zero before it is read.
        let start = unsafe { result::malloc_host(bytes, 0) }?;
        // SAFETY: the allocation has these bytes.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Self { start, bytes })
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: this value owns the allocation, which has these bytes, and `new` wrote them.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it came from `malloc_host`; the stream has been waited for.
        let _ = unsafe { result::free_host(self.start) };
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
            if place.switched {
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
                (place.half, place.switched)
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
