//! Chooses the instruction set, in one place.

use std::fmt;
use std::str::FromStr;

use super::simd::Isa;
use crate::{KernelError, Result};

/// An instruction-set path of the CPU backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuPath {
    /// Plain Rust, on any machine.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 with its dot products of bf16 and of bytes.
    Avx512,
    /// AMX tiles for bf16 weights, and for blocks in passes of many rows; AVX-512 for the rest.
    Amx,
}

impl CpuPath {
    /// All paths, best first.
    pub const ALL: [CpuPath; 4] = [
        CpuPath::Amx,
        CpuPath::Avx512,
        CpuPath::Avx2,
        CpuPath::Portable,
    ];

    /// The paths that this machine has, best first.
    pub fn available() -> Vec<CpuPath> {
        Self::ALL
            .into_iter()
            .filter(|&path| Isa::new(path).is_some())
            .collect()
    }

    /// Rows of a full pass. In the time it takes to read the weights, AMX tiles multiply 200 rows; the other paths
    /// multiply fewer than 50.
    pub(super) const fn pass_rows(self) -> usize {
        match self {
            CpuPath::Portable | CpuPath::Avx2 | CpuPath::Avx512 => 512,
            CpuPath::Amx => 2048,
        }
    }

    /// Rows of a pass with guessed tokens. Measured in the shape of SmolLM2-135M with bf16 weights on a Zen 4: 8 rows
    /// take 1.6 times as long as one with AVX-512, and 3 rows 1.4 times as long with AVX2. More rows save nothing when
    /// half of the guesses are right. AMX, whose tiles have 16 rows, and the portable path have not been measured.
    pub(super) const fn draft_rows(self) -> usize {
        match self {
            CpuPath::Portable => 1,
            CpuPath::Avx2 => 3,
            CpuPath::Avx512 => 8,
            CpuPath::Amx => 16,
        }
    }

    /// The name that [`FromStr`] takes.
    pub const fn name(self) -> &'static str {
        match self {
            CpuPath::Portable => "portable",
            CpuPath::Avx2 => "avx2",
            CpuPath::Avx512 => "avx512-bf16",
            CpuPath::Amx => "amx-bf16",
        }
    }
}

impl fmt::Display for CpuPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CpuPath {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|path| path.name() == name)
            .ok_or_else(|| refuse(name, "there is no such path"))
    }
}

/// The instruction set of `forced`, or of the best path available.
pub(super) fn choose(forced: Option<CpuPath>) -> Result<Isa> {
    match forced {
        Some(path) => {
            Isa::new(path).ok_or_else(|| refuse(path.name(), "this machine lacks its instructions"))
        }
        None => Ok(CpuPath::ALL
            .into_iter()
            .find_map(Isa::new)
            .unwrap_or(Isa::PORTABLE)),
    }
}

fn refuse(path: &str, reason: &'static str) -> KernelError {
    let names: Vec<_> = CpuPath::available().iter().map(|p| p.name()).collect();
    KernelError::Path {
        path: path.to_owned(),
        reason,
        available: names.join(", "),
    }
}
