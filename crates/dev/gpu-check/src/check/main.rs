//! Checks the CUDA backend on this machine's GPU: every op against the reference, whole models against PyTorch's
//! numbers, single instructions against the PTX ISA. Nothing is skipped silently: without a GPU it fails.

mod attention;
mod children;
mod graphs;
mod instructions;
mod kernels;
mod ops;
mod whole;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use selfie_kernels::gpu::{Cuda, CudaOptions};
use selfie_kernels::{Backend, Result};
use selfie_testkit::{cases, interp, llama, models};

/// Checks the CUDA backend on this machine's GPU
///
/// Each check runs in its own process. One that hangs, or breaks the GPU's context, does not affect the others.
#[derive(Parser)]
struct Args {
    /// The number of the GPU
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Run only checks whose names begin with one of these, in this order
    #[arg(long, value_name = "PREFIX")]
    only: Vec<String>,
    /// Treat the values of `--only` as whole names
    #[arg(long)]
    exact: bool,
    /// Launch each kernel by itself, for sanitizers
    #[arg(long)]
    no_graphs: bool,
    /// Number of checks to run at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Time limit of a check in seconds
    #[arg(long, default_value_t = 300)]
    limit: u64,
    /// Append each result to this file as a line of JSON
    #[arg(long)]
    results: Option<PathBuf>,
    /// Run the checks in this process, for sanitizers
    #[arg(long)]
    in_process: bool,
}

/// How checks open the GPU.
#[derive(Clone, Copy)]
struct Opening {
    ordinal: usize,
    graphs: bool,
}

impl Opening {
    fn fast(self) -> Cuda {
        self.open(false, self.graphs)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn deterministic(self) -> Cuda {
        self.open(true, self.graphs)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn open(self, deterministic: bool, graphs: bool) -> Result<Cuda> {
        Cuda::open(
            self.ordinal,
            CudaOptions {
                deterministic,
                graphs,
                ..CudaOptions::default()
            },
        )
    }
}

/// A name, and a function that panics if the check fails.
type Check = (String, Box<dyn Fn(Opening)>);

fn main() -> ExitCode {
    let args = Args::parse();
    let opening = Opening {
        ordinal: args.device,
        graphs: !args.no_graphs,
    };
    let checks = chosen(&args.only, args.exact);
    if checks.is_empty() {
        eprintln!("error: no check begins with {:?}", args.only);
        return ExitCode::FAILURE;
    }
    let failed = if args.in_process {
        // The first check that panics ends the process after printing why.
        for (name, check) in &checks {
            check(opening);
            println!("ok      {name}");
        }
        Vec::new()
    } else {
        match opening.open(false, opening.graphs) {
            Ok(cuda) => println!("{}", cuda.describe()),
            Err(error) => {
                eprintln!("error: nothing was checked: {error}");
                return ExitCode::FAILURE;
            }
        }
        let names: Vec<&str> = checks.iter().map(|(name, _)| name.as_str()).collect();
        children::run(&names, &args)
    };
    let passed = checks.len() - failed.len();
    println!("{passed} checks passed, {} failed", failed.len());
    for name in &failed {
        println!("  {name}");
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The checks that begin with (or equal) one of the prefixes, in the prefixes' order; all checks if there are no
/// prefixes.
fn chosen(only: &[String], exact: bool) -> Vec<Check> {
    let mut checks: Vec<Check> = [
        ops::checks(),
        attention::checks(),
        graphs::checks(),
        whole::checks(),
        instructions::checks(),
        kernels::checks(),
    ]
    .into_iter()
    .flatten()
    .collect();
    if only.is_empty() {
        return checks;
    }
    let mut chosen = Vec::new();
    for prefix in only {
        chosen.extend(checks.extract_if(.., |(name, _)| {
            name == prefix || !exact && name.starts_with(prefix)
        }));
    }
    chosen
}
