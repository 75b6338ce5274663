//! Golden checkpoints and PyTorch's results on them; see `golden/README.md`.

pub mod agree;

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use selfie_kernels::{Backend, Cpu, CpuOptions, CpuPath, DType};
use selfie_llama::{Checkpoint, Llama, LlamaConfig};
use serde_json::Value;

pub const GOLDEN: [&str; 2] = ["llama2-mha", "llama3-gqa"];

/// Checkpoints of other families. They have no `pre_mlp` and `residual`, whose place differs there.
pub const FAMILIES: [&str; 11] = [
    "families/gemma2",
    "families/gemma3",
    "families/granite",
    "families/mistral-window",
    "families/olmo2",
    "families/olmo3",
    "families/phi3",
    "families/qwen2-window",
    "families/qwen3",
    "families/qwen3-tied-window",
    "families/smollm3",
];

/// The folder of a golden checkpoint. `SELFIE_GOLDEN` says where the checkpoints are if the sources are elsewhere.
pub fn dir(name: &str) -> PathBuf {
    let golden = match std::env::var_os("SELFIE_GOLDEN") {
        Some(golden) => PathBuf::from(golden),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../selfie-llama/tests/golden"),
    };
    golden.join(name)
}

pub fn cpu(threads: usize) -> Cpu {
    Cpu::new(CpuOptions {
        threads: Some(threads),
        path: None,
    })
    .unwrap()
}

/// One CPU for each path that this machine has.
pub fn cpus(threads: usize) -> Vec<Cpu> {
    let paths = CpuPath::available().into_iter();
    let options = paths.map(|path| CpuOptions {
        threads: Some(threads),
        path: Some(path),
    });
    options.map(|options| Cpu::new(options).unwrap()).collect()
}

/// A golden checkpoint, computed in `dtype` (`None`: as stored).
pub fn load(name: &str, dtype: Option<DType>, threads: usize) -> Llama<Cpu> {
    load_on(cpu(threads), name, dtype)
}

/// The same on any device.
pub fn load_on<B: Backend>(backend: B, name: &str, dtype: Option<DType>) -> Llama<B> {
    let dir = dir(name);
    let config = LlamaConfig::open(&dir).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    Llama::load(backend, config, &checkpoint, dtype, |_| {}).unwrap()
}

pub fn golden(name: &str) -> Value {
    let json = std::fs::read(dir(name).join("golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

/// Tensors of `golden.safetensors`, all f32.
pub struct Tensors(Vec<u8>);

impl Tensors {
    pub fn open(name: &str) -> Self {
        Self(std::fs::read(dir(name).join("golden.safetensors")).unwrap())
    }

    pub fn get(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let words = tensor.data().as_chunks::<4>().0;
        words.iter().map(|&w| f32::from_le_bytes(w)).collect()
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

pub fn floats(value: &Value) -> Vec<f32> {
    let floats = value.as_array().unwrap().iter();
    floats.map(|x| x.as_f64().unwrap() as f32).collect()
}

/// `|a - b| <= 1e-4 + 1e-4 |b|` for all values.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            (a - b).abs() <= 1e-4 + 1e-4 * b.abs(),
            "{what}: value {i} is {a}, expected {b}"
        );
    }
}
