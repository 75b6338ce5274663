//! `cargo xtask ptx`: the kernels through NVIDIA's assembler and through the simulator.

mod assemble;
mod occupancy;
mod tools;

use std::fs;
use std::path::PathBuf;

use rayon::prelude::*;
use selfie_kernels::gpu::Module;

use crate::Result;
use assemble::{ARCHITECTURES, Assembled, assemble};

/// Assembles all kernels for sm_80, sm_90, sm_100 and sm_120; a warning, a spill or local memory is an error.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the modules whose names begin with this
    #[arg(long)]
    only: Option<String>,
    /// Where the expanded PTX and the machine code go
    #[arg(long, default_value = "target/ptx")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let ptxas = tools::ptxas()?;
    fs::create_dir_all(&args.out)?;
    let only = args.only.as_deref().unwrap_or_default();
    let modules = Module::all()
        .into_iter()
        .filter(|m| m.name().starts_with(only));
    let jobs: Vec<(Module, u32)> = modules
        .flat_map(|module| ARCHITECTURES.map(|architecture| (module, architecture)))
        .collect();
    let assembled = jobs
        .into_par_iter()
        .map(|(module, architecture)| {
            assemble(&ptxas, module, architecture, &args.out).map_err(|e| e.to_string())
        })
        .collect::<std::result::Result<Vec<_>, String>>()?
        .concat();
    for kernel in &assembled {
        println!(
            "{} {} sm_{} {} {}",
            kernel.module.name(),
            kernel.entry,
            kernel.architecture,
            kernel.registers,
            kernel.shared
        );
    }
    Ok(())
}
