//! All products of a decode step of few rows, beside a plain parallel read of as many bytes. Like a model's weights,
//! these are larger than any cache.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use selfie_benches::{Model, SMOLLM2, TINYLLAMA, Weights, acts, cpus, settings};
use selfie_kernels::{Backend, BlockFormat, Cpu, CpuMatrix, DType, Format, Result};

/// Weights to read in a step, at least.
const BYTES: usize = 192 << 20;

fn few_rows(c: &mut Criterion) {
    let cpus = cpus().expect("a CPU backend");
    for model in [&SMOLLM2, &TINYLLAMA] {
        for format in [
            Format::Plain(DType::Bf16),
            Format::Blocks(BlockFormat::Q8_0),
            Format::Blocks(BlockFormat::Q5_0),
            Format::Blocks(BlockFormat::Q4_0),
        ] {
            bench(c, &cpus, model, format).expect("shapes fit");
        }
    }
}

fn bench(c: &mut Criterion, cpus: &[Cpu], model: &Model, format: Format) -> Result<()> {
    let (d, ffn, shape) = (model.d_model, model.ffn, model.shape);
    let products = [
        (d, shape.qkv_dim()),
        (shape.q_dim(), d),
        (d, 2 * ffn),
        (ffn, d),
    ];
    let sources = products.map(|(k, width)| Weights::new(width, k, DType::Bf16));
    let mut layers: Vec<Vec<CpuMatrix>> = Vec::new();
    let mut bytes = 0;
    while bytes < BYTES {
        let pack = |source| cpus[0].stack(&[(source as _, format)]);
        let layer = sources.iter().map(pack).collect::<Result<Vec<_>>>()?;
        bytes += layer.iter().map(CpuMatrix::bytes).sum::<usize>();
        layers.push(layer);
    }
    let operand = match format {
        Format::Plain(dtype) => dtype,
        Format::Blocks(_) => DType::F32,
    };

    let mut group = c.benchmark_group(format!("few rows of {}", model.name));
    group.throughput(Throughput::Bytes(bytes as u64));
    let plain = vec![1u64; bytes / 8];
    let id = BenchmarkId::new("read", format!("the bytes of {format}"));
    group.bench_function(id, |b| {
        b.iter(|| black_box(plain.par_iter().sum::<u64>()));
    });
    for cpu in cpus {
        for n in [1, 2, 4, 6, 8, 10, 12, 15] {
            let operands = products.map(|(k, _)| acts(cpu, n, k, operand));
            let outputs = products.map(|(_, width)| cpu.rows(n, width));
            let mut buffers = Vec::new();
            for (a, out) in operands.into_iter().zip(outputs) {
                buffers.push((a?, out?));
            }
            let id = BenchmarkId::new(cpu.path().name(), format!("{format}, {n} rows"));
            group.bench_function(id, |b| {
                b.iter(|| {
                    for layer in &layers {
                        for (w, (a, out)) in layer.iter().zip(&mut buffers) {
                            cpu.linear(a, w, None, out).expect("shapes fit");
                        }
                    }
                });
            });
        }
    }
    Ok(())
}

criterion_group!(name = benches; config = settings(); targets = few_rows);
criterion_main!(benches);
