//! Where NVIDIA's assembler and disassembler are. They are used and never shipped.

use std::env;
use std::path::{Path, PathBuf};

use crate::Result;

/// The folders that `.ci/run` has pip put the wheels into.
const FETCHED: &str = "target/ptxas";

/// `ptxas`, or how to get it.
pub(super) fn ptxas() -> Result<PathBuf> {
    find("ptxas", "SELFIE_PTXAS")
}

/// `nvdisasm`, or how to get it.
pub(super) fn nvdisasm() -> Result<PathBuf> {
    find("nvdisasm", "SELFIE_NVDISASM")
}

/// The program that `variable` names, else the fetched one, else the one in the path.
fn find(program: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = env::var_os(variable).map(PathBuf::from) {
        if path.is_file() {
            return Ok(path);
        }
        return Err(format!("{variable} is {}, which is no file", path.display()).into());
    }
    let in_path = env::var_os("PATH").unwrap_or_default();
    let places = fetched().into_iter().chain(env::split_paths(&in_path));
    let mut programs = places.map(|folder| folder.join(program));
    programs.find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "there is no {program}: set {variable}, put it in the PATH, or fetch it with\n  \
             python3 -m pip install --no-deps --target {FETCHED} nvidia-cuda-nvcc nvidia-cuda-nvdisasm"
        )
        .into()
    })
}

/// `nvidia/*/bin` of the fetched wheels.
fn fetched() -> Vec<PathBuf> {
    let wheels = Path::new(FETCHED).join("nvidia");
    let versions = wheels.read_dir().into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin")).collect()
}
