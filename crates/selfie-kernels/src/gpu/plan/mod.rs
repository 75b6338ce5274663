//! How each kernel is launched: addresses and sizes in, a [`Launch`](super::Launch) out.
//!
//! Pure host functions. The caller has checked the sizes, and each address points to what the kernel's header says. A
//! launch has at least one row of at least one column.

mod adam;
mod attention;
mod attention_work;
mod draw;
mod elementwise;
mod head;
mod kv;
mod matvec;
mod rms_norm;
mod rope_append;
mod rows;
mod step;

pub use adam::Adam;
pub use attention::{Attention, HEAD_DIM_STEP, MAX_HEAD_DIM, Splits};
pub use attention_work::{AttentionWork, Span};
pub use draw::Draw;
pub use elementwise::{Add, Cast, Glu, MlpBackward};
pub use head::{Head, LogitMap, PART_BYTES};
pub use kv::{KvCopy, KvLayer, Place, layer_words, slot_word};
pub use matvec::Matvec;
pub use rms_norm::{MAX_WIDTH, RmsNorm};
pub use rope_append::RopeAppend;
pub use rows::{Embed, GatherRows, Inject, WRITE_BYTES, injection_list};
pub use step::step_rows;

pub(in crate::gpu) use attention::{stride, warp_tiles};
pub(in crate::gpu) use draw::{DrawWords, Drawn};

use crate::{DType, KernelError, Result};

/// Threads of a warp.
pub const WARP: u32 = 32;

/// The kernels' code for an element type.
pub fn code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::F16 => 2,
    }
}

/// The columns of f32 rows that can be moved 16 bytes at a time: all of them, or 0 if that would be misaligned.
pub fn wide(width: u32) -> u32 {
    if width.is_multiple_of(4) { width } else { 0 }
}

/// The most blocks of a grid.
const MOST_BLOCKS: u64 = (1 << 31) - 1;

/// An error if `[rows, columns]` has more than `most` elements, because the kernel indexes them with 32 bits.
pub(in crate::gpu) fn check_count(
    op: &'static str,
    what: &str,
    [rows, columns]: [u64; 2],
    most: u64,
) -> Result<()> {
    let count = rows.saturating_mul(columns);
    if count <= most {
        return Ok(());
    }
    Err(KernelError::Unsupported {
        op,
        reason: format!(
            "{rows} x {columns} {what} exceed the {most} that a GPU kernel can index; use at most {} x {columns}",
            most / columns.max(1)
        ),
    })
}

/// Threads of a block that moves one row: one for each 4 columns, in whole warps, at most 256.
fn row_threads(width: u32) -> u32 {
    width.div_ceil(4).next_multiple_of(WARP).min(256)
}
