//! The KV cache of a session: prefixes that slots share, and a branch for each slot.

use selfie_kernels::{Backend, BatchRow, KvLayout, Slot};

use crate::{LlamaError, Result};

/// Keys and values of all layers, allocated once, and the list of free slots.
pub(crate) struct KvCache<B: Backend> {
    pub(crate) kv: B::Kv,
    layout: KvLayout,
    free: Vec<u32>,
    /// Whether a slot shares no positions of a prefix at any layer.
    alone: Vec<bool>,
}

impl<B: Backend> KvCache<B> {
    /// The number of slots that fit into `budget` bytes beside the prefixes. `layout.slots` is ignored.
    pub(crate) fn slots_that_fit(backend: &B, layout: &KvLayout, budget: u64) -> usize {
        let with = |slots| {
            backend.kv_bytes(&KvLayout {
                slots,
                ..layout.clone()
            })
        };
        let prefixes = with(0);
        let slot = (with(1) - prefixes).max(1);
        (budget.saturating_sub(prefixes) / slot) as usize
    }

    /// Fails if the cache and `buffers` more bytes do not fit in memory. The error says how many slots would fit.
    pub(crate) fn check(backend: &B, layout: &KvLayout, buffers: u64) -> Result<()> {
        let bytes = backend.kv_bytes(layout);
        let available = backend.memory()?.available;
        if bytes.saturating_add(buffers) <= available {
            return Ok(());
        }
        let left = available.saturating_sub(buffers);
        Err(LlamaError::CacheMemory {
            bytes,
            buffers,
            available,
            slots: layout.slots,
            fit: Self::slots_that_fit(backend, layout, left),
        })
    }

    /// Allocates the cache.
    pub(crate) fn new(backend: &B, layout: KvLayout) -> Result<Self> {
        Ok(Self {
            kv: backend.kv(&layout)?,
            free: (0..layout.slots as u32).rev().collect(),
            alone: vec![true; layout.slots],
            layout,
        })
    }

    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.free.len()
    }

    /// Takes a free slot. At layer l it sees the first `shared[l]` positions of a prefix.
    pub(crate) fn take(&mut self, backend: &B, prefix: u32, shared: &[usize]) -> Result<u32> {
        let Some(&slot) = self.free.last() else {
            return Err(LlamaError::NoFreeSlot {
                slots: self.layout.slots,
            });
        };
        self.share(backend, slot, prefix, shared)?;
        self.free.pop();
        Ok(slot)
    }

    /// Resets a slot: its contents are forgotten, and at layer l it sees the first `shared[l]` positions of a prefix.
    pub(crate) fn share(
        &mut self,
        backend: &B,
        slot: u32,
        prefix: u32,
        shared: &[usize],
    ) -> Result<()> {
        backend.kv_share(&mut self.kv, slot as usize, prefix, shared)?;
        self.alone[slot as usize] = shared.iter().all(|&n| n == 0);
        Ok(())
    }

    /// Makes `to` see what `from` sees, and copies `from`'s own keys and values at positions below `positions`.
    pub(crate) fn copy(&mut self, backend: &B, from: u32, to: u32, positions: usize) -> Result<()> {
        backend.kv_copy(&mut self.kv, from as usize, to as usize, positions)?;
        self.alone[to as usize] = self.alone[from as usize];
        Ok(())
    }

    pub(crate) fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }

    /// Up to `n` rows that nobody reads, each in a different free slot. They fill up a pass.
    pub(crate) fn idle_rows(&mut self, backend: &B, n: usize) -> Result<Vec<BatchRow>> {
        // Use the slots that would be taken last.
        let slots = self.free[..n.min(self.free.len())].to_vec();
        let nothing = vec![0; self.layout.own.len()];
        for &slot in &slots {
            if !self.alone[slot as usize] {
                self.share(backend, slot, 0, &nothing)?;
            }
        }
        let row = |slot| BatchRow {
            token: 0,
            slot: Slot::Branch(slot),
            position: 0,
        };
        Ok(slots.into_iter().map(row).collect())
    }
}
