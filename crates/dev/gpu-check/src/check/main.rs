//! Checks the CUDA backend on the machine's GPU: every op against the reference, whole models against PyTorch's
//! numbers, single instructions against the PTX ISA. Nothing is left out silently: without a GPU it fails.

mod attention;
mod graphs;
mod instructions;
mod ops;
mod whole;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use selfie_kernels::gpu::{Cuda, CudaOptions};
use selfie_kernels::{Backend, Result};
use selfie_testkit::{cases, interp, llama, models};

/// Checks the CUDA backend on this machine's GPU
#[derive(Parser)]
struct Args {
    /// The number of the GPU
    #[arg(long, default_value_t = 0)]
    device: usize,
    /// Only checks whose names begin with this
    #[arg(long, default_value = "")]
    only: String,
    /// Launch each kernel by itself, as sanitizers want it
    #[arg(long)]
    no_graphs: bool,
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

/// A name, and what panics when it is wrong.
type Check = (&'static str, Box<dyn Fn(Opening)>);

fn main() -> ExitCode {
    let args = Args::parse();
    let opening = Opening {
        ordinal: args.device,
        graphs: !args.no_graphs,
    };
    match opening.open(false, opening.graphs) {
        Ok(cuda) => println!("{}", cuda.describe()),
        Err(error) => {
            eprintln!("error: nothing was checked: {error}");
            return ExitCode::FAILURE;
        }
    }
    let checks = [
        ops::checks(),
        attention::checks(),
        graphs::checks(),
        whole::checks(),
        instructions::checks(),
    ];
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, check) in checks.into_iter().flatten() {
        if !name.starts_with(&args.only) {
            continue;
        }
        let start = Instant::now();
        // The hook has printed what went wrong, and where.
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| check(opening)));
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("ok      {name} ({seconds:.1} s)");
            }
            Err(_) => {
                failed.push(name);
                println!("FAILED  {name} ({seconds:.1} s)");
            }
        }
    }
    println!("{passed} checks passed, {} failed", failed.len());
    for name in &failed {
        println!("  {name}");
    }
    match failed.is_empty() && passed > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
