//! `cargo xtask ptx`: runs the kernels through NVIDIA's assembler and through the simulator.

mod assemble;
mod occupancy;
mod tables;
mod tools;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use selfie_kernels::gpu::Module;
use selfie_testkit::instructions;

use crate::Result;
use assemble::{ARCHITECTURES, Assembled, assemble, assemble_kernels, count};

/// The file that quotes the tables.
const README: &str = "kernels/README.md";

/// Assembles all kernels for sm_80, sm_90, sm_100 and sm_120, and the simulator's one-instruction kernels. Warnings,
/// spills, local memory, and attention or products without tensor cores are errors. Then runs each kernel once in the
/// simulator, and prints two tables.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fail unless kernels/README.md quotes these tables
    #[arg(long, conflicts_with = "write")]
    check: bool,
    /// Write the tables to kernels/README.md
    #[arg(long)]
    write: bool,
    /// Other versions of ptxas that must assemble everything without spills too
    #[arg(long, value_name = "PTXAS")]
    also: Vec<PathBuf>,
    /// The folder for the expanded PTX and the machine code
    #[arg(long, default_value = "target/ptx")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (ptxas, nvdisasm) = (tools::ptxas()?, tools::nvdisasm()?);
    fs::create_dir_all(&args.out)?;
    for other in &args.also {
        assemble_with(other, &args.out)?;
    }
    let kernels = assemble_with(&ptxas, &args.out)?;
    check_tensor_cores(&nvdisasm, &kernels)?;
    println!("attention and products use HMMA\n");
    let version = tools::version(&ptxas)?;
    let surveyed = selfie_sim::survey::survey()?;
    let assembled = format!(
        "By {version}:\n\n{}",
        tables::assembled(&kernels, &surveyed)
    );
    let quoted = [
        ("assembled", assembled),
        ("simulated", tables::simulated(&surveyed)),
    ];
    for (_, table) in &quoted {
        println!("{table}");
    }
    if args.check || args.write {
        quote(&quoted, args.write)?;
    }
    Ok(())
}

/// Assembles all kernels, and one-instruction kernels with everything that the simulator knows. Returns the kernels.
fn assemble_with(ptxas: &Path, out: &Path) -> Result<Vec<Assembled>> {
    let jobs: Vec<(Module, u32)> = Module::all()
        .into_iter()
        .flat_map(|module| ARCHITECTURES.map(|architecture| (module, architecture)))
        .collect();
    let kernels = jobs.into_par_iter().map(|(module, architecture)| {
        assemble_kernels(ptxas, module, architecture, out).map_err(|e| e.to_string())
    });
    let kernels = kernels
        .collect::<std::result::Result<Vec<_>, String>>()?
        .concat();
    let cases = instructions::cases();
    let oldest = ARCHITECTURES[0];
    assemble(ptxas, "instructions", &in_one_module(&cases)?, oldest, out)?;
    println!(
        "{}: {} kernels of {} modules for {ARCHITECTURES:?}, {} single instructions for sm_{oldest}: no spills, no \
         local memory",
        tools::version(ptxas)?,
        kernels.len() / ARCHITECTURES.len(),
        Module::all().len(),
        cases.len(),
    );
    Ok(kernels)
}

/// The kernels of all cases in one module: starting an assembler for each would take ten times as long.
fn in_one_module(cases: &[instructions::Case]) -> Result<String> {
    let mut module = String::new();
    for (i, case) in cases.iter().enumerate() {
        let ptx = case.ptx();
        let (header, kernel) = ptx
            .split_once(".visible .entry k(")
            .ok_or("a one-instruction kernel has another name than k")?;
        if module.is_empty() {
            module += header;
        }
        module += &format!(".visible .entry k{i}({kernel}");
    }
    Ok(module)
}

/// Checks that attention and products use the tensor cores on the oldest and the newest architecture. (The f16 twins
/// have the same instructions as bf16.)
fn check_tensor_cores(nvdisasm: &Path, kernels: &[Assembled]) -> Result<()> {
    let mut modules: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    let ends = [ARCHITECTURES[0], ARCHITECTURES[ARCHITECTURES.len() - 1]];
    for kernel in kernels {
        let on_tensor_cores = ["attention_prompt", "attention_decode", "matvec"]
            .iter()
            .any(|name| kernel.entry.starts_with(name));
        if on_tensor_cores && ends.contains(&kernel.architecture) && !kernel.module.is_twin() {
            let entries = modules.entry(&kernel.cubin).or_default();
            entries.push(&kernel.entry);
        }
    }
    if modules.is_empty() {
        return Err("there are no kernels to check for tensor cores".into());
    }
    let checked = modules.into_par_iter().map(|(cubin, entries)| {
        let counts = count(nvdisasm, cubin, &entries, "HMMA").map_err(|e| e.to_string())?;
        match counts.iter().position(|&n| n == 0) {
            Some(i) => Err(format!("{} has no HMMA in {}", entries[i], cubin.display())),
            None => Ok(()),
        }
    });
    checked.collect::<std::result::Result<(), String>>()?;
    Ok(())
}

/// Compares each table with the one between its marks in the README, or writes it there.
fn quote(tables: &[(&str, String)], write: bool) -> Result<()> {
    let mut readme = fs::read_to_string(README)?;
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
        let marks = readme.find(&begin).zip(readme.find(&end));
        let Some((from, to)) = marks.map(|(from, to)| (from + begin.len(), to)) else {
            return Err(format!("{README} has no marks for the table `{name}`").into());
        };
        if readme[from..to] != **table {
            if !write {
                return Err(format!(
                    "{README} has an outdated table `{name}`; run `cargo xtask ptx --write`"
                )
                .into());
            }
            readme.replace_range(from..to, table);
        }
    }
    if write {
        fs::write(README, readme)?;
    }
    Ok(())
}
