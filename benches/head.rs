//! The output head: best token and score of a token.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selfie_benches::{LLAMA_2_7B, Model, TINYLLAMA, Weights, acts, cpus, settings};
use selfie_kernels::{Backend, Cpu, DType, LogitMap, Result};

fn head(c: &mut Criterion) {
    let cpus = cpus().expect("a CPU backend");
    bench(c, &cpus, &TINYLLAMA).expect("shapes fit");
    bench(c, &cpus[..1], &LLAMA_2_7B).expect("shapes fit");
}

fn bench(c: &mut Criterion, cpus: &[Cpu], model: &Model) -> Result<()> {
    let mut group = c.benchmark_group(format!("head of {}", model.name));
    let dtype = DType::Bf16;
    let head = Weights::new(model.vocab, model.d_model, dtype).pack(&cpus[0])?;
    for cpu in cpus {
        for n in [1, 32] {
            let a = acts(cpu, n, model.d_model, dtype)?;
            let tokens: Vec<u32> = (0..n as u32).map(|i| i * 997).collect();
            group.throughput(match n {
                1 => Throughput::Bytes(head.bytes() as u64),
                _ => Throughput::Elements((2 * n * model.d_model * model.vocab) as u64),
            });
            let id = |op| BenchmarkId::new(cpu.path().name(), format!("{op}, {n} rows"));
            group.bench_function(id("best"), |b| {
                b.iter(|| {
                    cpu.head_best(&a, &head, &LogitMap::PLAIN)
                        .expect("shapes fit")
                })
            });
            group.bench_function(id("score"), |b| {
                b.iter(|| {
                    cpu.head_score(&a, &head, &LogitMap::PLAIN, &tokens)
                        .expect("shapes fit")
                });
            });
        }
    }
    Ok(())
}

criterion_group!(name = benches; config = settings(); targets = head);
criterion_main!(benches);
