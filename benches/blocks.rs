//! `linear` with quantized weights, beside bf16: the larger products of an MLP, for one row, a few, and many.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selfie_benches::{Model, SMOLLM2, TINYLLAMA, Weights, acts, cpus, settings};
use selfie_kernels::{Backend, BlockFormat, Cpu, DType, Format, Result};

const FORMATS: [Format; 6] = [
    Format::Plain(DType::Bf16),
    Format::Blocks(BlockFormat::Q8_0),
    Format::Blocks(BlockFormat::Q4_0),
    Format::Blocks(BlockFormat::Q4_1),
    Format::Blocks(BlockFormat::Q4K),
    Format::Blocks(BlockFormat::Q6K),
];

fn blocks(c: &mut Criterion) {
    let cpus = cpus().expect("a CPU backend");
    for model in [&SMOLLM2, &TINYLLAMA] {
        bench(c, &cpus, model).expect("shapes fit");
    }
}

fn bench(c: &mut Criterion, cpus: &[Cpu], model: &Model) -> Result<()> {
    let (k, width) = (model.ffn, model.d_model);
    let mut group = c.benchmark_group(format!("linear in blocks, down of {}", model.name));
    let weights = Weights::new(width, k, DType::Bf16);
    for format in FORMATS {
        let packed = cpus[0].stack(&[(&weights, format)])?;
        let operand = match format {
            Format::Plain(dtype) => dtype,
            Format::Blocks(_) => DType::F32,
        };
        // The portable path is meant for reading, not for speed.
        for cpu in cpus.iter().filter(|cpu| cpu.path().name() != "portable") {
            for n in [1, 8, 64] {
                let a = acts(cpu, n, k, operand)?;
                let mut out = cpu.rows(n, width)?;
                group.throughput(Throughput::Elements((2 * n * k * width) as u64));
                let id = BenchmarkId::new(cpu.path().name(), format!("{format}, {n} rows"));
                group.bench_function(id, |b| {
                    b.iter(|| cpu.linear(&a, &packed, None, &mut out).expect("shapes fit"));
                });
            }
        }
    }
    Ok(())
}

criterion_group!(name = benches; config = settings(); targets = blocks);
criterion_main!(benches);
