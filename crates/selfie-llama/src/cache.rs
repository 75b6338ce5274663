//! The explicit KV cache: a shared segment, and a branch for each slot.

use selfie_kernels::{Backend, BatchRow, KvLayout, Slot};

use crate::{LlamaError, Result};

/// Keys and values of all layers, allocated once, with the slots that are free.
pub struct KvCache<B: Backend> {
    pub(crate) kv: B::Kv,
    layout: KvLayout,
    free: Vec<u32>,
    /// Whether a slot sees nothing of the shared segment at any layer.
    alone: Vec<bool>,
}

impl<B: Backend> KvCache<B> {
    /// Bytes that a cache of this layout takes.
    pub fn bytes(backend: &B, layout: &KvLayout) -> u64 {
        backend.kv_bytes(&kept(backend, layout))
    }

    /// How many slots fit into `budget` bytes beside the shared segment; `layout.slots` is ignored.
    pub fn slots_that_fit(backend: &B, layout: &KvLayout, budget: u64) -> usize {
        let with = |slots| {
            backend.kv_bytes(&KvLayout {
                slots,
                ..kept(backend, layout)
            })
        };
        let shared = with(0);
        let slot = (with(1) - shared).max(1);
        (budget.saturating_sub(shared) / slot) as usize
    }

    /// Allocates the cache; an error that says how many slots would fit when memory is too small.
    pub fn new(backend: &B, layout: KvLayout) -> Result<Self> {
        let layout = kept(backend, &layout);
        let bytes = backend.kv_bytes(&layout);
        let available = backend.memory()?.available;
        if bytes > available {
            return Err(LlamaError::CacheMemory {
                bytes,
                available,
                slots: layout.slots,
                fit: Self::slots_that_fit(backend, &layout, available),
            });
        }
        Ok(Self {
            kv: backend.kv(&layout)?,
            free: (0..layout.slots as u32).rev().collect(),
            alone: vec![true; layout.slots],
            layout,
        })
    }

    /// The layout that it was made with.
    pub fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Slots that nobody holds.
    pub fn free_slots(&self) -> usize {
        self.free.len()
    }

    /// Takes a free slot that sees `shared` positions of the shared segment, for each layer (`[n_layers]`).
    pub fn take(&mut self, backend: &B, shared: &[usize]) -> Result<u32> {
        let Some(&slot) = self.free.last() else {
            return Err(LlamaError::NoFreeSlot {
                slots: self.layout.slots,
            });
        };
        self.share(backend, slot, shared)?;
        self.free.pop();
        Ok(slot)
    }

    /// Starts a taken slot anew: its own branch is forgotten, and it sees `shared` positions of the
    /// shared segment, for each layer.
    pub fn share(&mut self, backend: &B, slot: u32, shared: &[usize]) -> Result<()> {
        backend.kv_share(&mut self.kv, slot as usize, 0, shared)?;
        self.alone[slot as usize] = shared.iter().all(|&n| n == 0);
        Ok(())
    }

    /// Gives a slot back.
    pub fn release(&mut self, slot: u32) {
        debug_assert!(!self.free.contains(&slot), "slot {slot} was released twice");
        self.free.push(slot);
    }
    /// Up to `n` rows that nobody reads, each in a free slot of its own, to fill a pass up with.
    pub(crate) fn idle_rows(&mut self, backend: &B, n: usize) -> Result<Vec<BatchRow>> {
        // Those that are taken last.
        let slots = self.free[..n.min(self.free.len())].to_vec();
        let nothing = vec![0; self.layout.own.len()];
        for &slot in &slots {
            if !self.alone[slot as usize] {
                self.share(backend, slot, &nothing)?;
            }
        }
        Ok(slots
            .iter()
            .flat_map(|&slot| branch_rows(slot, 0, &[0]))
            .collect())
    }
}

/// A layout whose dtype is that of the weights, with the one that the backend keeps keys and values in beside them.
fn kept<B: Backend>(backend: &B, layout: &KvLayout) -> KvLayout {
    KvLayout {
        dtype: backend.kv_dtype(layout.dtype),
        ..layout.clone()
    }
}

/// The rows of `tokens` in a slot's branch, at the positions from `first` on.
pub fn branch_rows(slot: u32, first: usize, tokens: &[u32]) -> impl Iterator<Item = BatchRow> {
    rows_of(Slot::Branch(slot), first, tokens)
}

/// The rows of `tokens` in the shared segment, at the positions from `first` on.
pub fn shared_rows(first: usize, tokens: &[u32]) -> impl Iterator<Item = BatchRow> {
    rows_of(Slot::Prefix(0), first, tokens)
}

fn rows_of(slot: Slot, first: usize, tokens: &[u32]) -> impl Iterator<Item = BatchRow> {
    tokens.iter().enumerate().map(move |(i, &token)| BatchRow {
        token,
        slot,
        position: (first + i) as u32,
    })
}
