//! Shapes, weights and settings for all benches.
//!
//! A bench's id is `op of a model / instruction-set path / what runs`. Throughput is bytes where memory is the
//! limit (one row against a matrix, row-wise ops, packing), and elements, meaning floating-point
//! operations, where arithmetic is.

use std::io;
use std::ops::Range;
use std::time::Duration;

use criterion::Criterion;
use selfie_kernels::{
    Activation, AttnShape, Backend, Cpu, CpuActs, CpuMatrix, CpuOptions, CpuPath, CpuRows, DType,
    MatrixSource, Result,
};

/// The sizes of a model that determine the cost of its ops.
pub struct Model {
    /// Its usual name.
    pub name: &'static str,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Heads of its attention.
    pub shape: AttnShape,
    /// Vocabulary size.
    pub vocab: usize,
}

/// SmolLM2 135M.
pub const SMOLLM2: Model = Model {
    name: "smollm2-135m",
    d_model: 576,
    ffn: 1536,
    shape: AttnShape {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
    },
    vocab: 49_152,
};

/// TinyLlama 1.1B.
pub const TINYLLAMA: Model = Model {
    name: "tinyllama-1.1b",
    d_model: 2048,
    ffn: 5632,
    shape: AttnShape {
        heads: 32,
        kv_heads: 4,
        head_dim: 64,
    },
    vocab: 32_000,
};

/// Llama 2 7B.
pub const LLAMA_2_7B: Model = Model {
    name: "llama-2-7b",
    d_model: 4096,
    ffn: 11_008,
    shape: AttnShape {
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
    },
    vocab: 32_000,
};

/// Few, short samples: kernels vary by a few percent, and a run over all of them should not take an hour.
pub fn settings() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
}

/// A backend on all cores for each path that this machine supports, fastest first.
pub fn cpus() -> Result<Vec<Cpu>> {
    let cpu = |path| {
        Cpu::new(CpuOptions {
            threads: None,
            path: Some(path),
        })
    };
    CpuPath::available().into_iter().map(cpu).collect()
}

/// Stored weights: random bits with an exponent that makes the values small and normal.
pub struct Weights {
    rows: usize,
    columns: usize,
    dtype: DType,
    bytes: Vec<u8>,
}

impl Weights {
    /// A matrix `[rows, columns]`.
    pub fn new(rows: usize, columns: usize, dtype: DType) -> Self {
        let mut bytes = vec![0; rows * columns * dtype.size()];
        // Keep sign and mantissa; set the exponent to that of 2^-6.
        let (keep, exponent) = match dtype {
            DType::F32 => (0x807f_ffff, 121 << 23),
            DType::Bf16 => (0x807f_807f, 121 << 23 | 121 << 7),
            DType::F16 => (0x83ff_83ff, 9 << 26 | 9 << 10),
        };
        let mut state = 1u32;
        for word in bytes.chunks_mut(4) {
            // Numerical Recipes' quick generator; its high bits are good enough for sign bits.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bits = state & keep | exponent;
            word.copy_from_slice(&bits.to_le_bytes()[..word.len()]);
        }
        Self {
            rows,
            columns,
            dtype,
            bytes,
        }
    }

    /// Packs the matrix without conversion.
    pub fn pack(&self, cpu: &Cpu) -> Result<CpuMatrix> {
        cpu.matrix(&[self], self.dtype)
    }
}

impl MatrixSource for Weights {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let row = self.columns * self.dtype.size();
        read(&self.bytes[rows.start * row..rows.end * row]);
        Ok(())
    }
}

/// `n` rows of sine waves.
pub fn rows(cpu: &Cpu, n: usize, width: usize) -> Result<CpuRows> {
    let mut rows = cpu.rows(n, width)?;
    let values: Vec<f32> = (0..n * width).map(|i| (i as f32 * 0.7).sin()).collect();
    cpu.write_rows(&values, &mut rows)?;
    Ok(rows)
}

/// `n` rows of a GEMM operand.
pub fn acts(cpu: &Cpu, n: usize, width: usize, weights: DType) -> Result<CpuActs> {
    let mut acts = cpu.acts(n, width, weights)?;
    cpu.glu(Activation::Silu, &rows(cpu, n, 2 * width)?, &mut acts)?;
    Ok(acts)
}
