//! Packing a weight matrix, with and without conversion. The code is the same on every path.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selfie_benches::{LLAMA_2_7B, TINYLLAMA, Weights, settings};
use selfie_kernels::{Backend, Cpu, CpuOptions, DType};

fn pack(c: &mut Criterion) {
    let cpu = Cpu::new(CpuOptions::default()).expect("a CPU backend");
    for model in [TINYLLAMA, LLAMA_2_7B] {
        let mut group = c.benchmark_group(format!("pack down of {}", model.name));
        for (stored, dtype) in [
            (DType::Bf16, DType::Bf16),
            (DType::F16, DType::F16),
            (DType::F32, DType::F32),
            (DType::F32, DType::Bf16),
            (DType::Bf16, DType::F32),
        ] {
            let source = Weights::new(model.d_model, model.ffn, stored);
            let values = model.d_model * model.ffn;
            group.throughput(Throughput::Bytes((values * stored.size()) as u64));
            let id = BenchmarkId::new(stored.to_string(), format!("as {dtype}"));
            group.bench_function(id, |b| {
                b.iter(|| cpu.matrix(&[&source], dtype).expect("it fits"))
            });
        }
    }
}

criterion_group!(name = benches; config = settings(); targets = pack);
criterion_main!(benches);
