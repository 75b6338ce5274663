#![doc = include_str!("../README.md")]
//!
//! # Attention, op by op
//!
//! Attention over a prompt that two texts share, and one more token of each. [`Backend`] says in which order to call
//! the ops.
//!
//! ```
//! use selfie_kernels::{
//!     Attend, AttnShape, Backend, BatchRow, Cpu, CpuOptions, DType, KvLayout, Slot, reference,
//! };
//!
//! let cpu = Cpu::new(CpuOptions::default())?;
//! let shape = AttnShape {
//!     heads: 1,
//!     kv_heads: 1,
//!     head_dim: 2,
//! };
//! // One layer: a prefix of three positions, and two slots with two positions each.
//! let mut kv = cpu.kv(&KvLayout {
//!     kv_heads: shape.kv_heads,
//!     head_dim: shape.head_dim,
//!     prefixes: vec![3],
//!     own: vec![2],
//!     slots: 2,
//!     dtype: DType::F32,
//! })?;
//! // Both slots continue all of the prefix.
//! cpu.kv_share(&mut kv, 0, 0, &[3])?;
//! cpu.kv_share(&mut kv, 1, 0, &[3])?;
//!
//! // The position of each row in this pass: the prompt, then position 3 of each slot.
//! let row = |slot, position| BatchRow {
//!     token: 0,
//!     slot,
//!     position,
//! };
//! let mut rows: Vec<BatchRow> = (0..3).map(|p| row(Slot::Prefix(0), p)).collect();
//! rows.extend([row(Slot::Branch(0), 3), row(Slot::Branch(1), 3)]);
//! let mut batch = cpu.batch(rows.len())?;
//! cpu.load_batch(&rows, &mut batch)?;
//!
//! // The query, key and value of each row. With queries of 0, all positions weigh the same.
//! let values = [1.0, 2.0, 3.0, 6.0, 10.0];
//! let qkv_values: Vec<f32> = values.iter().flat_map(|&v| [0.0, 0.0, 1.0, 1.0, v, -v]).collect();
//! let mut qkv = cpu.rows(rows.len(), shape.qkv_dim())?;
//! cpu.write_rows(&qkv_values, &mut qkv)?;
//! let mut rope = cpu.rows(4, shape.head_dim)?;
//! cpu.write_rows(&reference::rope_table(4, shape.head_dim, 10_000.0), &mut rope)?;
//!
//! let layer = 0;
//! cpu.rope_append(&shape, Some(&rope), &batch, layer, &mut qkv, &mut kv)?;
//! let mut out = cpu.acts(rows.len(), shape.q_dim(), DType::F32)?;
//! cpu.attend(&Attend::new(shape), &qkv, &batch, layer, &kv, &mut out)?;
//!
//! // The last two rows: the means of 1, 2, 3 and 6, and of 1, 2, 3 and 10.
//! assert_eq!(cpu.read_acts(&out, 3..5)?, [3.0, -3.0, 4.0, -4.0]);
//! # Ok::<(), selfie_kernels::KernelError>(())
//! ```
//!
//! # Where things are
//!
//! [`Backend`] lists the ops. [`Cpu`] implements them, and so does [`gpu::Gpu`] for any [`gpu::Driver`].
//! [`reference`](mod@reference) shows what each op computes, in a few lines of naive code. Model code is generic over
//! the backend and knows neither instruction sets nor devices.

mod backend;
mod batch;
mod checks;
mod cpu;
mod dtype;
mod element;
mod error;
mod format;
pub mod gpu;
mod last_words;
mod quantize;
pub mod reference;
mod source;

pub use backend::Backend;
pub use batch::{
    Activation, Adam, Attend, AttnShape, BatchRow, Best, InjectForm, InjectMode, Injection, Keep,
    KvLayout, LogitMap, Memory, Parts, Slot, TokenDraw,
};
pub use cpu::{
    Cpu, CpuActs, CpuBatch, CpuKv, CpuMatrix, CpuOptions, CpuPath, CpuRows, CpuTally, CpuVector,
};
pub use dtype::DType;
pub use error::{KernelError, Result};
pub use format::{BlockFormat, Format};
pub use last_words::LastWords;
pub use quantize::quantize;
pub use source::{MatrixSource, SliceMatrix};
