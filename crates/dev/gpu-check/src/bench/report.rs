//! The measurements, as a table and as JSON.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Result, floors};

#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    host: String,
    gpu: String,
    driver: String,
    commit: String,
    date: String,
    weights: String,
    results: Vec<Figure>,
    /// PyTorch's results, under the same names.
    #[serde(skip)]
    baseline: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Figure {
    name: String,
    value: f64,
    unit: String,
    baseline: Option<f64>,
}

impl Report {
    /// Opens the file's figures, to add others, if they come from this GPU and commit.
    pub(crate) fn open(
        gpu: &str,
        commit: &str,
        file: &Path,
        baseline: Option<&Path>,
    ) -> Result<Self> {
        let mut report = Self::new(gpu, commit, baseline)?;
        if let Ok(text) = fs::read_to_string(file) {
            let earlier: Self = serde_json::from_str(&text)
                .map_err(|e| format!("{} holds no figures: {e}", file.display()))?;
            if (&earlier.gpu, &earlier.commit) != (&report.gpu, &report.commit) {
                let file = file.display();
                return Err(format!(
                    "{file} has the figures of another GPU or commit; name another file"
                )
                .into());
            }
            report.results = earlier.results;
        }
        Ok(report)
    }

    fn new(gpu: &str, commit: &str, baseline: Option<&Path>) -> Result<Self> {
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
            weights: "random".to_owned(),
            results: Vec::new(),
            baseline,
        })
    }

    /// Prints a figure and records it.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &str) {
        let baseline = self.baseline.get(name).and_then(Value::as_f64);
        let beside = baseline.map_or(String::new(), |b| format!("   PyTorch: {b:.2}"));
        println!("{name:62} {value:>10.2} {unit:8}{beside}");
        self.results.retain(|figure| figure.name != name);
        self.results.push(Figure {
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            baseline,
        });
    }

    /// Bytes per second that a copy reads and writes.
    pub(crate) fn copy(&self) -> f64 {
        1e9 * self.limit(floors::COPY)
    }

    /// Operations per second of a large bf16 product.
    pub(crate) fn matrix(&self) -> f64 {
        1e12 * self.limit(floors::MATRIX)
    }

    /// Whether the limits are known, to which shares refer.
    pub(crate) fn has_limits(&self) -> bool {
        [floors::COPY, floors::MATRIX]
            .iter()
            .all(|name| self.value(name).is_some())
    }

    fn limit(&self, name: &str) -> f64 {
        self.value(name).expect("limits are measured first")
    }

    fn value(&self, name: &str) -> Option<f64> {
        let figure = self.results.iter().find(|figure| figure.name == name);
        figure.map(|figure| figure.value)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json + "\n")
            .map_err(|e| format!("cannot write {}: {e}", path.display()).into())
    }
}
