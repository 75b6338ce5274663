//! The ops that move rows: `embed`, and those of a probe, on 64 rows.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selfie_benches::{TINYLLAMA, Weights, rows, settings};
use selfie_kernels::{
    Backend, BatchRow, Cpu, CpuOptions, DType, InjectMode, Injection, Result, Slot,
};

const ROWS: usize = 64;

fn moving_rows(c: &mut Criterion) {
    bench(c).expect("shapes fit");
}

fn bench(c: &mut Criterion) -> Result<()> {
    let cpu = Cpu::new(CpuOptions::default())?;
    let (d, name) = (TINYLLAMA.d_model, TINYLLAMA.name);
    let src = rows(&cpu, ROWS, d)?;
    let mut dst = rows(&cpu, ROWS, d)?;
    let index: Vec<usize> = (0..ROWS).rev().collect();
    let table = Weights::new(TINYLLAMA.vocab, d, DType::Bf16).pack(&cpu)?;
    let mut batch = cpu.batch(ROWS)?;
    let tokens: Vec<BatchRow> = (0..ROWS as u32)
        .map(|i| BatchRow {
            token: i * 499,
            slot: Slot::Prefix(0),
            position: i,
        })
        .collect();
    cpu.load_batch(&tokens, &mut batch)?;

    let mut group = c.benchmark_group(format!("rows of {name}"));
    group.throughput(Throughput::Bytes((ROWS * d * 4) as u64));
    let id = |op: &str| BenchmarkId::new(op, format!("{ROWS} rows"));
    group.bench_function(id("embed"), |b| {
        b.iter(|| {
            cpu.embed(&table, &batch, 1.0, &mut dst)
                .expect("shapes fit")
        });
    });
    group.bench_function(id("gather"), |b| {
        b.iter(|| {
            cpu.clear(&mut dst);
            cpu.gather(&src, &index, &mut dst).expect("shapes fit");
        });
    });
    let mut tally = cpu.tally()?;
    for mode in InjectMode::ALL {
        let writes: Vec<Injection> = index
            .iter()
            .map(|&row| Injection {
                row,
                vector: 0,
                mode,
                strength: 0.5,
            })
            .collect();
        group.bench_function(id(&format!("inject, {mode}")), |b| {
            b.iter(|| {
                cpu.inject(&src, &writes, &mut dst, &mut tally)
                    .expect("shapes fit")
            });
        });
    }
    group.finish();
    Ok(())
}

criterion_group!(name = benches; config = settings(); targets = moving_rows);
criterion_main!(benches);
