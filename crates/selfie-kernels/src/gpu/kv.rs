//! The store of keys and values.

use std::sync::{Arc, Mutex, PoisonError};

use super::Driver;
use super::buffers::Buffer;
use super::plan::KvLayer;
use crate::checks::{check_row, check_share};
use crate::{BatchRow, KvLayout, Result};

/// Keys and values of all layers, in the dtype of the weights.
pub struct GpuKv<D: Driver> {
    pub(super) layout: KvLayout,
    layers: Vec<Layer<D>>,
    /// Shared positions that each slot sees, `[layers, slots]`: on the host for checks, on the device for kernels.
    seen: Vec<u32>,
    device_seen: Buffer<D>,
    /// Whether the device does not know yet what the host does. Held while it is told, so that nobody goes on before.
    stale: Mutex<bool>,
}

struct Layer<D: Driver> {
    keys: Buffer<D>,
    values: Buffer<D>,
}

impl<D: Driver> GpuKv<D> {
    pub(super) fn bytes(layout: &KvLayout) -> u64 {
        let layers = (0..layout.own.len()).map(|layer| 2 * shape(layout, layer).bytes());
        layers.sum::<u64>() + seen_bytes(layout)
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
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            seen: vec![0; layout.own.len() * layout.slots],
            device_seen: Buffer::zeroed(driver, WHAT, seen_bytes(layout))?,
            stale: Mutex::new(false),
            layout: layout.clone(),
        })
    }

    pub(super) fn share(&mut self, slot: usize, shared: &[usize]) -> Result<()> {
        check_share(&self.layout, slot, shared)?;
        for (layer, &n) in shared.iter().enumerate() {
            self.seen[layer * self.layout.slots + slot] = n as u32;
        }
        *self.stale.get_mut().unwrap_or_else(PoisonError::into_inner) = true;
        Ok(())
    }

    /// Whether each row's slot and position exist at `layer`.
    pub(super) fn check(&self, op: &'static str, layer: usize, rows: &[BatchRow]) -> Result<()> {
        for row in rows {
            check_row(op, &self.layout, layer, row, |slot| {
                self.seen[layer * self.layout.slots + slot] as usize
            })?;
        }
        Ok(())
    }

    /// One layer as kernels take it. Tells the device first what slots see, if that has changed.
    pub(super) fn layer(&self, layer: usize) -> Result<KvLayer> {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        if *stale {
            self.device_seen
                .write(0, bytemuck::cast_slice(&self.seen))?;
            *stale = false;
        }
        Ok(KvLayer {
            keys: self.layers[layer].keys.address(),
            values: self.layers[layer].values.address(),
            seen: self.device_seen.address() + 4 * (layer * self.layout.slots) as u64,
            ..shape(&self.layout, layer)
        })
    }
}

fn seen_bytes(layout: &KvLayout) -> u64 {
    4 * layout.own.len() as u64 * layout.slots as u64
}

/// A layer without its addresses. Saturated sizes are refused by the allocation.
fn shape(layout: &KvLayout, layer: usize) -> KvLayer {
    let KvLayout {
        kv_heads,
        head_dim,
        shared,
        slots,
        weights,
        ..
    } = *layout;
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    KvLayer {
        keys: 0,
        values: 0,
        own_offset: KvLayer::shared_bytes(kv_heads, head_dim, shared, weights),
        seen: 0,
        kv_heads: small(kv_heads),
        head_dim: small(head_dim),
        shared: small(shared),
        own: small(layout.own[layer]),
        slots: small(slots),
        dtype: weights,
    }
}
