//! The machine that results were measured on.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use selfie_kernels::{Backend, Cpu, CpuOptions, CpuPath};
use serde::Serialize;

use crate::Result;

#[derive(Serialize)]
pub(crate) struct Host {
    pub(crate) cpu: String,
    cores: usize,
    memory_bytes: u64,
    /// The instruction-set paths that this CPU supports, fastest first.
    cpu_paths: Vec<&'static str>,
    /// The backend's description.
    pub(crate) device: String,
}

impl Host {
    pub(crate) fn new(cpu: &Cpu) -> Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let name = name.map_or("unknown CPU", |name| {
            name.trim_start_matches([' ', '\t', ':'])
        });
        Ok(Self {
            cpu: name.to_owned(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: cpu.memory()?.total,
            cpu_paths: CpuPath::available()
                .iter()
                .map(|path| path.name())
                .collect(),
            device: cpu.describe(),
        })
    }
}

/// The CPU, with the path that `SELFIE_CPU_PATH` sets, if any.
pub(crate) fn cpu(threads: Option<usize>) -> Result<Cpu> {
    let path = match std::env::var("SELFIE_CPU_PATH") {
        Ok(name) => Some(name.parse()?),
        Err(_) => None,
    };
    Ok(Cpu::new(CpuOptions { threads, path })?)
}

/// The commit of the working tree, with `-dirty` if it has changes.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}-dirty"),
    }
}

/// The date in UTC, such as `2026-01-31`.
pub(crate) fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = since.map_or(0, |since| since.as_secs() / 86_400) as i64;
    // Days to civil date in the proleptic Gregorian calendar, with years that begin in March.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
