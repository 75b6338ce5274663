//! `cargo xtask bench`: ops, a sweep of layers x tokens, and a step of control, on random weights of a real shape.

mod baseline;
mod child;
mod control;
mod families;
mod ops;
mod rival;
mod roof;
mod startup;
mod sweep;

use std::path::{Path, PathBuf};
use std::time::Instant;

use selfie_demo::RandomCheckpoint;
use selfie_kernels::DType;
use serde::Serialize;

use crate::{Result, host};
pub(crate) use child::{SweepArgs, sweep_in_this_process};
pub(crate) use host::commit;

/// Weights are random: the figures say how fast the work is, not what the words are worth.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// tiny, smollm2-135m, tinyllama-1.1b, llama-3.2-1b, llama-2-7b, llama-3.1-8b or llama-2-13b
    #[arg(long, default_value = "tiny")]
    shape: String,
    /// Cells of the sweep: layers from 0 up, tokens 4 to 7; several numbers are measured one after the other
    #[arg(long, value_name = "N,N", default_value = "64", value_delimiter = ',')]
    cells: Vec<usize>,
    /// Tokens of each interpretation
    #[arg(long, default_value_t = 20)]
    new_tokens: usize,
    /// Runs of each measurement; the median counts
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// CPU threads [default: one a core]
    #[arg(long)]
    threads: Option<usize>,
    /// auto, f32, bf16 or f16
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16", "f16"])]
    dtype: String,
    /// Where the checkpoint is (real weights of the shape, say), or is to be written [default: target/bench/SHAPE]
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// A folder with tokenizer.json for a checkpoint that is written
    #[arg(long, default_value = "crates/selfie-llama/tests/golden/llama2-mha")]
    tokenizer: PathBuf,
    /// Only ops, only sweep (and the time to the first token), only control: a step of one layer's MLP, which needs no
    /// checkpoint; or only families: a sweep over six layers of each family with the matrices of the shape
    #[arg(long, value_parser = ["ops", "sweep", "control", "families"])]
    only: Option<String>,
    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// A Python with torch and transformers (2.4 and 4.57 were the fastest together), which does the same work in turn
    /// with ours: benches/baseline/sweep.py, or with --only control benches/baseline/mlp_step.py
    #[arg(long, value_name = "PYTHON")]
    baseline: Option<PathBuf>,
    /// What PyTorch computes in: bf16, or f32, which is faster where the CPU has no bf16
    #[arg(long, default_value = "bf16", value_parser = ["bf16", "f32"])]
    baseline_dtype: String,
    /// Cells that the rivals decode at a time
    #[arg(long, default_value_t = 64)]
    baseline_batch: usize,
    /// A checkout of the original package, tonychenxyz/selfie, whose sweep in f32 is raced too
    #[arg(long, value_name = "CHECKOUT")]
    original: Option<PathBuf>,
    /// A Python with what it asks for: torch, transformers 4.34, pandas, accelerate
    #[arg(
        long,
        value_name = "PYTHON",
        default_value = "python3",
        requires = "original"
    )]
    original_python: PathBuf,
}

/// Everything that was measured.
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
        return Err("--repeat, --cells and --new-tokens have to be at least 1".into());
    }
    let shape = shape(&args.shape)?;
    if args.only.as_deref() == Some("control") {
        return control::run(args, &shape);
    }
    if args.only.as_deref() == Some("families") {
        return families::run(args, &shape);
    }
    let rivals = rival::Rival::of(args, &shape)?;
    let default = Path::new("target/bench").join(&args.shape);
    let dir = args.checkpoint.as_ref().unwrap_or(&default);
    // config.json is the last file that is written.
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
        }
        let startup = startup::measure(args, dir)?;
        startup::print(&startup);
        report.startup = Some(startup);
    }
    save(args, &report)
}

/// Writes all figures to the file of `--json`, if it is there.
fn save(args: &Args, report: &impl Serialize) -> Result<()> {
    let Some(path) = &args.json else {
        return Ok(());
    };
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(path, json + "\n")
        .map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}

/// What is computed in.
fn dtype(args: &Args, shape: &RandomCheckpoint) -> DType {
    child::dtype(&args.dtype).unwrap_or(shape.dtype)
}

fn shape(name: &str) -> Result<RandomCheckpoint> {
    if name == "tiny" {
        // A few seconds on any machine, and still more work than overhead.
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
        format!("there is no shape \"{name}\"; there are: tiny, {known}").into()
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
