//! Measures the CUDA backend: ops, a decode step and a sweep, beside the GPU's own limits in the same run.

mod decode;
mod floors;
mod ops;
mod report;
mod sizes;
mod sweep;
mod timing;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use selfie_kernels::gpu::{Cuda, CudaOptions};
use selfie_kernels::{Backend, KernelError};

use report::Report;
use sizes::Sizes;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measures the CUDA backend on this machine's GPU
#[derive(Parser)]
struct Args {
    /// The number of the GPU
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// A bf16 checkpoint of the shape llama-2-7b (selfie random-checkpoint writes one)
    #[arg(long)]
    model: PathBuf,
    /// What PyTorch did on this machine: an object of name and value, as benches/baseline/gpu.py writes it
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// The commit that was built
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Small sizes, to try the program: the figures mean nothing
    #[arg(long)]
    small: bool,
    /// Write the figures to this file
    #[arg(long)]
    json: PathBuf,
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
    Cuda::open(args.device, CudaOptions::default())
}

fn run(args: &Args) -> Result<()> {
    let cuda = open(args)?;
    println!("{}", cuda.describe());
    let sizes = if args.small {
        Sizes::SMALL
    } else {
        Sizes::FULL
    };
    let mut report = Report::new(&cuda.describe(), &args.commit, args.baseline.as_deref())?;
    let floors = floors::measure(&cuda, &sizes, &mut report)?;
    ops::measure(&cuda, &sizes, &floors, &mut report)?;
    drop(cuda);
    decode::measure(open(args)?, &args.model, &sizes, &floors, &mut report)?;
    sweep::measure(open(args)?, &args.model, &sizes, &floors, &mut report)?;
    report.write(&args.json)
}
