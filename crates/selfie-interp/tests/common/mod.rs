//! The golden checkpoints of selfie-llama; see `golden/README.md` there.
#![allow(dead_code, unreachable_pub)]

pub mod agree;
pub mod naive;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use selfie_interp::{Cell, Options, Row, interpret};
use selfie_kernels::{Backend, Cpu, CpuOptions, DType};
use selfie_llama::{Checkpoint, Llama, LlamaConfig, Tokenizer};
use serde_json::Value;

pub const GOLDEN: [&str; 2] = ["llama2-mha", "llama3-gqa"];

/// The folder of a golden checkpoint; `SELFIE_GOLDEN` says where they are when the sources are elsewhere.
pub fn dir(name: &str) -> PathBuf {
    let golden = match std::env::var_os("SELFIE_GOLDEN") {
        Some(golden) => PathBuf::from(golden),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../selfie-llama/tests/golden"),
    };
    golden.join(name)
}

pub fn golden(name: &str) -> Value {
    let json = std::fs::read(dir(name).join("golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// A golden checkpoint, computed in `dtype` (`None` = as stored), and its tokenizer.
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
    interpret(model, tokenizer, prompts, cells, options, &mut sink).unwrap();
    rows
}

pub fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

pub fn floats(value: &Value) -> Vec<f32> {
    let floats = value.as_array().unwrap().iter();
    floats.map(|x| x.as_f64().unwrap() as f32).collect()
}
