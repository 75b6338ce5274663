//! The store of keys and values.

use super::simd::LANES;
use crate::checks::{check_row, check_share};
use crate::{BatchRow, KvLayout, Result, Slot};

/// Keys and values on the CPU, in f32.
///
/// A segment (the shared one, or a slot's own) holds `kv_heads` blocks of keys `[head_dim, capacity]` and of
/// values `[capacity, head_dim]`: keys lie across, so that sixteen positions are scored at once.
/// Capacity and the width of values are padded to sixteen.
#[derive(Clone, Debug)]
pub struct CpuKv {
    pub(super) layout: KvLayout,
    layers: Vec<LayerKv>,
    /// Shared positions that a slot sees, `[slots, layers]`.
    shared: Vec<usize>,
}

#[derive(Clone, Debug)]
struct LayerKv {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// One segment at one layer, for one head.
pub(super) struct Segment<'a> {
    /// `[head_dim, capacity]`.
    pub(super) keys: &'a [f32],
    /// `[capacity, value_width]`.
    pub(super) values: &'a [f32],
    pub(super) capacity: usize,
    /// Positions that the row sees.
    pub(super) len: usize,
}

impl CpuKv {
    pub(super) fn bytes(layout: &KvLayout) -> u64 {
        let head = (layout.head_dim + value_width(layout)) as u64;
        let position = layout.kv_heads as u64 * head * size_of::<f32>() as u64;
        let positions =
            |own: usize| padded(layout.shared) as u64 + layout.slots as u64 * padded(own) as u64;
        layout
            .own
            .iter()
            .map(|&own| positions(own) * position)
            .sum()
    }

    pub(super) fn new(layout: &KvLayout) -> Self {
        let layers = layout
            .own
            .iter()
            .map(|&own| {
                let positions = padded(layout.shared) + layout.slots * padded(own);
                LayerKv {
                    keys: vec![0.0; positions * layout.kv_heads * layout.head_dim],
                    values: vec![0.0; positions * layout.kv_heads * value_width(layout)],
                }
            })
            .collect();
        Self {
            layout: layout.clone(),
            layers,
            shared: vec![0; layout.slots * layout.own.len()],
        }
    }

    pub(super) fn share(&mut self, slot: usize, shared: &[usize]) -> Result<()> {
        check_share(&self.layout, slot, shared)?;
        let layers = shared.len();
        self.shared[slot * layers..][..layers].copy_from_slice(shared);
        Ok(())
    }

    /// Whether the row's slot and position exist at `layer`.
    pub(super) fn check(&self, op: &'static str, layer: usize, row: &BatchRow) -> Result<()> {
        check_row(op, &self.layout, layer, row, |slot| {
            self.shared_len(layer, slot as u32)
        })
    }

    /// Stores a row's rotated key and its value, `[kv_heads * head_dim]` each.
    pub(super) fn append(&mut self, layer: usize, row: &BatchRow, key: &[f32], value: &[f32]) {
        let (start, capacity, at) = self.place(layer, row);
        let (dim, width) = (self.layout.head_dim, value_width(&self.layout));
        let heads = self.layout.kv_heads;
        let store = &mut self.layers[layer];
        for head in 0..heads {
            let keys = &mut store.keys[(start * heads + head * capacity) * dim..][..capacity * dim];
            for (d, &x) in key[head * dim..][..dim].iter().enumerate() {
                keys[d * capacity + at] = x;
            }
            let values = (start * heads + head * capacity + at) * width;
            store.values[values..][..dim].copy_from_slice(&value[head * dim..][..dim]);
        }
    }

    /// What a row sees of one head: the shared positions, then its own.
    pub(super) fn segments(&self, layer: usize, row: &BatchRow, head: usize) -> [Segment<'_>; 2] {
        let position = row.position as usize;
        match row.slot {
            Slot::Shared => [
                self.segment(layer, 0, padded(self.layout.shared), head, position + 1),
                self.segment(layer, 0, 0, head, 0),
            ],
            Slot::Branch(slot) => {
                let shared = self.shared_len(layer, slot);
                let (start, capacity, at) = self.place(layer, row);
                [
                    self.segment(layer, 0, padded(self.layout.shared), head, shared),
                    self.segment(layer, start, capacity, head, at + 1),
                ]
            }
        }
    }

    pub(super) fn value_width(&self) -> usize {
        value_width(&self.layout)
    }

    fn segment(
        &self,
        layer: usize,
        start: usize,
        capacity: usize,
        head: usize,
        len: usize,
    ) -> Segment<'_> {
        let (dim, width) = (self.layout.head_dim, value_width(&self.layout));
        let store = &self.layers[layer];
        let first = start * self.layout.kv_heads + head * capacity;
        Segment {
            keys: &store.keys[first * dim..][..capacity * dim],
            values: &store.values[first * width..][..capacity * width],
            capacity,
            len,
        }
    }

    fn shared_len(&self, layer: usize, slot: u32) -> usize {
        self.shared[slot as usize * self.layers.len() + layer]
    }

    /// First position of the row's segment in the layer's store, the segment's capacity, the row's place in it.
    fn place(&self, layer: usize, row: &BatchRow) -> (usize, usize, usize) {
        let shared = padded(self.layout.shared);
        let position = row.position as usize;
        match row.slot {
            Slot::Shared => (0, shared, position),
            Slot::Branch(slot) => {
                let own = padded(self.layout.own[layer]);
                let at = position - self.shared_len(layer, slot);
                (shared + slot as usize * own, own, at)
            }
        }
    }
}

fn padded(positions: usize) -> usize {
    positions.next_multiple_of(LANES)
}

fn value_width(layout: &KvLayout) -> usize {
    layout.head_dim.next_multiple_of(LANES)
}
