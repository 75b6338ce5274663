//! Where keys and values lie on the device.

use crate::DType;

/// One layer of a cache of keys and values. Both have the same shape, and elements of `dtype`: the shared segment
/// `[kv_heads][shared][head_dim]`, then, `own_offset` bytes from the start, the slots' own
/// branches `[slots][kv_heads][own][head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayer {
    /// The address of the keys.
    pub keys: u64,
    /// The address of the values.
    pub values: u64,
    /// Where the branches begin, in bytes from the start; a multiple of 256.
    pub own_offset: u64,
    /// The address of the positions of the shared segment that each slot sees at this layer, `u32 [slots]`.
    pub seen: u64,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Positions of the shared segment.
    pub shared: u32,
    /// Positions of a branch.
    pub own: u32,
    /// Branches.
    pub slots: u32,
    /// The type of the elements.
    pub dtype: DType,
}

impl KvLayer {
    /// Bytes of the shared segment of `kv_heads` heads, up to where the branches begin.
    pub fn shared_bytes(kv_heads: usize, head_dim: usize, shared: usize, dtype: DType) -> u64 {
        let bytes = kv_heads as u64 * shared as u64 * head_dim as u64 * dtype.size() as u64;
        bytes.next_multiple_of(256)
    }

    /// Bytes of the keys of one layer; the values take as many.
    pub fn bytes(&self) -> u64 {
        let branch = u64::from(self.kv_heads) * u64::from(self.own) * u64::from(self.head_dim);
        self.own_offset + u64::from(self.slots) * branch * self.dtype.size() as u64
    }
}
