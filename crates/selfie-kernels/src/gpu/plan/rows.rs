//! The kernels that move rows: `embed.ptx`, `gather_rows.ptx`, `inject.ptx`. Each block moves one row.

use super::{code, row_threads, wide};
use crate::batch::LEAST_LENGTH;
use crate::gpu::{Arg, File, Launch, Module};
use crate::{DType, Injection};

/// `out[i] = scale * table[token[i]]`.
#[derive(Clone, Copy, Debug)]
pub struct Embed {
    /// `[vocab, width]` of `dtype`.
    pub table: u64,
    /// `[n]`, u32.
    pub token: u64,
    /// `[n, width]`, f32.
    pub out: u64,
    /// Rows.
    pub n: u32,
    /// Columns.
    pub width: u32,
    /// The type of the table.
    pub dtype: DType,
    /// The factor.
    pub scale: f32,
}

impl Embed {
    /// The launch.
    pub fn launch(&self) -> Launch {
        Launch {
            module: Module::new(File::Embed),
            entry: "embed",
            grid: [self.n, 1, 1],
            block: [row_threads(self.width), 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.table),
                Arg::Ptr(self.token),
                Arg::Ptr(self.out),
                Arg::U32(self.width),
                Arg::U32(wide(self.width)),
                Arg::U32(code(self.dtype)),
                Arg::F32(self.scale),
            ],
        }
    }
}

/// `dst[to] = src[from]` for each pair of a list.
#[derive(Clone, Copy, Debug)]
pub struct GatherRows {
    /// `[_, width]`, f32.
    pub src: u64,
    /// `[_, width]`, f32.
    pub dst: u64,
    /// `[n]` of `{u32 from, u32 to}`.
    pub list: u64,
    /// Pairs.
    pub n: u32,
    /// Columns.
    pub width: u32,
}

impl GatherRows {
    /// The launch.
    pub fn launch(&self) -> Launch {
        Launch {
            module: Module::new(File::GatherRows),
            entry: "gather_rows",
            grid: [self.n, 1, 1],
            block: [row_threads(self.width), 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.src),
                Arg::Ptr(self.dst),
                Arg::Ptr(self.list),
                Arg::U32(self.width),
                Arg::U32(wide(self.width)),
            ],
        }
    }
}

/// Writes vectors into rows, as a list of writes says.
#[derive(Clone, Copy, Debug)]
pub struct Inject {
    /// `[n_rows, width]`, f32.
    pub rows: u64,
    /// `[n_vectors, width]`, f32.
    pub vectors: u64,
    /// The output of [`injection_list`].
    pub list: u64,
    /// A u32 counter: each written row adds 1.
    pub written: u64,
    /// Rows that may be written.
    pub n_rows: u32,
    /// Rows of the vectors.
    pub n_vectors: u32,
    /// Columns.
    pub width: u32,
    /// Blocks: one for each write, or any other number if the list changes under a captured graph.
    pub blocks: u32,
}

impl Inject {
    /// The launch.
    pub fn launch(&self) -> Launch {
        Launch {
            module: Module::new(File::Inject),
            entry: "inject",
            grid: [self.blocks, 1, 1],
            block: [row_threads(self.width), 1, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.rows),
                Arg::Ptr(self.vectors),
                Arg::Ptr(self.list),
                Arg::Ptr(self.written),
                Arg::U32(self.n_rows),
                Arg::U32(self.n_vectors),
                Arg::U32(self.width),
                Arg::U32(wide(self.width)),
                Arg::F32(LEAST_LENGTH),
            ],
        }
    }
}

/// Bytes of a write in the list that `inject.ptx` reads, and of the count before it.
pub const WRITE_BYTES: u64 = 32;

/// The list that `inject.ptx` reads: the count, then the writes, [`WRITE_BYTES`] each.
pub fn injection_list(writes: &[Injection]) -> Vec<u8> {
    let mut words = Vec::with_capacity(8 * (writes.len() + 1));
    words.extend([writes.len() as u32, 0, 0, 0, 0, 0, 0, 0]);
    for write in writes {
        let form = write.mode.form();
        words.extend([
            write.row as u32,
            write.vector as u32,
            write.strength.to_bits(),
            form.keep.factor(write.strength).to_bits(),
            form.unit.into(),
            form.matched.into(),
            0,
            0,
        ]);
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
