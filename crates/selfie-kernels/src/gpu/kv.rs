//! The cache of keys and values.

use std::sync::{Arc, Mutex, PoisonError};

use super::Driver;
use super::backend::to_u32;
use super::buffers::{Buffer, GpuBatch};
use super::plan::{KvCopy, KvLayer, Place, Span, layer_words};
use crate::checks::{check_copy, check_row, check_share};
use crate::{BatchRow, KvLayout, Result, Slot};

/// Keys and values of all layers, in the dtype of the layout.
pub struct GpuKv<D: Driver> {
    driver: Arc<D>,
    pub(super) layout: KvLayout,
    layers: Vec<Layer<D>>,
    /// The kernels' table of slots and prefixes, `[layers, prefixes + slots]`.
    places: Vec<Place>,
    device_places: Buffer<D>,
    /// Whether the device's table is out of date. Locked while it is updated, so that nobody continues before.
    stale: Mutex<bool>,
    /// The end of the positions that a slot sees or has stored, `[layers, slots]`.
    ends: Vec<u32>,
    /// `[layers]`: what a copy reads about a layer.
    copy_table: Buffer<D>,
}

struct Layer<D: Driver> {
    keys: Buffer<D>,
    values: Buffer<D>,
}

impl<D: Driver> GpuKv<D> {
    pub(super) fn bytes(layout: &KvLayout) -> u64 {
        let layers = (0..layout.own.len()).map(|layer| 2 * shape(layout, layer).bytes());
        layers.sum::<u64>() + places_bytes(layout) + copy_bytes(layout)
    }

    pub(super) fn new(driver: &Arc<D>, layout: &KvLayout) -> Result<Self> {
        const WHAT: &str = "the KV cache";
        let layers = (0..layout.own.len()).map(|layer| {
            let bytes = shape(layout, layer).bytes();
            Ok(Layer {
                keys: Buffer::new(driver, WHAT, bytes)?,
                values: Buffer::new(driver, WHAT, bytes)?,
            })
        });
        // First the prefixes, the last one first; then the slots, which see nothing yet.
        let mut start = 0;
        let mut at_layer: Vec<Place> = Vec::new();
        for &prefix in &layout.prefixes {
            at_layer.insert(0, [start, 0]);
            start = start.saturating_add(to_u32_saturating(prefix));
        }
        at_layer.resize(at_layer.len() + layout.slots, [0, 0]);
        let kv = Self {
            driver: driver.clone(),
            layers: layers.collect::<Result<_>>()?,
            places: at_layer.repeat(layout.own.len()),
            device_places: Buffer::new(driver, WHAT, places_bytes(layout))?,
            stale: Mutex::new(true),
            ends: vec![0; layout.own.len() * layout.slots],
            copy_table: Buffer::new(driver, WHAT, copy_bytes(layout))?,
            layout: layout.clone(),
        };
        let table: Vec<_> = (0..kv.layers.len())
            .map(|layer| layer_words(&kv.addressed(layer)))
            .collect();
        kv.copy_table.write(0, bytemuck::cast_slice(&table))?;
        Ok(kv)
    }

    pub(super) fn share(&mut self, slot: usize, prefix: u32, shared: &[usize]) -> Result<()> {
        check_share(&self.layout, slot, prefix, shared)?;
        for (layer, &n) in shared.iter().enumerate() {
            let start = match n {
                0 => 0,
                _ => self.places[self.place_at(layer, !(prefix as usize))][0],
            };
            let at = self.place_at(layer, slot);
            self.places[at] = [start, n as u32];
            self.ends[layer * self.layout.slots + slot] = n as u32;
        }
        self.set_stale();
        Ok(())
    }

    pub(super) fn copy(&mut self, from: usize, to: usize, positions: usize) -> Result<()> {
        const OP: &str = "kv_copy";
        let slots = self.layout.slots;
        check_copy(&self.layout, from, to, positions, |layer| {
            self.ends[layer * slots + from] as usize
        })?;
        if from != to && !self.layers.is_empty() && self.layout.kv_heads > 0 {
            let plan = KvCopy {
                table: self.copy_table.address(),
                from: to_u32(OP, from)?,
                to: to_u32(OP, to)?,
                positions: to_u32(OP, positions)?,
                layers: to_u32(OP, self.layers.len())?,
                kv_heads: to_u32(OP, self.layout.kv_heads)?,
                row_bytes: to_u32(OP, self.layout.head_dim * self.layout.dtype.size())?,
            };
            self.addressed(0).check(OP)?;
            self.tell()?;
            // SAFETY: the table is that of this cache, and the positions have been stored.
            unsafe { self.driver.launch(&plan.launch())? };
        }
        for layer in 0..self.layers.len() {
            let place = self.places[self.place_at(layer, from)];
            let at = self.place_at(layer, to);
            self.places[at] = place;
            self.ends[layer * slots + to] = place[1].max(positions as u32);
        }
        self.set_stale();
        Ok(())
    }

    /// Checks that each row's slot and position exist at `layer`.
    pub(super) fn check(&self, op: &'static str, layer: usize, batch: &GpuBatch<D>) -> Result<()> {
        let check = |slot, position| {
            let row = BatchRow {
                token: 0,
                slot,
                position,
            };
            check_row(op, &self.layout, layer, &row, |slot| {
                self.places[self.place_at(layer, slot)][1] as usize
            })
        };
        // A slot's positions have no gaps.
        let spans = batch.work.spans().iter();
        let ends = |span: &Span| check(span.slot, span.first).and(check(span.slot, span.last));
        if spans.map(ends).all(|checked| checked.is_ok()) {
            return Ok(());
        }
        // Report the error of the first such row.
        let mut rows = batch.rows.iter();
        rows.try_for_each(|row| check(row.slot, row.position))
    }

    /// Records that rows, which have been [checked](Self::check), are stored.
    pub(super) fn stored(&mut self, layer: usize, batch: &GpuBatch<D>) {
        for span in batch.work.spans() {
            if let Slot::Branch(slot) = span.slot {
                let end = &mut self.ends[layer * self.layout.slots + slot as usize];
                *end = (*end).max(span.last + 1);
            }
        }
    }

    /// One layer, as kernels take it. Updates the device's table first if it is out of date.
    pub(super) fn layer(&self, layer: usize) -> Result<KvLayer> {
        self.tell()?;
        Ok(self.addressed(layer))
    }

    fn addressed(&self, layer: usize) -> KvLayer {
        KvLayer {
            keys: self.layers[layer].keys.address(),
            values: self.layers[layer].values.address(),
            places: self.device_places.address() + 8 * self.place_at(layer, 0) as u64,
            ..shape(&self.layout, layer)
        }
    }

    /// The index in `places` of a slot; prefix `p` counts as slot `!p`.
    fn place_at(&self, layer: usize, slot: usize) -> usize {
        let prefixes = self.layout.prefixes.len();
        let first = layer * (prefixes + self.layout.slots) + prefixes;
        first.wrapping_add(slot)
    }

    fn set_stale(&mut self) {
        *self.stale.get_mut().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn tell(&self) -> Result<()> {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        if *stale {
            self.device_places
                .write(0, bytemuck::cast_slice(&self.places))?;
            *stale = false;
        }
        Ok(())
    }
}

fn places_bytes(layout: &KvLayout) -> u64 {
    8 * layout.own.len() as u64 * (layout.prefixes.len() + layout.slots) as u64
}

fn copy_bytes(layout: &KvLayout) -> u64 {
    32 * layout.own.len() as u64
}

/// A size as the 32-bit number that kernels take. If it saturates, the allocation refuses it.
fn to_u32_saturating(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A layer without its addresses.
fn shape(layout: &KvLayout, layer: usize) -> KvLayer {
    let KvLayout {
        kv_heads,
        head_dim,
        ref prefixes,
        ref own,
        slots,
        dtype,
    } = *layout;
    let shared = prefixes.iter().sum();
    KvLayer {
        keys: 0,
        values: 0,
        own_offset: KvLayer::shared_bytes(kv_heads, head_dim, shared, dtype),
        places: 0,
        kv_heads: to_u32_saturating(kv_heads),
        head_dim: to_u32_saturating(head_dim),
        shared: to_u32_saturating(shared),
        longest: to_u32_saturating(prefixes.iter().copied().max().unwrap_or(0)),
        own: to_u32_saturating(own[layer]),
        slots: to_u32_saturating(slots),
        dtype,
    }
}
