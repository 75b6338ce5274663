//! The op set of a LLaMA.
//!
//! [`Backend`] lists the ops on one page; [`Cpu`] implements them; [`reference`](mod@reference) says in
//! a few lines of naive f32 what each computes. Model code is generic over the backend and knows
//! neither instruction sets nor devices.

mod backend;
mod batch;
mod checks;
mod cpu;
mod dtype;
mod element;
mod error;
pub mod gpu;
pub mod reference;

pub use backend::Backend;
pub use batch::{
    Adam, AttnShape, BatchRow, Best, InjectForm, InjectMode, Injection, Keep, KvLayout,
    MatrixSource, Memory, Slot,
};
pub use cpu::{
    Cpu, CpuActs, CpuBatch, CpuKv, CpuMatrix, CpuOptions, CpuPath, CpuRows, CpuTally, CpuVector,
};
pub use dtype::DType;
pub use error::{KernelError, Result};
