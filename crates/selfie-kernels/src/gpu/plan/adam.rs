//! `adam.ptx`

use crate::batch::AdamRate;
use crate::gpu::{Arg, File, Launch, Module};

/// Rows and columns of a block's tile of weights.
const TILE: u32 = 64;

/// One step on weights `[out, width]`, all f32.
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// `[out, width]`
    pub w: u64,
    /// The first moment, `[out, width]`.
    pub m: u64,
    /// The second moment, `[out, width]`.
    pub v: u64,
    /// `[n, out]`
    pub d: u64,
    /// `[n, width]`
    pub x: u64,
    /// Rows of `d` and `x`.
    pub n: u32,
    /// Rows of the weights.
    pub out: u32,
    /// Columns of the weights.
    pub width: u32,
    /// The factors of the step.
    pub adam: crate::Adam,
}

impl Adam {
    /// The launch.
    pub fn launch(&self) -> Launch {
        let rate = AdamRate::new(&self.adam);
        Launch {
            module: Module::new(File::Adam),
            entry: "adam",
            grid: [self.width.div_ceil(TILE), self.out.div_ceil(TILE), 1],
            block: [16, 16, 1],
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.w),
                Arg::Ptr(self.m),
                Arg::Ptr(self.v),
                Arg::Ptr(self.d),
                Arg::Ptr(self.x),
                Arg::U32(self.n),
                Arg::U32(self.out),
                Arg::U32(self.width),
                Arg::U32(u32::from(self.width.is_multiple_of(4))),
                Arg::F32(rate.new1),
                Arg::F32(rate.beta2),
                Arg::F32(rate.new2),
                Arg::F32(rate.lr),
                Arg::F32(rate.root),
                Arg::F32(rate.eps),
            ],
        }
    }
}
