//! Development tasks: `cargo xtask api`, `bench`, `control`, `faithfulness`, `real`, `ptx`, `sim`, `gpu-bundle`.
#![forbid(unsafe_code)]

mod api;
mod bench;
mod control;
mod faithfulness;
mod gpu_bundle;
mod host;
mod ptx;
mod real;
mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compare the public API of each library with its api.txt
    Api(api::Args),
    /// Measure ops and a sweep on a checkpoint with random weights
    Bench(Box<bench::Args>),
    /// Measure both methods of control on a real checkpoint
    Control(control::Args),
    /// Compare real checkpoints with PyTorch's numbers
    Real(real::Args),
    /// Assemble and simulate the GPU kernels
    Ptx(ptx::Args),
    /// Test the GPU backend in the simulator
    Sim(sim::Args),
    /// Pack the checks and benchmarks of the CUDA backend for a machine with a GPU
    GpuBundle(gpu_bundle::Args),
    /// Measure how far to trust the demo checkpoint's interpretations
    Faithfulness(faithfulness::Args),
    /// Run one sweep, in a separate process so that its peak memory is only its own
    #[command(hide = true)]
    Sweep(bench::SweepArgs),
}

/// Any error; these tasks only show its message.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Api(args) => api::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Control(args) => control::run(&args),
        Task::Real(args) => real::run(&args),
        Task::Ptx(args) => ptx::run(&args),
        Task::Sim(args) => sim::run(&args),
        Task::GpuBundle(args) => gpu_bundle::run(&args),
        Task::Faithfulness(args) => faithfulness::run(&args),
        Task::Sweep(args) => bench::sweep_in_this_process(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
