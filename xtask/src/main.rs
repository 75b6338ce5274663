//! Development tasks: `cargo xtask bench`, `cargo xtask ptx`.
#![forbid(unsafe_code)]

mod bench;
mod ptx;

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
    /// Measure the ops and a sweep on a random-weight checkpoint
    Bench(bench::Args),
    /// Assemble and simulate the GPU kernels
    Ptx(ptx::Args),
    /// One sweep, in a process of its own so that its peak memory is its own
    #[command(hide = true)]
    Sweep(bench::SweepArgs),
}

/// A message for the user is all that these tasks make of an error.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::Ptx(args) => ptx::run(&args),
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
