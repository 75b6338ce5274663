//! Measures the CUDA backend: ops, a decode step and a sweep, next to the GPU's own limits in the same run.

mod decode;
mod floors;
mod ops;
mod products;
mod profile;
mod report;
mod sizes;
mod sweep;
mod timing;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use selfie_kernels::gpu::{Cuda, CudaOptions};
use selfie_kernels::{Backend, KernelError};
use selfie_llama::Llama;

use report::Report;
use sizes::Sizes;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures the CUDA backend on this machine's GPU
#[derive(Parser)]
struct Args {
    /// The number of the GPU
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// What to measure; everything by default
    #[arg(long, value_enum)]
    section: Vec<Section>,
    /// A bf16 checkpoint of the shape llama-2-7b (written by selfie random-checkpoint)
    #[arg(long)]
    model: PathBuf,
    /// Leave products of few rows to cuBLASLt, to see what our kernel gains
    #[arg(long)]
    no_matvec: bool,
    /// Try several of cuBLASLt's algorithms, to see what that gains
    #[arg(long)]
    tune: bool,
    /// PyTorch's results on this machine: an object of names and values, as written by benches/baseline/gpu.py
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// The commit that was built
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Small sizes, to try out the program; the figures are meaningless
    #[arg(long)]
    small: bool,
    /// Write the figures to this file; existing figures of the same commit are kept
    #[arg(long)]
    json: PathBuf,
}

/// A section of the figures. If it is requested alone, it runs in its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// A copy and a matrix product: the limits that percentages refer to
    Floors,
    /// Interpret all layers and tokens of a prompt
    Sweep,
    /// Decode steps
    Decode,
    /// Single products
    Products,
    /// Single ops, and attention
    Ops,
    /// The single launches of a step, of a pass and of a sweep
    Profile,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn open(args: &Args) -> std::result::Result<Cuda, KernelError> {
    let options = CudaOptions {
        matvec: !args.no_matvec,
        tune: args.tune,
        ..CudaOptions::default()
    };
    Cuda::open(args.device, options)
}

fn run(args: &Args) -> Result<()> {
    let cuda = open(args)?;
    println!("{}", cuda.describe());
    let sizes = if args.small {
        Sizes::SMALL
    } else {
        Sizes::FULL
    };
    let mut report = Report::open(
        &cuda.describe(),
        &args.commit,
        &args.json,
        args.baseline.as_deref(),
    )?;
    let sections = if args.section.is_empty() {
        Section::value_variants()
    } else {
        &args.section
    };
    if !report.has_limits() {
        floors::measure(&cuda, &sizes, &mut report)?;
    }
    let mut model = None;
    for section in sections {
        match section {
            Section::Floors => {}
            Section::Products => products::measure(&cuda, &sizes, &mut report)?,
            Section::Ops => ops::measure(&cuda, &sizes, &mut report)?,
            Section::Sweep | Section::Decode | Section::Profile => {
                let model = match &model {
                    Some(model) => model,
                    None => model.insert(load(&cuda, args, &mut report)?),
                };
                match section {
                    Section::Sweep => sweep::measure(model, &args.model, &sizes, &mut report)?,
                    Section::Decode => decode::measure(model, &sizes, &mut report)?,
                    _ => profile::measure(model, &args.model, &sizes, &mut report)?,
                }
            }
        }
        report.write(&args.json)?;
    }
    println!("wrote {}", args.json.display());
    Ok(())
}

fn load(cuda: &Cuda, args: &Args, report: &mut Report) -> Result<Llama<Cuda>> {
    let start = Instant::now();
    let model = Llama::open(cuda.clone(), &args.model)?;
    report.add("load of the weights", start.elapsed().as_secs_f64(), "s");
    Ok(model)
}
