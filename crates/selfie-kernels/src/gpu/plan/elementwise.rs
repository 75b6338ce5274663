//! The kernels that process rows element by element: `glu.ptx`, `mlp_backward.ptx`, `cast.ptx`, `add.ptx`.

use super::{code, wide};
use crate::gpu::{Arg, File, Launch, Module};
use crate::{Activation, DType};

/// Threads of a block.
const THREADS: u32 = 256;

/// Grid and block for rows of `columns`, and whether a thread takes four of them.
fn cover(n: u32, columns: u32) -> ([u32; 3], [u32; 3], u32) {
    let wide = u32::from(wide(columns) > 0);
    let work = if wide == 1 { columns / 4 } else { columns };
    let threads = work.next_multiple_of(super::WARP).min(THREADS);
    ([n, work.div_ceil(threads), 1], [threads, 1, 1], wide)
}

/// `out = activation(gate) * up`.
#[derive(Clone, Copy, Debug)]
pub struct Glu {
    /// The activation of the gate.
    pub activation: Activation,
    /// `[n, 2 ffn]` of `dtype`: gate first.
    pub gate_up: u64,
    /// `[n, ffn]` of `dtype`.
    pub out: u64,
    /// Rows.
    pub n: u32,
    /// Columns of the output.
    pub ffn: u32,
    /// The type of both.
    pub dtype: DType,
}

impl Glu {
    /// The launch.
    pub fn launch(&self) -> Launch {
        let (grid, block, wide) = cover(self.n, self.ffn);
        Launch {
            module: Module::new(File::Glu),
            entry: "glu",
            grid,
            block,
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.gate_up),
                Arg::Ptr(self.out),
                Arg::U32(self.ffn),
                Arg::U32(wide),
                Arg::U32(code(self.dtype)),
                gelu(self.activation),
            ],
        }
    }
}

/// The kernels' code for an activation.
fn gelu(activation: Activation) -> Arg {
    Arg::U32(u32::from(activation == Activation::GeluTanh))
}

/// The gradient of `gate_up`, from that of `activation(gate) * up`.
#[derive(Clone, Copy, Debug)]
pub struct MlpBackward {
    /// The activation of the gate.
    pub activation: Activation,
    /// `[n, 2 ffn]`, f32: gate first.
    pub gate_up: u64,
    /// `[n, ffn]`, f32.
    pub d: u64,
    /// `[n, 2 ffn]`, f32.
    pub out: u64,
    /// Rows.
    pub n: u32,
    /// Columns of `d`.
    pub ffn: u32,
}

impl MlpBackward {
    /// The launch.
    pub fn launch(&self) -> Launch {
        let (grid, block, wide) = cover(self.n, self.ffn);
        Launch {
            module: Module::new(File::MlpBackward),
            entry: "mlp_backward",
            grid,
            block,
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.gate_up),
                Arg::Ptr(self.d),
                Arg::Ptr(self.out),
                Arg::U32(self.ffn),
                Arg::U32(wide),
                gelu(self.activation),
            ],
        }
    }
}

/// `out = x`, rounded.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    /// `[n, width]`, f32.
    pub x: u64,
    /// `[n, width]` of `dtype`.
    pub out: u64,
    /// Rows.
    pub n: u32,
    /// Columns.
    pub width: u32,
    /// The type of the output.
    pub dtype: DType,
}

impl Cast {
    /// The launch.
    pub fn launch(&self) -> Launch {
        let (grid, block, wide) = cover(self.n, self.width);
        Launch {
            module: Module::new(File::Cast),
            entry: "cast",
            grid,
            block,
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.x),
                Arg::Ptr(self.out),
                Arg::U32(self.width),
                Arg::U32(wide),
                Arg::U32(code(self.dtype)),
            ],
        }
    }
}

/// `out[i] += scale * x[i]`, or the same `x` added to each row.
#[derive(Clone, Copy, Debug)]
pub struct Add {
    /// `[n, width]` of `dtype`.
    pub out: u64,
    /// `[n, width]`, f32, or `[width]` for a bias.
    pub x: u64,
    /// Whether `x` is a bias.
    pub bias: bool,
    /// The factor of `x`.
    pub scale: f32,
    /// Rows.
    pub n: u32,
    /// Columns.
    pub width: u32,
    /// The type of the output.
    pub dtype: DType,
}

impl Add {
    /// The launch.
    pub fn launch(&self) -> Launch {
        let (grid, block, wide) = cover(self.n, self.width);
        Launch {
            module: Module::new(File::Add),
            entry: "add",
            grid,
            block,
            shared_bytes: 0,
            args: vec![
                Arg::Ptr(self.out),
                Arg::Ptr(self.x),
                Arg::U32(if self.bias { 0 } else { self.width }),
                Arg::U32(self.width),
                Arg::U32(wide),
                Arg::F32(self.scale),
                Arg::U32(code(self.dtype)),
            ],
        }
    }
}
