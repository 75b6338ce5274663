//! Attention over a prefix that several texts share: its keys and values are in the cache once, and each text has its
//! own after that. The result is compared with attention written out.
//!
//! `cargo run --release -p selfie-kernels --example attention [POSITIONS TEXTS]`

use std::error::Error;
use std::process::ExitCode;

use selfie_kernels::{
    Attend, AttnShape, Backend, BatchRow, Cpu, CpuOptions, DType, KvLayout, Slot,
};

/// Grouped queries: two heads read the keys and values of one.
const SHAPE: AttnShape = AttnShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let [positions, texts] = sizes()?;
    let cpu = Cpu::new(CpuOptions::default())?;

    // A cache of one layer: a prefix, and room for one position more of each text.
    let layout = KvLayout {
        kv_heads: SHAPE.kv_heads,
        head_dim: SHAPE.head_dim,
        prefixes: vec![positions],
        own: vec![1],
        slots: texts,
        dtype: DType::F32,
    };
    let mut kv = cpu.kv(&layout)?;
    for slot in 0..texts {
        // Each text continues all of prefix 0.
        cpu.kv_share(&mut kv, slot, 0, &[positions])?;
    }

    // One batch: the prefix, then a row of each text.
    let row = |slot, position: usize| BatchRow {
        token: 0,
        slot,
        position: position as u32,
    };
    let mut rows: Vec<BatchRow> = (0..positions).map(|p| row(Slot::Prefix(0), p)).collect();
    rows.extend((0..texts).map(|text| row(Slot::Branch(text as u32), positions)));
    let mut batch = cpu.batch(rows.len())?;
    cpu.load_batch(&rows, &mut batch)?;

    // Queries, keys and values of each row lie side by side. Without a table of rotations they are taken as they are.
    let values = values(rows.len() * SHAPE.qkv_dim());
    let mut qkv = cpu.rows(rows.len(), SHAPE.qkv_dim())?;
    cpu.write_rows(&values, &mut qkv)?;
    cpu.rope_append(&SHAPE, None, &batch, 0, &mut qkv, &mut kv)?;
    let mut out = cpu.acts(rows.len(), SHAPE.q_dim(), DType::F32)?;
    cpu.attend(&Attend::new(SHAPE), &qkv, &batch, 0, &kv, &mut out)?;

    let got = cpu.read_acts(&out, positions..positions + texts)?;
    let mut largest: f64 = 0.0;
    for (text, got) in got.chunks_exact(SHAPE.q_dim()).enumerate() {
        for (got, expected) in got
            .iter()
            .zip(written_out(&values, positions, positions + text))
        {
            largest = largest.max((f64::from(*got) - expected).abs());
        }
    }
    println!(
        "{}: {texts} texts after {positions} shared positions; the cache has {} bytes; off by {largest:.1e} at most",
        cpu.describe(),
        cpu.kv_bytes(&layout)
    );
    if largest > 1e-5 {
        return Err("attention is wrong".into());
    }
    Ok(())
}

/// `sum_j softmax_j(q . k_j / sqrt(d)) v_j` of row `row` over the prefix and itself, head after head.
fn written_out(qkv: &[f32], positions: usize, row: usize) -> Vec<f64> {
    let d = SHAPE.head_dim;
    // A head of a row: query heads first, then those of the keys, then those of the values.
    let head = |row: usize, head: usize| {
        let at = row * SHAPE.qkv_dim() + head * d;
        qkv[at..at + d].iter().map(|&x| f64::from(x))
    };
    let mut out = Vec::new();
    for h in 0..SHAPE.heads {
        let kv = h / (SHAPE.heads / SHAPE.kv_heads);
        let (key, value) = (SHAPE.heads + kv, SHAPE.heads + SHAPE.kv_heads + kv);
        let seen: Vec<usize> = (0..positions).chain([row]).collect();
        let score = |&j: &usize| {
            let dot: f64 = head(row, h).zip(head(j, key)).map(|(q, k)| q * k).sum();
            (dot / (d as f64).sqrt()).exp()
        };
        let weights: Vec<f64> = seen.iter().map(score).collect();
        let total: f64 = weights.iter().sum();
        let mut sum = vec![0.0; d];
        for (&j, weight) in seen.iter().zip(&weights) {
            for (sum, v) in sum.iter_mut().zip(head(j, value)) {
                *sum += weight / total * v;
            }
        }
        out.extend(sum);
    }
    out
}

/// Positions and texts, as the command line says.
fn sizes() -> Result<[usize; 2], Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        return Ok([512, 8]);
    }
    let numbers: Result<Vec<usize>, _> = args.iter().map(|arg| arg.parse()).collect();
    match numbers.as_deref() {
        Ok(&[positions, texts]) if positions > 0 && texts > 0 => Ok([positions, texts]),
        _ => Err("give two numbers above 0, POSITIONS TEXTS".into()),
    }
}

/// Numbers from -1 to 1 that look random (a linear congruential generator).
fn values(count: usize) -> Vec<f32> {
    let mut state: u64 = 1;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
