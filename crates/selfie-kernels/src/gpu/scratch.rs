//! Buffers that ops share, made once or when a larger one is needed.

use std::sync::Arc;

use super::Driver;
use super::buffers::Buffer;
use crate::{KernelError, Result};

/// Bytes of an index list that are uploaded at a time.
const LIST_BYTES: u64 = 256 << 10;

/// What ops use one after the other, in the order of the stream.
pub(super) struct Scratch<D: Driver> {
    /// Index lists: written and read again by each op that takes one.
    pub(super) list: Buffer<D>,
    pub(super) injections: Injections<D>,
    /// What attention leaves of a split context.
    pub(super) attention: Growing<D>,
    pub(super) logits: Growing<D>,
    /// What is left of chunks of logits.
    pub(super) parts: Growing<D>,
    /// Tokens that are scored.
    pub(super) tokens: Growing<D>,
    /// A token and its log-probability for each row.
    pub(super) best: Growing<D>,
}

impl<D: Driver> Scratch<D> {
    pub(super) fn new(driver: &Arc<D>) -> Result<Self> {
        let growing = |what| Growing {
            driver: driver.clone(),
            what,
            buffer: None,
        };
        Ok(Self {
            list: Buffer::new(driver, "an index list", LIST_BYTES)?,
            injections: Injections {
                written: Buffer::zeroed(driver, "a counter", 4)?,
                asked: 0,
                checked: 0,
            },
            attention: growing("the splits of attention"),
            logits: growing("logits"),
            parts: growing("parts of the head"),
            tokens: growing("tokens"),
            best: growing("the best tokens"),
        })
    }

    /// Entries of `bytes` each that a list can have.
    pub(super) fn list_len(&self, bytes: u64) -> usize {
        (LIST_BYTES / bytes) as usize
    }
}

/// A buffer that is replaced when it is too small.
pub(super) struct Growing<D: Driver> {
    driver: Arc<D>,
    what: &'static str,
    buffer: Option<Buffer<D>>,
}

impl<D: Driver> Growing<D> {
    /// The buffer, with room for at least `bytes`; what was in it may be lost.
    pub(super) fn at_least(&mut self, bytes: u64) -> Result<&Buffer<D>> {
        let fits = self.buffer.take().filter(|b| b.bytes() >= bytes);
        let buffer = match fits {
            Some(buffer) => buffer,
            None => Buffer::new(&self.driver, self.what, bytes.next_power_of_two())?,
        };
        Ok(self.buffer.insert(buffer))
    }
}

/// Rows that injections were to write, and those that the device counted; both wrap around.
pub(super) struct Injections<D: Driver> {
    written: Buffer<D>,
    asked: u32,
    /// `asked` when both were last compared.
    checked: u32,
}

impl<D: Driver> Injections<D> {
    /// The device's counter.
    pub(super) fn counter(&self) -> u64 {
        self.written.address()
    }

    pub(super) fn ask(&mut self, rows: usize) {
        self.asked = self.asked.wrapping_add(rows as u32);
    }

    /// Compares the two, if there were injections since the last time.
    pub(super) fn check(&mut self) -> Result<()> {
        if self.asked == self.checked {
            return Ok(());
        }
        let mut written = [0; 4];
        self.written.read(0, &mut written)?;
        let missing = self.asked.wrapping_sub(u32::from_le_bytes(written));
        let asked = self.asked.wrapping_sub(self.checked);
        // One report for each miss.
        self.asked = u32::from_le_bytes(written);
        self.checked = self.asked;
        if missing == 0 {
            return Ok(());
        }
        Err(KernelError::MissedInjection {
            asked,
            written: asked.wrapping_sub(missing),
        })
    }
}
