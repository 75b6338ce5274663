//! `rope_append.ptx`

use super::{KvLayer, code};
use crate::gpu::{Arg, File, Launch, Module};

/// Threads of a block, approximately.
const THREADS: u32 = 256;

/// Rotates the queries of `qkv` and appends its keys and values to a cache.
#[derive(Clone, Copy, Debug)]
pub struct RopeAppend {
    /// `[n, (heads + 2 kv_heads) * head_dim]`, of the cache's dtype.
    pub qkv: u64,
    /// `[positions, rotated]`, f32. 0 means no table: nothing is rotated.
    pub table: u64,
    /// Columns of a head to rotate.
    pub rotated: u32,
    /// `[n]`, u32.
    pub slot: u64,
    /// `[n]`, u32.
    pub position: u64,
    /// Where keys and values go.
    pub kv: KvLayer,
    /// Rows.
    pub n: u32,
    /// Query heads.
    pub heads: u32,
}

impl RopeAppend {
    /// The launch.
    pub fn launch(&self) -> Launch {
        let half = self.kv.head_dim / 2;
        let wide = half.is_multiple_of(4) && self.rotated.is_multiple_of(8);
        let x = if wide { half / 4 } else { half };
        let all_heads = self.heads + 2 * self.kv.kv_heads;
        let y = (THREADS / x).clamp(1, all_heads);
        Launch {
            module: Module::new(File::RopeAppend),
            entry: "rope_append",
            grid: [self.n, 1, 1],
            block: [x, y, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.qkv),
                Arg::Ptr(self.table),
                Arg::Ptr(self.slot),
                Arg::Ptr(self.position),
                Arg::Ptr(self.kv.places),
                Arg::Ptr(self.kv.keys),
                Arg::Ptr(self.kv.values),
                Arg::U64(self.kv.own_offset),
                Arg::U32(self.heads),
                Arg::U32(self.kv.kv_heads),
                Arg::U32(self.kv.head_dim),
                Arg::U32(self.kv.shared),
                Arg::U32(self.kv.own),
                Arg::U32(u32::from(wide)),
                Arg::U32(code(self.kv.dtype)),
                Arg::U32(self.rotated),
            ],
        }
    }
}
