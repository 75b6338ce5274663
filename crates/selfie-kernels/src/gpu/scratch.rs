//! Buffers that ops share. Each is made once, or again when a larger one is needed.

use std::sync::Arc;

use super::Driver;
use super::buffers::Buffer;
use crate::Result;

/// Bytes of an index list to upload at a time.
const LIST_BYTES: u64 = 256 << 10;

/// Buffers that ops use one after the other, in the order of the stream.
pub(super) struct Scratch<D: Driver> {
    pub(super) list: List<D>,
    /// The partial results of attention over a split context.
    pub(super) attention: Growing<D>,
    pub(super) logits: Growing<D>,
    /// The results of chunks of logits.
    pub(super) parts: Growing<D>,
    /// The tokens to score.
    pub(super) tokens: Growing<D>,
    /// A token and its log-probability for each row.
    pub(super) best: Growing<D>,
    /// How to draw each row's token.
    pub(super) draws: Growing<D>,
}

impl<D: Driver> Scratch<D> {
    pub(super) fn new(driver: &Arc<D>) -> Result<Self> {
        let growing = |what| Growing {
            driver: driver.clone(),
            what,
            buffer: None,
        };
        Ok(Self {
            list: List {
                buffer: Buffer::new(driver, "an index list", LIST_BYTES)?,
                uploaded: Vec::new(),
            },
            attention: growing("the splits of attention"),
            logits: growing("logits"),
            parts: growing("parts of the head"),
            tokens: growing("tokens"),
            best: growing("the best tokens"),
            draws: growing("draws"),
        })
    }

    /// The most entries of `bytes` each that a list can hold.
    pub(super) fn list_len(&self, bytes: u64) -> usize {
        (LIST_BYTES / bytes) as usize
    }
}

/// The index list of the last op: rows or writes.
pub(super) struct List<D: Driver> {
    buffer: Buffer<D>,
    /// The list on the device.
    uploaded: Vec<u8>,
}

impl<D: Driver> List<D> {
    /// Puts a list on the device unless it is already there, and returns its address. The rows of the head are the same
    /// in each step, and a step without a copy in its middle is a single series of launches.
    pub(super) fn put(&mut self, list: &[u8]) -> Result<u64> {
        if self.uploaded != list {
            self.uploaded.clear();
            self.buffer.write(0, list)?;
            self.uploaded.extend_from_slice(list);
        }
        Ok(self.buffer.address())
    }
}

/// A buffer that is replaced when it is too small.
pub(super) struct Growing<D: Driver> {
    driver: Arc<D>,
    what: &'static str,
    buffer: Option<Buffer<D>>,
}

impl<D: Driver> Growing<D> {
    /// The buffer, with room for at least `bytes`. Its contents may be lost.
    pub(super) fn at_least(&mut self, bytes: u64) -> Result<&Buffer<D>> {
        let fits = self.buffer.take().filter(|b| b.bytes() >= bytes);
        let buffer = match fits {
            Some(buffer) => buffer,
            None => Buffer::new(&self.driver, self.what, bytes.next_power_of_two())?,
        };
        Ok(self.buffer.insert(buffer))
    }
}
