//! How each kernel is launched: addresses and sizes in, a [`Launch`](super::Launch) out.
//!
//! Pure functions of the host. Sizes have been checked before; an address has behind it what the kernel's header
//! says. No launch is made for 0 rows.

mod attention;
mod attention_work;
mod kv;
mod rms_norm;

pub use attention::{Attention, HEAD_DIM_STEP, MAX_HEAD_DIM, Splits};
pub use attention_work::AttentionWork;
pub use kv::KvLayer;
pub use rms_norm::{MAX_WIDTH, RmsNorm};

pub(in crate::gpu) use attention::{stride, warp_tiles};

use crate::DType;

/// Threads of a warp.
pub const WARP: u32 = 32;

/// The number that kernels know an element type by.
pub fn code(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::Bf16 => 1,
        DType::F16 => 2,
    }
}

/// The columns of f32 rows that can be moved 16 bytes at a time: all, or none where that would be misaligned.
pub fn wide(width: u32) -> u32 {
    if width.is_multiple_of(4) { width } else { 0 }
}
