//! The golden checkpoints of selfie-llama; see `golden/README.md` there.

pub mod agree;
pub mod drafts;
pub mod naive;

use std::ops::ControlFlow;
use std::path::Path;

use selfie_interp::{Cell, Options, Row, interpret};
use selfie_kernels::{Backend, Cpu, CpuOptions, DType};
use selfie_llama::{Checkpoint, Llama, LlamaConfig, Tokenizer};

pub use crate::llama::{FAMILIES, GOLDEN, dir, floats, golden, ids};

/// A golden checkpoint, computed in `dtype` (`None`: as stored), and its tokenizer.
pub fn load(name: &str, dtype: Option<DType>, threads: usize) -> (Llama<Cpu>, Tokenizer) {
    load_dir(&dir(name), dtype, threads)
}

pub fn load_dir(dir: &Path, dtype: Option<DType>, threads: usize) -> (Llama<Cpu>, Tokenizer) {
    let cpu = Cpu::new(CpuOptions {
        threads: Some(threads),
        path: None,
    })
    .unwrap();
    load_on(cpu, dir, dtype)
}

/// The same on any device.
pub fn load_on<B: Backend>(backend: B, dir: &Path, dtype: Option<DType>) -> (Llama<B>, Tokenizer) {
    let config = LlamaConfig::open(dir).unwrap();
    let checkpoint = Checkpoint::open(dir).unwrap();
    let model = Llama::load(backend, config, &checkpoint, dtype, |_| {}).unwrap();
    (model, Tokenizer::open(dir).unwrap())
}

/// All rows of a sweep.
pub fn collect<B: Backend>(
    model: &Llama<B>,
    tokenizer: &Tokenizer,
    prompts: &[&str],
    cells: &[Cell],
    options: &Options,
) -> Vec<Row> {
    let mut rows = vec![];
    let mut sink = |row: Row| {
        rows.push(row);
        ControlFlow::Continue(())
    };
    let swept = interpret(model, tokenizer, prompts, cells, options, &mut sink).unwrap();
    assert_eq!(swept.rows, rows.len());
    rows
}
