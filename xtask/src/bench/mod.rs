//! `cargo xtask bench`: ops, a sweep of layers x tokens, and a step of control, on random weights in the shape of a
//! real model.

mod baseline;
mod child;
mod control;
mod drafts;
mod families;
mod llama_cpp;
mod ops;
mod rival;
mod roof;
mod startup;
mod sweep;

use std::path::{Path, PathBuf};
use std::time::Instant;

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{BlockFormat, DType};
use serde::Serialize;

use crate::{Result, host};
pub(crate) use child::{SweepArgs, sweep_in_this_process};
pub(crate) use host::commit;

/// The weights are random: the results measure speed, not the quality of texts.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shape: tiny, smollm2-135m, tinyllama-1.1b, llama-3.2-1b, llama-2-7b, llama-3.1-8b or llama-2-13b
    #[arg(long, default_value = "tiny")]
    shape: String,
    /// Cells of the sweep: layers from 0 up, tokens 4 to 7; several numbers are measured one after another
    #[arg(long, value_name = "N,N", default_value = "64", value_delimiter = ',')]
    cells: Vec<usize>,
    /// Tokens per interpretation
    #[arg(long, default_value_t = 20)]
    new_tokens: usize,
    /// Runs of each measurement; the median is reported
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// CPU threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// The dtype to compute in: auto, f32, bf16 or f16
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16", "f16"])]
    dtype: String,
    /// Also measure the sweep with weights quantized on loading, in turn with the sweep in --dtype: q8_0, q4_k, ..
    #[arg(long, value_name = "FORMAT")]
    quantize: Option<BlockFormat>,
    /// The checkpoint: an existing one with this shape, or where to write one [default: target/bench/SHAPE]
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// A folder with the tokenizer.json for a written checkpoint
    #[arg(long, default_value = "crates/selfie-llama/tests/golden/llama2-mha")]
    tokenizer: PathBuf,
    /// Measure only ops, only the sweep (and the time to the first token), only control: a step of one layer's MLP,
    /// which needs no checkpoint; only families: a sweep over six layers of each family, with this shape's matrices; or
    /// only drafts: few cells with and without drafted decoding
    #[arg(long, value_parser = ["ops", "sweep", "control", "families", "drafts"])]
    only: Option<String>,
    /// Write all results to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// A Python with torch and transformers (2.4 and 4.57 were the fastest pair) that does the same work, alternating
    /// with ours: benches/baseline/sweep.py, or with --only control benches/baseline/mlp_step.py
    #[arg(long, value_name = "PYTHON")]
    baseline: Option<PathBuf>,
    /// The dtype of PyTorch: bf16, or f32, which is faster if the CPU has no bf16
    #[arg(long, default_value = "bf16", value_parser = ["bf16", "f32"])]
    baseline_dtype: String,
    /// Cells that the rivals decode together
    #[arg(long, default_value_t = 64)]
    baseline_batch: usize,
    /// A checkout of the original package, tonychenxyz/selfie, whose sweep in f32 is measured too
    #[arg(long, value_name = "CHECKOUT")]
    original: Option<PathBuf>,
    /// A Python for the original package: torch, transformers 4.34, pandas, accelerate
    #[arg(
        long,
        value_name = "PYTHON",
        default_value = "python3",
        requires = "original"
    )]
    original_python: PathBuf,
    /// A folder with the programs llama-bench and llama-batched-bench of llama.cpp: decode one sequence, run a prompt
    /// of 512, and decode 64 sequences with a shared prompt, on the files of --gguf, alternating with ours
    #[arg(long, value_name = "DIR", requires = "gguf")]
    llama_cpp: Option<PathBuf>,
    /// The files for --llama-cpp, in the formats to compare
    #[arg(
        long,
        value_name = "FILE,FILE",
        value_delimiter = ',',
        requires = "llama_cpp"
    )]
    gguf: Vec<PathBuf>,
}

/// All results.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    shape: String,
    weights: &'static str,
    dtype: String,
    checkpoint_bytes: u64,
    roof: roof::Roof,
    ops: Vec<ops::Op>,
    sweeps: Vec<sweep::Sweep>,
    startup: Option<startup::Startup>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.repeat == 0 || args.new_tokens == 0 || args.cells.contains(&0) {
        return Err("--repeat, --cells and --new-tokens must be at least 1".into());
    }
    let shape = shape(&args.shape)?;
    if args.only.as_deref() == Some("control") {
        return control::run(args, &shape);
    }
    if args.only.as_deref() == Some("families") {
        return families::run(args, &shape);
    }
    if let Some(programs) = &args.llama_cpp {
        return llama_cpp::run(args, programs);
    }
    let rivals = rival::Rival::of(args, &shape)?;
    let default = Path::new("target/bench").join(&args.shape);
    let dir = args.checkpoint.as_ref().unwrap_or(&default);
    // config.json is written last.
    let written_before = dir.join("config.json").exists();
    if !written_before {
        let start = Instant::now();
        shape.write(dir, &args.tokenizer)?;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "wrote random weights to {} in {seconds:.1} s",
            dir.display()
        );
    }
    if args.only.as_deref() == Some("drafts") {
        return drafts::run(args, dir);
    }
    let cpu = host::cpu(args.threads)?;
    let roof = roof::Roof::measure(&cpu, dtype(args, &shape), args.repeat)?;
    let mut report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(&cpu)?,
        shape: args.shape.clone(),
        weights: if args.checkpoint.is_some() && written_before {
            "of --checkpoint"
        } else {
            "random"
        },
        dtype: args.dtype.clone(),
        checkpoint_bytes: selfie_llama::Checkpoint::open(dir)?.total_bytes(),
        roof,
        ops: Vec::new(),
        sweeps: Vec::new(),
        startup: None,
    };
    println!("{}, {}", report.host.cpu, report.host.device);
    println!(
        "shape {}, {} weights, {} bytes",
        report.shape, report.weights, report.checkpoint_bytes
    );
    println!(
        "peak {:.0} GFLOP/s, parallel read {:.1} GB/s",
        roof.peak_gflop_per_s, roof.read_gb_per_s
    );
    if args.only.as_deref() != Some("sweep") {
        report.ops = ops::measure(&cpu, &roof, &shape, args.repeat)?;
        ops::print(&report.ops);
    }
    if args.only.as_deref() != Some("ops") {
        for &cells in &args.cells {
            let bytes = report.checkpoint_bytes;
            let sweep = sweep::measure(args, &rivals, cells, dir, &shape, &cpu, bytes)?;
            sweep::print(&sweep);
            report.sweeps.push(sweep);
            // A sweep can take long. What comes after it may fail.
            save(args, &report)?;
        }
        let startup = startup::measure(args, dir)?;
        startup::print(&startup);
        report.startup = Some(startup);
    }
    save(args, &report)
}

/// Writes all results to the file of `--json`, if one was given.
fn save(args: &Args, report: &impl Serialize) -> Result<()> {
    let Some(path) = &args.json else {
        return Ok(());
    };
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(path, json + "\n")
        .map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}

/// The dtype to compute in.
fn dtype(args: &Args, shape: &RandomCheckpoint) -> DType {
    child::dtype(&args.dtype).unwrap_or(shape.dtype)
}

fn shape(name: &str) -> Result<RandomCheckpoint> {
    if name == "tiny" {
        // A few seconds on any machine, but still more work than overhead.
        return Ok(RandomCheckpoint {
            d_model: 512,
            ffn: 1408,
            n_layers: 8,
            vocab_size: 4096,
            dtype: DType::Bf16,
            ..RandomCheckpoint::tiny()
        });
    }
    RandomCheckpoint::shape(name).ok_or_else(|| {
        let known = RandomCheckpoint::SHAPES.join(", ");
        format!("unknown shape \"{name}\"; expected one of: tiny, {known}").into()
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
