//! The cache of keys and values.

use bytemuck::Zeroable;
use bytemuck::allocation::zeroed_vec;
use half::{bf16, f16};
use rayon::prelude::*;

use super::math::Stored;
use super::simd::LANES;
use crate::checks::{check_copy, check_row, check_share};
use crate::{BatchRow, DType, KvLayout, Result, Slot};

/// Keys and values on the CPU, in f32, bf16 or f16.
///
/// A segment (a prefix, or a slot's own positions) holds `kv_heads` blocks of keys `[head_dim, capacity]` and of values
/// `[capacity, head_dim]`. Keys are transposed so that sixteen positions are scored at once. The capacity and the width
/// of values are padded to sixteen.
#[derive(Clone, Debug)]
pub struct CpuKv {
    pub(super) layout: KvLayout,
    pub(super) store: Store,
    /// Where in a layer each prefix begins, in positions; the branches come after them.
    starts: Vec<usize>,
    slots: Vec<Branch>,
}

/// The state of a slot.
#[derive(Clone, Debug)]
struct Branch {
    prefix: usize,
    /// Positions of the prefix that the slot sees, by layer.
    shared: Vec<usize>,
    /// The end of the positions that the slot sees or has stored, by layer.
    ends: Vec<usize>,
}

/// All layers, in one of the supported dtypes.
#[derive(Clone, Debug)]
pub(super) enum Store {
    F32(Vec<LayerKv<f32>>),
    Bf16(Vec<LayerKv<bf16>>),
    F16(Vec<LayerKv<f16>>),
}

#[derive(Clone, Debug)]
pub(super) struct LayerKv<E> {
    keys: Vec<E>,
    values: Vec<E>,
}

/// Where a segment lies in a layer's store, in positions.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    capacity: usize,
}

/// One segment of one layer, for one head.
pub(super) struct Segment<'a, E> {
    /// `[head_dim, capacity]`.
    pub(super) keys: &'a [E],
    /// `[capacity, value_width]`.
    pub(super) values: &'a [E],
    pub(super) capacity: usize,
    /// Positions that the row sees.
    pub(super) len: usize,
}

impl CpuKv {
    pub(super) fn bytes(layout: &KvLayout) -> u64 {
        let head = (layout.head_dim + value_width(layout)) as u64;
        let position = layout.kv_heads as u64 * head * layout.dtype.size() as u64;
        let shared: u64 = layout.prefixes.iter().map(|&n| padded(n) as u64).sum();
        let positions = |own: usize| {
            let slots = (layout.slots as u64).saturating_mul(padded(own) as u64);
            shared.saturating_add(slots)
        };
        let layers = layout.own.iter();
        let layers = layers.map(|&own| positions(own).saturating_mul(position));
        layers.fold(0, u64::saturating_add)
    }

    pub(super) fn new(layout: &KvLayout) -> Self {
        let mut starts = vec![0];
        for &prefix in &layout.prefixes {
            starts.push(starts[starts.len() - 1] + padded(prefix));
        }
        let shared = starts[layout.prefixes.len()];
        let nothing = vec![0; layout.own.len()];
        let branch = Branch {
            prefix: 0,
            shared: nothing.clone(),
            ends: nothing,
        };
        let store = match layout.dtype {
            DType::F32 => Store::F32(empty(layout, shared)),
            DType::Bf16 => Store::Bf16(empty(layout, shared)),
            DType::F16 => Store::F16(empty(layout, shared)),
        };
        Self {
            store,
            slots: vec![branch; layout.slots],
            starts,
            layout: layout.clone(),
        }
    }

    pub(super) fn share(&mut self, slot: usize, prefix: u32, shared: &[usize]) -> Result<()> {
        check_share(&self.layout, slot, prefix, shared)?;
        let branch = &mut self.slots[slot];
        branch.prefix = prefix as usize;
        branch.shared.copy_from_slice(shared);
        branch.ends.copy_from_slice(shared);
        Ok(())
    }

    /// Checks that the row's slot and position exist at `layer`.
    pub(super) fn check(&self, op: &'static str, layer: usize, row: &BatchRow) -> Result<()> {
        check_row(op, &self.layout, layer, row, |slot| {
            self.slots[slot].shared[layer]
        })
    }

    /// Stores the rotated keys and the values of rows that have been [checked](Self::check). `of_row(i)` gives those of
    /// `rows[i]`, `[kv_heads * head_dim]` each.
    pub(super) fn append<'a>(
        &mut self,
        layer: usize,
        rows: &[BatchRow],
        of_row: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    ) {
        for (i, row) in rows.iter().enumerate() {
            let (place, at) = self.place(layer, row);
            let (key, value) = of_row(i);
            match &mut self.store {
                Store::F32(layers) => layers[layer].append(&self.layout, place, at, key, value),
                Store::Bf16(layers) => layers[layer].append(&self.layout, place, at, key, value),
                Store::F16(layers) => layers[layer].append(&self.layout, place, at, key, value),
            }
            if let Slot::Branch(slot) = row.slot {
                let end = &mut self.slots[slot as usize].ends[layer];
                *end = (*end).max(row.position as usize + 1);
            }
        }
    }

    pub(super) fn copy(&mut self, from: usize, to: usize, positions: usize) -> Result<()> {
        check_copy(&self.layout, from, to, positions, |layer| {
            self.slots[from].ends[layer]
        })?;
        let mut branch = self.slots[from].clone();
        let ends = branch.ends.iter_mut().zip(&branch.shared);
        ends.for_each(|(end, &shared)| *end = shared.max(positions));
        if from != to {
            let own = |layer, slot| self.own(layer, slot);
            let places = |layer| {
                let copied = positions.saturating_sub(branch.shared[layer]);
                (own(layer, from), own(layer, to).start, copied)
            };
            let places: Vec<_> = (0..self.layout.own.len()).map(places).collect();
            match &mut self.store {
                Store::F32(layers) => copy_layers(layers, &self.layout, &places),
                Store::Bf16(layers) => copy_layers(layers, &self.layout, &places),
                Store::F16(layers) => copy_layers(layers, &self.layout, &places),
            }
        }
        self.slots[to] = branch;
        Ok(())
    }

    /// The segments of one head that a row sees: the shared positions, then its own.
    pub(super) fn segments<'a, E>(
        &self,
        store: &'a LayerKv<E>,
        layer: usize,
        row: &BatchRow,
        head: usize,
    ) -> [Segment<'a, E>; 2] {
        let (place, at) = self.place(layer, row);
        let segment = |place, len| store.segment(&self.layout, place, head, len);
        match row.slot {
            Slot::Prefix(_) => [segment(place, at + 1), segment(place, 0)],
            Slot::Branch(slot) => {
                let branch = &self.slots[slot as usize];
                // A slot that sees nothing may name a prefix that does not exist.
                let shared = match branch.shared[layer] {
                    0 => segment(place, 0),
                    n => segment(self.prefix(branch.prefix), n),
                };
                [shared, segment(place, at + 1)]
            }
        }
    }

    pub(super) fn value_width(&self) -> usize {
        value_width(&self.layout)
    }

    /// The row's segment in the layer's store, and its place in that segment.
    fn place(&self, layer: usize, row: &BatchRow) -> (Place, usize) {
        let position = row.position as usize;
        match row.slot {
            Slot::Prefix(prefix) => (self.prefix(prefix as usize), position),
            Slot::Branch(slot) => {
                let slot = slot as usize;
                let at = position - self.slots[slot].shared[layer];
                (self.own(layer, slot), at)
            }
        }
    }

    fn prefix(&self, prefix: usize) -> Place {
        Place {
            start: self.starts[prefix],
            capacity: padded(self.layout.prefixes[prefix]),
        }
    }

    fn own(&self, layer: usize, slot: usize) -> Place {
        let capacity = padded(self.layout.own[layer]);
        Place {
            start: self.starts[self.layout.prefixes.len()] + slot * capacity,
            capacity,
        }
    }
}

/// Layers of zeros; the prefixes together have `shared` positions.
fn empty<E: Zeroable>(layout: &KvLayout, shared: usize) -> Vec<LayerKv<E>> {
    let layer = |&own: &usize| {
        let heads = (shared + layout.slots * padded(own)) * layout.kv_heads;
        LayerKv {
            keys: zeroed_vec(heads * layout.head_dim),
            values: zeroed_vec(heads * value_width(layout)),
        }
    };
    layout.own.iter().map(layer).collect()
}

/// Copies the first positions of a segment to another one of the same capacity. For each layer, the arguments give
/// where the positions are, where the target begins, and how many there are.
fn copy_layers<E: Stored>(
    layers: &mut [LayerKv<E>],
    layout: &KvLayout,
    places: &[(Place, usize, usize)],
) {
    let all = layers.par_iter_mut().zip(places);
    all.for_each(|(layer, &(from, to, n))| layer.copy(layout, from, to, n));
}

impl<E> LayerKv<E> {
    fn segment(&self, layout: &KvLayout, place: Place, head: usize, len: usize) -> Segment<'_, E> {
        let (dim, width) = (layout.head_dim, value_width(layout));
        let Place { start, capacity } = place;
        let first = start * layout.kv_heads + head * capacity;
        Segment {
            keys: &self.keys[first * dim..][..capacity * dim],
            values: &self.values[first * width..][..capacity * width],
            capacity,
            len,
        }
    }
}

impl<E: Stored> LayerKv<E> {
    fn append(&mut self, layout: &KvLayout, place: Place, at: usize, key: &[f32], value: &[f32]) {
        let (dim, width) = (layout.head_dim, value_width(layout));
        let Place { start, capacity } = place;
        let heads = key.chunks_exact(dim).zip(value.chunks_exact(dim));
        for (head, (key, value)) in heads.enumerate() {
            let first = start * layout.kv_heads + head * capacity;
            let keys = &mut self.keys[first * dim..][..capacity * dim];
            for (keys, &x) in keys.chunks_exact_mut(capacity).zip(key) {
                keys[at] = E::round(x);
            }
            let values = &mut self.values[(first + at) * width..][..dim];
            for (stored, &x) in values.iter_mut().zip(value) {
                *stored = E::round(x);
            }
        }
    }

    fn copy(&mut self, layout: &KvLayout, from: Place, to: usize, n: usize) {
        let (dim, width, capacity) = (layout.head_dim, value_width(layout), from.capacity);
        for head in 0..layout.kv_heads {
            let first = |start| start * layout.kv_heads + head * capacity;
            let (from, to) = (first(from.start), first(to));
            for d in 0..dim {
                let key = from * dim + d * capacity;
                let keys = key..key + n;
                self.keys.copy_within(keys, to * dim + d * capacity);
            }
            let values = from * width..(from + n) * width;
            self.values.copy_within(values, to * width);
        }
    }
}

fn padded(positions: usize) -> usize {
    positions.next_multiple_of(LANES)
}

fn value_width(layout: &KvLayout) -> usize {
    layout.head_dim.next_multiple_of(LANES)
}
