//! Single ops on the matrices of a shape.

use std::hint::black_box;
use std::time::Instant;

use selfie_benches::{Weights, acts, rows};
use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Activation, Attend, Backend, BatchRow, Cpu, DType, KvLayout, LogitMap, Slot};
use serde::Serialize;

use super::roof::Roof;
use crate::Result;

/// Positions that each row of `attend` attends to.
const CONTEXT: usize = 64;

/// The median time of an op, and the work it did.
#[derive(Serialize)]
pub(super) struct Op {
    name: String,
    rows: usize,
    microseconds: f64,
    /// For matrix products.
    gflop_per_s: Option<f64>,
    /// Bytes of weights, or of rows read and written.
    gb_per_s: f64,
    /// The roofline's time over the op's, for matrix products.
    of_roof: Option<f64>,
}

/// How many matrices a product with cold weights alternates between; together they exceed any cache.
const COLD: usize = 8;

pub(super) fn measure(
    cpu: &Cpu,
    roof: &Roof,
    shape: &RandomCheckpoint,
    repeat: usize,
) -> Result<Vec<Op>> {
    let (d, ffn, attn, dtype) = (shape.d_model, shape.ffn, shape.attn, shape.dtype);
    let mut ops = Vec::new();
    let mut add =
        |name: &str, rows: usize, flop: f64, bytes: f64, run: &mut dyn FnMut() -> Result<()>| {
            let seconds = median_seconds(repeat, run)?;
            ops.push(Op {
                name: name.to_owned(),
                rows,
                microseconds: seconds * 1e6,
                gflop_per_s: (flop > 0.0).then_some(flop / seconds / 1e9),
                gb_per_s: bytes / seconds / 1e9,
                of_roof: (flop > 0.0).then(|| roof.seconds(flop, bytes) / seconds),
            });
            Ok::<_, Box<dyn std::error::Error>>(())
        };

    // Products of fixed sizes in bf16, whatever the shape, so that machines can be compared.
    let cold = (0..COLD).map(|_| Weights::new(4096, 4096, DType::Bf16).pack(cpu));
    let cold = cold.collect::<std::result::Result<Vec<_>, _>>()?;
    for n in [1, 16, 64] {
        let a = acts(cpu, n, 4096, DType::Bf16)?;
        let mut out = cpu.rows(n, 4096)?;
        let mut next = cold.iter().cycle();
        let flop = 2.0 * (n * 4096 * 4096) as f64;
        let bytes = cold[0].bytes() as f64;
        add("linear bf16 4096 x 4096, cold", n, flop, bytes, &mut || {
            let w = next.next().ok_or("no weights")?;
            Ok(cpu.linear(&a, w, None, &mut out)?)
        })?;
    }
    drop(cold);
    let wide = Weights::new(11_008, 4096, DType::Bf16).pack(cpu)?;
    let a = acts(cpu, 512, 4096, DType::Bf16)?;
    let mut out = cpu.rows(512, 11_008)?;
    let flop = 2.0 * 512.0 * 4096.0 * 11_008.0;
    add(
        "linear bf16 4096 x 11008",
        512,
        flop,
        wide.bytes() as f64,
        &mut || Ok(cpu.linear(&a, &wide, None, &mut out)?),
    )?;
    drop((wide, a, out));

    let weights = Weights::new(2 * ffn, d, dtype).pack(cpu)?;
    for n in [1, 8, 64, 512] {
        let a = acts(cpu, n, d, dtype)?;
        let mut out = cpu.rows(n, 2 * ffn)?;
        let flop = 2.0 * (n * d * 2 * ffn) as f64;
        let name = format!("linear {dtype} {d} x {}", 2 * ffn);
        add(&name, n, flop, weights.bytes() as f64, &mut || {
            Ok(cpu.linear(&a, &weights, None, &mut out)?)
        })?;
    }
    drop(weights);
    let head = Weights::new(shape.vocab_size, d, dtype).pack(cpu)?;
    for n in [1, 64] {
        let a = acts(cpu, n, d, dtype)?;
        let flop = 2.0 * (n * d * shape.vocab_size) as f64;
        add("head_best", n, flop, head.bytes() as f64, &mut || {
            black_box(cpu.head_best(&a, &head, &LogitMap::PLAIN)?);
            Ok(())
        })?;
    }
    drop(head);

    let n = 64;
    let x = rows(cpu, n, d)?;
    let weight = cpu.vector(&vec![1.0; d])?;
    let mut normed = cpu.acts(n, d, dtype)?;
    let bytes = |width: usize| (n * width * 4) as f64;
    add("rms_norm", n, 0.0, bytes(d), &mut || {
        Ok(cpu.rms_norm(&x, &weight, 1e-5, &mut normed)?)
    })?;
    let gate_up = rows(cpu, n, 2 * ffn)?;
    let mut hidden = cpu.acts(n, ffn, dtype)?;
    add("swiglu", n, 0.0, bytes(2 * ffn), &mut || {
        Ok(cpu.glu(Activation::Silu, &gate_up, &mut hidden)?)
    })?;

    let layout = KvLayout {
        kv_heads: attn.kv_heads,
        head_dim: attn.head_dim,
        prefixes: vec![CONTEXT],
        own: vec![16],
        slots: n,
        dtype: DType::F32,
    };
    let mut kv = cpu.kv(&layout)?;
    let mut batch = cpu.batch(n)?;
    let mut qkv = rows(cpu, n, attn.qkv_dim())?;
    let rope = rows(cpu, CONTEXT + 1, attn.head_dim)?;
    let decode: Vec<BatchRow> = (0..n as u32)
        .map(|slot| BatchRow {
            token: 0,
            slot: Slot::Branch(slot),
            position: CONTEXT as u32,
        })
        .collect();
    for slot in 0..n {
        cpu.kv_share(&mut kv, slot, 0, &[CONTEXT])?;
    }
    cpu.load_batch(&decode, &mut batch)?;
    add("rope_append", n, 0.0, bytes(attn.qkv_dim()), &mut || {
        Ok(cpu.rope_append(&attn, Some(&rope), &batch, 0, &mut qkv, &mut kv)?)
    })?;
    let mut attended = cpu.acts(n, attn.q_dim(), dtype)?;
    add(
        &format!("attend, {CONTEXT} shared positions"),
        n,
        0.0,
        bytes(2 * attn.kv_dim() * (CONTEXT + 1)),
        &mut || Ok(cpu.attend(&Attend::new(attn), &qkv, &batch, 0, &kv, &mut attended)?),
    )?;
    Ok(ops)
}

pub(super) fn print(ops: &[Op]) {
    println!(
        "\n{:34} {:>5} {:>12} {:>10} {:>8} {:>8}",
        "op", "rows", "us", "GFLOP/s", "GB/s", "of roof"
    );
    for op in ops {
        let gflop = op
            .gflop_per_s
            .map_or("-".to_owned(), |rate| format!("{rate:.1}"));
        let of_roof = op
            .of_roof
            .map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        println!(
            "{:34} {:>5} {:>12.1} {gflop:>10} {:>8.1} {of_roof:>8}",
            op.name, op.rows, op.microseconds, op.gb_per_s
        );
    }
}

/// The median of `repeat` samples. Each sample has enough runs to be long enough for timing.
pub(super) fn median_seconds(repeat: usize, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run()?;
    let runs = (0.02 / start.elapsed().as_secs_f64().max(1e-9)).clamp(1.0, 1e4) as usize;
    let mut samples = Vec::with_capacity(repeat);
    for _ in 0..repeat {
        let start = Instant::now();
        for _ in 0..runs {
            run()?;
        }
        samples.push(start.elapsed().as_secs_f64() / runs as f64);
    }
    Ok(super::median(&samples))
}
