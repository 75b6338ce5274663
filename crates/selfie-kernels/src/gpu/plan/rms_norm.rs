//! `rms_norm.ptx`

use super::{MOST_BLOCKS, WARP, check_count, code, wide};
use crate::gpu::{Arg, File, Launch, Module};
use crate::{DType, Result};

/// The widest row: it must fit the shared memory that every device since sm_80 gives a block.
pub const MAX_WIDTH: u32 = 24 << 10;

/// Most threads of a block.
const MAX_THREADS: u32 = 1024;
/// The fewest columns of a thread, if the row is wide enough.
const COLUMNS: u32 = 16;

/// `out = norm(x) * weight`, for whole rows or parts of them.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// `[n, stride]` of `x_dtype`, from the first part on.
    pub x: u64,
    /// `[width]`, f32.
    pub weight: u64,
    /// `[n, stride]` of `dtype`; may be `x` itself, of the same type.
    pub out: u64,
    /// Rows, at least 1.
    pub n: u32,
    /// Adjacent parts of a row.
    pub parts: u32,
    /// Columns of a row.
    pub stride: u32,
    /// Columns of a part, at least 1 and at most [`MAX_WIDTH`].
    pub width: u32,
    /// The type of `x`.
    pub x_dtype: DType,
    /// The type of the output.
    pub dtype: DType,
    /// Added to the mean of the squares.
    pub eps: f32,
}

impl RmsNorm {
    /// An error if there are more parts than a grid has blocks.
    pub fn check(&self, op: &'static str) -> Result<()> {
        check_count(op, "parts", [self.n.into(), self.parts.into()], MOST_BLOCKS)
    }

    /// The launch.
    pub fn launch(&self) -> Launch {
        // Each part must begin where four columns can be moved.
        let aligned = |n: u32| wide(n) == n;
        let four = 4 * self.x_dtype.size() as u64;
        let moved = aligned(self.width) && aligned(self.stride) && self.x.is_multiple_of(four);
        let threads = self.width.div_ceil(COLUMNS).next_multiple_of(WARP);
        Launch {
            module: Module::new(File::RmsNorm),
            entry: "rms_norm",
            grid: [self.n * self.parts, 1, 1],
            block: [threads.min(MAX_THREADS), 1, 1],
            shared_bytes: 4 * self.width,
            args: vec![
                Arg::Ptr(self.x),
                Arg::Ptr(self.weight),
                Arg::Ptr(self.out),
                Arg::U32(self.width),
                Arg::U32(if moved { self.width } else { 0 }),
                Arg::U32(code(self.dtype)),
                Arg::F32(self.eps),
                Arg::F32(1.0 / self.width as f32),
                Arg::U32(self.parts),
                Arg::U32(self.stride),
                Arg::U32(code(self.x_dtype)),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_parts_than_a_grid_has_blocks_are_refused() {
        let mut norm = RmsNorm {
            x: 0,
            weight: 0,
            out: 0,
            n: 1 << 26,
            parts: 31,
            stride: 31,
            width: 1,
            x_dtype: DType::F32,
            dtype: DType::F32,
            eps: 0.0,
        };
        assert!(norm.check("rms_norm_parts").is_ok());
        norm.parts = 32;
        let message = norm.check("rms_norm_parts").unwrap_err().to_string();
        for part in ["rms_norm_parts", "67108864 x 32"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
