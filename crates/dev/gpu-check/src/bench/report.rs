//! What was measured, as a table and as JSON.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::Result;

#[derive(Serialize)]
pub(crate) struct Report {
    host: String,
    gpu: String,
    driver: String,
    commit: String,
    date: String,
    weights: &'static str,
    results: Vec<Figure>,
    /// What PyTorch did, by the same names.
    #[serde(skip)]
    baseline: Map<String, Value>,
}

#[derive(Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: String,
    baseline: Option<f64>,
}

impl Report {
    pub(crate) fn new(gpu: &str, commit: &str, baseline: Option<&Path>) -> Result<Self> {
        let baseline = match baseline {
            Some(path) => serde_json::from_str(&fs::read_to_string(path)?)?,
            None => Map::new(),
        };
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let name = name.map_or("unknown CPU", |name| {
            name.trim_start_matches([' ', '\t', ':'])
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let said = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            let line = text.lines().next()?.trim().to_owned();
            (output.status.success() && !line.is_empty()).then_some(line)
        };
        let query = ["--query-gpu=driver_version", "--format=csv,noheader"];
        Ok(Self {
            host: format!("{cores} cores of {name}"),
            gpu: gpu.to_owned(),
            driver: said("nvidia-smi", &query).unwrap_or_else(|| "unknown".to_owned()),
            commit: commit.to_owned(),
            date: said("date", &["-u", "+%F"]).unwrap_or_else(|| "unknown".to_owned()),
            weights: "random",
            results: Vec::new(),
            baseline,
        })
    }

    /// Prints a figure and keeps it.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &str) {
        let baseline = self.baseline.get(name).and_then(Value::as_f64);
        let beside = baseline.map_or(String::new(), |b| format!("   PyTorch: {b:.2}"));
        println!("{name:62} {value:>10.2} {unit:8}{beside}");
        self.results.push(Figure {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            baseline,
        });
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n")
            .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        println!("wrote {}", path.display());
        Ok(())
    }
}
