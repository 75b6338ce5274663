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
mod traffic;
mod warp;

pub(crate) use launch::launch;
pub use launch::{Arg, Config};
