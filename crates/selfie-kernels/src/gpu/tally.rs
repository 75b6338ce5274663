//! The count of written injections.

use std::sync::Arc;

use super::Driver;
use super::buffers::Buffer;
use crate::{KernelError, Result};

/// How many rows injections should have written on a GPU, and how many the device counted. Both numbers wrap around.
pub struct GpuTally<D: Driver> {
    written: Buffer<D>,
    asked: u32,
    /// The value of `asked` at the last comparison.
    checked: u32,
}

impl<D: Driver> GpuTally<D> {
    pub(super) fn new(driver: &Arc<D>) -> Result<Self> {
        Ok(Self {
            written: Buffer::zeroed(driver, "a counter", 4)?,
            asked: 0,
            checked: 0,
        })
    }

    /// The device's counter.
    pub(super) fn counter(&self) -> u64 {
        self.written.address()
    }

    pub(super) fn ask(&mut self, rows: usize) {
        self.asked = self.asked.wrapping_add(rows as u32);
    }

    /// Compares the two numbers, if there were injections since the last check.
    pub(super) fn check(&mut self) -> Result<()> {
        if self.asked == self.checked {
            return Ok(());
        }
        let mut written = [0; 4];
        self.written.read(0, &mut written)?;
        let missing = self.asked.wrapping_sub(u32::from_le_bytes(written));
        let asked = self.asked.wrapping_sub(self.checked);
        // Report each miss once.
        self.asked = u32::from_le_bytes(written);
        self.checked = self.asked;
        if missing == 0 {
            return Ok(());
        }
        Err(KernelError::MissedInjection {
            asked: asked.into(),
            written: asked.wrapping_sub(missing).into(),
        })
    }
}
