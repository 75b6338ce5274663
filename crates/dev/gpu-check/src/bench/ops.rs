//! Single ops, compared with the bandwidth of a copy; attention's times are shown next to torch's.

use selfie_kernels::gpu::Cuda;
use selfie_kernels::{
    Activation, Attend, AttnShape, Backend, BatchRow, DType, InjectMode, Injection, KvLayout,
    Result, Slot, reference,
};

use crate::report::Report;
use crate::sizes::Sizes;
use crate::timing::{Time, time};

/// Sets of buffers used in turn; together they exceed the caches.
const SETS: usize = 4;

/// Heads of Llama 3.1 8B.
const GROUPED: AttnShape = AttnShape {
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
};

pub(crate) fn measure(cuda: &Cuda, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let side = sizes.rows;
    let copy = report.copy();
    let mut share = |name: &str, bytes: usize, time: Time| {
        let rate = bytes as f64 / time.device;
        let name = format!("{name} {side} x {side}");
        report.add(&format!("{name}, of copy"), 100.0 * rate / copy, "%");
        report.add(&format!("{name}, on the device"), time.device * 1e6, "us");
        report.add(&format!("{name}, on the host"), time.host * 1e6, "us");
    };
    let (f32s, bf16s) = (4 * side * side, 2 * side * side);

    let x = sets(cuda, side, side, DType::F32)?;
    let weight = cuda.vector(&vec![1.0; side])?;
    let mut acts = Vec::new();
    for _ in 0..SETS {
        acts.push(cuda.acts(side, side, DType::Bf16)?);
    }
    let s = time(cuda, |i| {
        cuda.rms_norm(&x[i % SETS], &weight, 1e-5, &mut acts[i % SETS])
    })?;
    share("rms_norm", f32s + bf16s, s);

    let writes: Vec<Injection> = (0..side)
        .map(|row| Injection {
            row,
            vector: side - 1 - row,
            mode: InjectMode::Replace,
            strength: 0.5,
        })
        .collect();
    let mut targets = sets(cuda, side, side, DType::F32)?;
    let mut tally = cuda.tally()?;
    let s = time(cuda, |i| {
        cuda.inject(&x[i % SETS], &writes, &mut targets[i % SETS], &mut tally)
    })?;
    cuda.check_tally(&mut tally)?;
    share("inject", 3 * f32s, s);
    drop((x, targets));

    let gate_up = sets(cuda, side, 2 * side, DType::Bf16)?;
    let s = time(cuda, |i| {
        cuda.glu(Activation::Silu, &gate_up[i % SETS], &mut acts[i % SETS])
    })?;
    share("swiglu", 3 * bf16s, s);
    drop((gate_up, acts));

    let shape = AttnShape {
        heads: side / 128,
        kv_heads: side / 128,
        head_dim: 128,
    };
    let mut qkv = sets(cuda, side, shape.qkv_dim(), DType::Bf16)?;
    let mut cache = Cache::new(cuda, shape, 1, side)?;
    cache.load(cuda, &cache.rows(0..side))?;
    let s = time(cuda, |i| cache.append(cuda, &mut qkv[i % SETS]))?;
    // Queries are rotated in place and keys on their way to the cache.
    share("rope_append", 6 * bf16s, s);
    drop((qkv, cache));

    for (branches, tokens) in sizes.attention {
        let (prompt, decode) = attention(cuda, branches, tokens)?;
        report.add(
            &format!("attention_prompt {branches} x {tokens}"),
            prompt * 1e6,
            "us",
        );
        report.add(
            &format!("attention_decode {branches} x {tokens}"),
            decode * 1e6,
            "us",
        );
    }
    Ok(())
}

/// Rows of waves, `[rows, width]` of `dtype`.
fn sets(
    cuda: &Cuda,
    rows: usize,
    width: usize,
    dtype: DType,
) -> Result<Vec<<Cuda as Backend>::Rows>> {
    let values: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 0.7).sin()).collect();
    let set = |_| {
        let mut set = cuda.projections(rows, width, dtype)?;
        cuda.write_rows(&values, &mut set)?;
        Ok(set)
    };
    (0..SETS).map(set).collect()
}

/// The time of a causal prompt of each branch, and of one more token of each.
fn attention(cuda: &Cuda, branches: usize, tokens: usize) -> Result<(f64, f64)> {
    let mut cache = Cache::new(cuda, GROUPED, branches, tokens)?;
    let width = GROUPED.qkv_dim();
    let rows = cache.rows(0..tokens);
    let values: Vec<f32> = (0..rows.len() * width)
        .map(|i| (i as f32 * 0.7).sin())
        .collect();
    let mut qkv = cuda.projections(rows.len(), width, DType::Bf16)?;
    let mut out = cuda.acts(rows.len(), GROUPED.q_dim(), DType::Bf16)?;
    cuda.write_rows(&values, &mut qkv)?;
    cache.load(cuda, &rows)?;
    cache.append(cuda, &mut qkv)?;
    let prompt = time(cuda, |_| cache.attend(cuda, &qkv, &mut out))?;

    let last = cache.rows(tokens - 1..tokens);
    cuda.write_rows(&values[..last.len() * width], &mut qkv)?;
    cache.load(cuda, &last)?;
    let decode = time(cuda, |_| cache.attend(cuda, &qkv, &mut out))?;
    Ok((prompt.device, decode.device))
}

/// One layer's cache without a prefix, and a batch.
struct Cache {
    shape: AttnShape,
    branches: usize,
    kv: <Cuda as Backend>::Kv,
    rope: <Cuda as Backend>::Rows,
    batch: <Cuda as Backend>::Batch,
}

impl Cache {
    fn new(cuda: &Cuda, shape: AttnShape, branches: usize, tokens: usize) -> Result<Self> {
        let layout = KvLayout {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            prefixes: vec![],
            own: vec![tokens],
            slots: branches,
            dtype: DType::Bf16,
        };
        let mut rope = cuda.rows(tokens, shape.head_dim)?;
        let table = reference::rope_table(tokens, shape.head_dim, 10_000.0);
        cuda.write_rows(&table, &mut rope)?;
        Ok(Self {
            shape,
            branches,
            kv: cuda.kv(&layout)?,
            rope,
            batch: cuda.batch(branches * tokens)?,
        })
    }

    /// The rows of all branches at these positions.
    fn rows(&self, positions: std::ops::Range<usize>) -> Vec<BatchRow> {
        let of_branch = |slot: usize| {
            positions.clone().map(move |position| BatchRow {
                token: 0,
                slot: Slot::Branch(slot as u32),
                position: position as u32,
            })
        };
        (0..self.branches).flat_map(of_branch).collect()
    }

    fn load(&mut self, cuda: &Cuda, rows: &[BatchRow]) -> Result<()> {
        cuda.load_batch(rows, &mut self.batch)
    }

    fn append(&mut self, cuda: &Cuda, qkv: &mut <Cuda as Backend>::Rows) -> Result<()> {
        let rope = Some(&self.rope);
        cuda.rope_append(&self.shape, rope, &self.batch, 0, qkv, &mut self.kv)
    }

    fn attend(
        &self,
        cuda: &Cuda,
        qkv: &<Cuda as Backend>::Rows,
        out: &mut <Cuda as Backend>::Acts,
    ) -> Result<()> {
        cuda.attend(&Attend::new(self.shape), qkv, &self.batch, 0, &self.kv, out)
    }
}
