//! `attend` in a prompt, in one long sequence, and in a sweep whose cells share a prompt.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use selfie_benches::{LLAMA_2_7B, Model, TINYLLAMA, cpus, rows, settings};
use selfie_kernels::{Attend, Backend, BatchRow, Cpu, DType, KvLayout, Result, Slot};

/// The rows that attend, after a history in the cache.
struct Work {
    name: &'static str,
    /// Rows of the shared segment, and whether they are the ones that attend.
    shared: usize,
    prompt: bool,
    /// Branches, whose last rows attend, and their own positions.
    slots: usize,
    own: usize,
    /// As [`Attend`] has them.
    window: Option<usize>,
    softcap: Option<f32>,
}

const WORKS: [Work; 6] = [
    Work {
        name: "prompt of 128",
        shared: 128,
        prompt: true,
        slots: 0,
        own: 0,
        window: None,
        softcap: None,
    },
    Work {
        name: "1 row after 2047",
        shared: 0,
        prompt: false,
        slots: 1,
        own: 2048,
        window: None,
        softcap: None,
    },
    Work {
        name: "32 rows after 128 shared and 31 own",
        shared: 128,
        prompt: false,
        slots: 32,
        own: 32,
        window: None,
        softcap: None,
    },
    Work {
        name: "prompt of 128, softcap",
        shared: 128,
        prompt: true,
        slots: 0,
        own: 0,
        window: None,
        softcap: Some(50.0),
    },
    Work {
        name: "1 row after 2047, window of 512",
        shared: 0,
        prompt: false,
        slots: 1,
        own: 2048,
        window: Some(512),
        softcap: None,
    },
    Work {
        name: "1 row after 2047, softcap",
        shared: 0,
        prompt: false,
        slots: 1,
        own: 2048,
        window: None,
        softcap: Some(50.0),
    },
];

fn attention(c: &mut Criterion) {
    let cpus = cpus().expect("a CPU backend");
    for model in [TINYLLAMA, LLAMA_2_7B] {
        let mut group = c.benchmark_group(format!("attend of {}", model.name));
        for cpu in &cpus {
            for work in &WORKS {
                for dtype in [DType::F32, DType::Bf16, DType::F16] {
                    let mut attend = Bench::new(cpu, &model, work, dtype).expect("shapes fit");
                    group.throughput(Throughput::Elements(attend.operations));
                    let name = format!("{}, {dtype} keys", work.name);
                    let id = BenchmarkId::new(cpu.path().name(), name);
                    group.bench_function(id, |b| b.iter(|| attend.run().expect("shapes fit")));
                }
            }
        }
    }
}

/// A filled cache and the rows that attend to it.
struct Bench<'a> {
    cpu: &'a Cpu,
    attend: Attend,
    kv: <Cpu as Backend>::Kv,
    batch: <Cpu as Backend>::Batch,
    qkv: <Cpu as Backend>::Rows,
    out: <Cpu as Backend>::Acts,
    operations: u64,
}

impl<'a> Bench<'a> {
    fn new(cpu: &'a Cpu, model: &'a Model, work: &Work, dtype: DType) -> Result<Self> {
        let shape = model.shape;
        let mut kv = cpu.kv(&KvLayout {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            prefixes: vec![work.shared],
            own: vec![work.own],
            slots: work.slots,
            dtype,
        })?;
        for slot in 0..work.slots {
            cpu.kv_share(&mut kv, slot, 0, &[work.shared])?;
        }
        let end = work.shared + work.own;
        let rope = rows(cpu, end, shape.head_dim)?;
        let shared = (0..work.shared).map(|p| row(Slot::Prefix(0), p));
        let own = (0..work.slots)
            .flat_map(|slot| (work.shared..end).map(move |p| row(Slot::Branch(slot as u32), p)));
        let all: Vec<BatchRow> = shared.chain(own).collect();
        let mut batch = cpu.batch(all.len())?;
        cpu.load_batch(&all, &mut batch)?;
        let mut qkv = rows(cpu, all.len(), shape.qkv_dim())?;
        cpu.rope_append(&shape, Some(&rope), &batch, 0, &mut qkv, &mut kv)?;

        let attends = |row: &&BatchRow| work.prompt || row.position as usize == end - 1;
        let last: Vec<BatchRow> = all.iter().filter(attends).copied().collect();
        cpu.load_batch(&last, &mut batch)?;
        let attend = Attend {
            window: work.window,
            softcap: work.softcap,
            ..Attend::new(shape)
        };
        let keys = |row: &BatchRow| {
            let position = row.position as usize;
            position + 1 - attend.first(position)
        };
        let keys = last.iter().map(keys).sum::<usize>() as u64;
        Ok(Self {
            cpu,
            attend,
            kv,
            batch,
            qkv: rows(cpu, last.len(), shape.qkv_dim())?,
            out: cpu.acts(last.len(), shape.q_dim(), DType::Bf16)?,
            // A multiplication and an addition for each key and each value that a head reads.
            operations: 4 * keys * shape.q_dim() as u64,
        })
    }

    fn run(&mut self) -> Result<()> {
        self.cpu.attend(
            &self.attend,
            &self.qkv,
            &self.batch,
            0,
            &self.kv,
            &mut self.out,
        )
    }
}

fn row(slot: Slot, position: usize) -> BatchRow {
    BatchRow {
        token: 0,
        slot,
        position: position as u32,
    }
}

criterion_group!(name = benches; config = settings(); targets = attention);
criterion_main!(benches);
