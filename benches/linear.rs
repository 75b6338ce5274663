//! `linear` on the two large products of an MLP.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selfie_benches::{LLAMA_2_7B, Model, TINYLLAMA, Weights, acts, cpus, settings};
use selfie_kernels::{Backend, Cpu, DType, Result};

fn linear(c: &mut Criterion) {
    let cpus = cpus().expect("a CPU backend");
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        bench(c, &cpus, &TINYLLAMA, dtype).expect("shapes fit");
    }
    // The other paths would show the same ratios, only slower.
    bench(c, &cpus[..1], &LLAMA_2_7B, DType::Bf16).expect("shapes fit");
}

fn bench(c: &mut Criterion, cpus: &[Cpu], model: &Model, dtype: DType) -> Result<()> {
    let products = [
        ("gate_up", model.d_model, 2 * model.ffn),
        ("down", model.ffn, model.d_model),
    ];
    for (name, k, width) in products {
        let mut group = c.benchmark_group(format!("linear {name} of {}", model.name));
        let weights = Weights::new(width, k, dtype).pack(&cpus[0])?;
        for cpu in cpus {
            for n in [1, 8, 64] {
                let a = acts(cpu, n, k, dtype)?;
                let mut out = cpu.rows(n, width)?;
                group.throughput(match n {
                    1 => Throughput::Bytes(weights.bytes() as u64),
                    _ => Throughput::Elements((2 * n * k * width) as u64),
                });
                let id = BenchmarkId::new(cpu.path().name(), format!("{dtype}, {n} rows"));
                group.bench_function(id, |b| {
                    b.iter(|| {
                        cpu.linear(&a, &weights, None, &mut out)
                            .expect("shapes fit")
                    });
                });
            }
        }
    }
    Ok(())
}

criterion_group!(name = benches; config = settings(); targets = linear);
criterion_main!(benches);
