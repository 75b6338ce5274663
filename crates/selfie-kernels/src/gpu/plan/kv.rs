//! The layout of keys and values on the device, and `kv_copy.ptx`.

use super::check_count;
use crate::gpu::{Arg, File, Launch, Module};
use crate::{DType, Result, Slot};

/// One layer of a cache of keys and values. Keys and values have the same shape, and elements of `dtype`. First come
/// the prefixes, one after the other, `[kv_heads][shared][head_dim]`. The slots' own branches follow, `own_offset`
/// bytes from the start, `[slots][kv_heads][own][head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayer {
    /// The address of the keys.
    pub keys: u64,
    /// The address of the values.
    pub values: u64,
    /// Where the branches begin, in bytes from the start; a multiple of 256.
    pub own_offset: u64,
    /// The address of what each slot sees at this layer, `[slots]` of [`Place`]. The prefixes precede it, the last one
    /// first, so that a [`slot_word`] is the signed index of its place.
    pub places: u64,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Positions of all prefixes.
    pub shared: u32,
    /// Positions of the longest prefix.
    pub longest: u32,
    /// Positions of a branch.
    pub own: u32,
    /// Branches.
    pub slots: u32,
    /// The type of the elements.
    pub dtype: DType,
}

/// Where a slot's prefix begins among the shared positions, and how many of its positions the slot sees.
pub type Place = [u32; 2];

/// The kernels' number of a slot: a branch has its own number, prefix `p` has `-1 - p`.
pub fn slot_word(slot: Slot) -> u32 {
    match slot {
        Slot::Prefix(prefix) => !prefix,
        Slot::Branch(slot) => slot,
    }
}

impl KvLayer {
    /// Bytes of the shared positions of `kv_heads` heads; the branches begin there.
    pub fn shared_bytes(kv_heads: usize, head_dim: usize, shared: usize, dtype: DType) -> u64 {
        let bytes = kv_heads as u64 * shared as u64 * head_dim as u64 * dtype.size() as u64;
        bytes.next_multiple_of(256)
    }

    /// An error if there are more heads of slots than kernels can count.
    pub fn check(&self, op: &'static str) -> Result<()> {
        let counts = [self.slots.into(), self.kv_heads.into()];
        check_count(op, "heads of slots", counts, u32::MAX.into())
    }

    /// Bytes of the keys of one layer; the values take as many.
    pub fn bytes(&self) -> u64 {
        let branch = u64::from(self.kv_heads) * u64::from(self.own) * u64::from(self.head_dim);
        self.own_offset + u64::from(self.slots) * branch * self.dtype.size() as u64
    }
}

/// Copies the first own positions of a slot to another, at all layers.
#[derive(Clone, Copy, Debug)]
pub struct KvCopy {
    /// [`layer_words`] of each layer.
    pub table: u64,
    /// The slot to copy.
    pub from: u32,
    /// The slot to write, a different one.
    pub to: u32,
    /// Positions, counted from 0 through the shared ones. Those that `from` sees in its prefix are not copied.
    pub positions: u32,
    /// Layers.
    pub layers: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Bytes of a position of a head.
    pub row_bytes: u32,
}

/// What `kv_copy.ptx` reads about a layer: the addresses of the branches' keys and values and of the slots' places,
/// then the positions of a branch.
pub fn layer_words(layer: &KvLayer) -> [u64; 4] {
    [
        layer.keys + layer.own_offset,
        layer.values + layer.own_offset,
        layer.places,
        layer.own.into(),
    ]
}

impl KvCopy {
    /// The launch.
    pub fn launch(&self) -> Launch {
        Launch {
            module: Module::new(File::KvCopy),
            entry: "kv_copy",
            grid: [2 * self.kv_heads, self.layers, 1],
            block: [128, 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.table),
                Arg::U32(self.from),
                Arg::U32(self.to),
                Arg::U32(self.positions),
                Arg::U32(self.kv_heads),
                Arg::U32(self.row_bytes),
                Arg::U32(u32::from(self.row_bytes.is_multiple_of(16))),
            ],
        }
    }
}
