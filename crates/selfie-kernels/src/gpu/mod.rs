//! Everything in a GPU backend except its driver: buffers, checks, launch plans.
//!
//! [`Gpu`] is a [`Backend`](crate::Backend) over any [`Driver`]. A driver allocates memory, copies, runs the kernels of
//! `kernels/*.ptx` and multiplies matrices. `Cuda` is the driver for NVIDIA GPUs (feature `cuda`, on by default).
//! [`plan`] says how each kernel is launched, in functions that touch no device.

mod backend;
mod buffers;
#[cfg(feature = "cuda")]
mod cuda;
mod driver;
mod few_rows;
mod forward;
mod head;
mod kv;
mod launch;
mod load;
pub mod plan;
mod probe_ops;
mod scratch;
mod tally;
pub mod template;
mod train;

pub use backend::Gpu;
pub use buffers::{GpuActs, GpuBatch, GpuMatrix, GpuRows, GpuVector};
#[cfg(feature = "cuda")]
pub use cuda::{Cuda, CudaDriver, CudaOptions, KernelUse, Timed};
pub use driver::{Driver, Gemm, WeightOrder};
pub use kv::GpuKv;
pub use launch::{Arg, File, Launch, Module};
pub use tally::GpuTally;
