//! The ops that pass over rows once.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selfie_benches::{LLAMA_2_7B, Model, TINYLLAMA, cpus, rows, settings};
use selfie_kernels::{Activation, Backend, BatchRow, Cpu, DType, KvLayout, Result, Slot};

const ROWS: [usize; 2] = [1, 64];

fn norm_swiglu_rope(c: &mut Criterion) {
    let cpus = cpus().expect("a CPU backend");
    for model in [TINYLLAMA, LLAMA_2_7B] {
        for cpu in &cpus {
            for n in ROWS {
                rms_norm(c, cpu, &model, n).expect("shapes fit");
                swiglu(c, cpu, &model, n).expect("shapes fit");
                rope_append(c, cpu, &model, n).expect("shapes fit");
            }
        }
    }
}

/// Runs `op`, which reads and writes `bytes`.
fn bench(
    c: &mut Criterion,
    name: &str,
    cpu: &Cpu,
    model: &Model,
    n: usize,
    bytes: usize,
    mut op: impl FnMut() -> Result<()>,
) {
    let mut group = c.benchmark_group(format!("{name} of {}", model.name));
    group.throughput(Throughput::Bytes(bytes as u64));
    let id = BenchmarkId::new(cpu.path().name(), format!("{n} rows"));
    group.bench_function(id, |b| b.iter(|| op().expect("shapes fit")));
}

fn rms_norm(c: &mut Criterion, cpu: &Cpu, model: &Model, n: usize) -> Result<()> {
    let width = model.d_model;
    let x = rows(cpu, n, width)?;
    let weight = cpu.vector(&vec![1.0; width])?;
    let mut out = cpu.acts(n, width, DType::Bf16)?;
    bench(c, "rms_norm", cpu, model, n, n * width * (4 + 2), || {
        cpu.rms_norm(&x, &weight, 1e-5, &mut out)
    });
    Ok(())
}

fn swiglu(c: &mut Criterion, cpu: &Cpu, model: &Model, n: usize) -> Result<()> {
    let gate_up = rows(cpu, n, 2 * model.ffn)?;
    let mut out = cpu.acts(n, model.ffn, DType::Bf16)?;
    bench(c, "swiglu", cpu, model, n, n * model.ffn * (8 + 2), || {
        cpu.glu(Activation::Silu, &gate_up, &mut out)
    });
    Ok(())
}

/// A prompt's rows, each at its own position. Rotations accumulate, which does not change magnitudes.
fn rope_append(c: &mut Criterion, cpu: &Cpu, model: &Model, n: usize) -> Result<()> {
    let shape = &model.shape;
    let mut kv = cpu.kv(&KvLayout {
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        prefixes: vec![],
        own: vec![n],
        slots: 1,
        dtype: DType::F32,
    })?;
    let half = shape.head_dim / 2;
    let angles: Vec<f32> = (0..half).map(|i| i as f32).collect();
    let cos = angles.iter().map(|x| x.cos());
    let table: Vec<f32> = cos.chain(angles.iter().map(|x| x.sin())).collect();
    let mut rope = cpu.rows(n, shape.head_dim)?;
    cpu.write_rows(&table.repeat(n), &mut rope)?;
    let mut batch = cpu.batch(n)?;
    let prompt: Vec<BatchRow> = (0..n as u32)
        .map(|position| BatchRow {
            token: 0,
            slot: Slot::Branch(0),
            position,
        })
        .collect();
    cpu.load_batch(&prompt, &mut batch)?;
    let mut qkv = rows(cpu, n, shape.qkv_dim())?;
    // Queries and keys are read and written, keys and values written to the cache.
    let bytes = n * 4 * (2 * shape.q_dim() + 5 * shape.kv_dim());
    bench(c, "rope_append", cpu, model, n, bytes, || {
        cpu.rope_append(shape, Some(&rope), &batch, 0, &mut qkv, &mut kv)
    });
    Ok(())
}

criterion_group!(name = benches; config = settings(); targets = norm_swiglu_rope);
criterion_main!(benches);
