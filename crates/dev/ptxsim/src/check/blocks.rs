//! Detects races between the blocks of a launch, on global memory.
//!
//! Nothing orders the blocks of a launch, so it is a race if one block writes what another reads or writes. A granule
//! is the kernel's smallest access. For each granule the table keeps the last writer and the readers, with the launch
//! number in the upper half, so nothing has to be cleared between launches.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use crate::device::zeros;

/// The smallest granule. Two blocks that use different bytes of one granule count as a race.
pub(crate) const SMALLEST: u32 = 2;

/// Stands for several blocks as readers.
const MANY: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct BlockRaces {
    writers: Box<[AtomicU64]>,
    readers: Box<[AtomicU64]>,
}

/// Another block that uses the granule.
pub(crate) struct OtherBlock {
    /// `None` if several blocks do.
    pub(crate) block: Option<u32>,
    pub(crate) did: &'static str,
}

fn tag(launch: u32, block: u32) -> u64 {
    u64::from(launch) << 32 | u64::from(block)
}

/// The block of a tag, if it belongs to this launch and is not `block`.
fn other(entry: u64, launch: u32, block: u32) -> Option<u32> {
    let theirs = entry as u32;
    ((entry >> 32) as u32 == launch && theirs != block).then_some(theirs)
}

impl BlockRaces {
    pub(crate) fn new(granules: usize) -> Self {
        Self {
            writers: zeros(granules),
            readers: zeros(granules),
        }
    }

    pub(crate) fn read(&self, granule: usize, launch: u32, block: u32) -> Option<OtherBlock> {
        let mine = tag(launch, block);
        let before = self.readers[granule].load(SeqCst);
        if before != mine && before != tag(launch, MANY) {
            // SeqCst: if a reader and a writer run at the same time, one of them sees the other.
            let _ = self.readers[granule].fetch_update(SeqCst, SeqCst, |entry| {
                Some(if other(entry, launch, block).is_some() {
                    tag(launch, MANY)
                } else {
                    mine
                })
            });
        }
        let writer = other(self.writers[granule].load(SeqCst), launch, block)?;
        Some(OtherBlock {
            block: Some(writer),
            did: "writes",
        })
    }

    /// `readers`: whether a reader also counts as a race.
    pub(crate) fn write(
        &self,
        granule: usize,
        launch: u32,
        block: u32,
        readers: bool,
    ) -> Option<OtherBlock> {
        let mine = tag(launch, block);
        if self.writers[granule].load(SeqCst) != mine {
            let before = self.writers[granule].swap(mine, SeqCst);
            if let Some(block) = other(before, launch, block) {
                return Some(OtherBlock {
                    block: Some(block),
                    did: "writes",
                });
            }
        }
        if !readers {
            return None;
        }
        let reader = other(self.readers[granule].load(SeqCst), launch, block)?;
        let block = (reader != MANY).then_some(reader);
        Some(OtherBlock {
            block,
            did: "reads",
        })
    }
}
