//! Finds NVIDIA's assembler and disassembler. They are used, but never shipped.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The folders into which `.ci/run` installs the wheels with pip.
const FETCHED: &str = "target/ptxas";

/// Finds `ptxas`, or says how to get it.
pub(super) fn ptxas() -> Result<PathBuf> {
    find("ptxas", "SELFIE_PTXAS")
}

/// Finds `nvdisasm`, or says how to get it.
pub(super) fn nvdisasm() -> Result<PathBuf> {
    find("nvdisasm", "SELFIE_NVDISASM")
}

/// The program that `variable` names, else the fetched one, else the one on the PATH.
fn find(program: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        if path.is_file() {
            return Ok(path);
        }
        return Err(format!("{variable} is {}, which is not a file", path.display()).into());
    }
    let in_path = env::var_os("PATH").unwrap_or_default();
    let places = fetched().into_iter().chain(env::split_paths(&in_path));
    let mut programs = places.map(|folder| folder.join(program));
    programs.find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "cannot find {program}: set {variable}, put it on the PATH, or fetch it with\n  \
             python3 -m pip install --no-deps --target {FETCHED} nvidia-cuda-nvcc nvidia-cuda-nvdisasm"
        )
        .into()
    })
}

/// The `nvidia/*/bin` folders of the fetched wheels.
fn fetched() -> Vec<PathBuf> {
    let wheels = Path::new(FETCHED).join("nvidia");
    let versions = wheels.read_dir().into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin")).collect()
}

/// The version of `ptxas`, such as `ptxas 13.5.37`.
pub(super) fn version(ptxas: &Path) -> Result<String> {
    let said = Command::new(ptxas)
        .arg("--version")
        .output()
        .map_err(|e| format!("cannot run {}: {e}", ptxas.display()))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said
        .split_once(", V")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    match version {
        Some(version) => Ok(format!("ptxas {version}")),
        None => Err(format!("{} does not report its version: {said}", ptxas.display()).into()),
    }
}
