//! Everything of a GPU backend but its driver: buffers, checks, launch plans.
//!
//! [`Gpu`] is a [`Backend`](crate::Backend) over any [`Driver`]; a driver allocates memory, copies, runs the kernels of
//! `kernels/*.ptx` and multiplies matrices. [`plan`] says how each kernel is launched, in functions that
//! touch no device.

mod driver;
mod launch;
pub mod plan;
pub mod template;

pub use driver::{Driver, Gemm, WeightOrder};
pub use launch::{Arg, File, Launch, Module};
