//! Runs kernels.

mod block;
mod collective;
mod convert;
mod copy;
mod float;
mod half;
mod integer;
mod launch;
mod matrix;
mod memory;
mod regs;
mod round;
mod tensor;
mod traffic;
mod warp;

pub use launch::{Arg, Config};
pub(crate) use launch::{Settings, launch};
pub use tensor::TensorCores;
