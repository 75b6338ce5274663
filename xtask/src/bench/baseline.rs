//! The same sweep by somebody else's program.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::sweep::TOKENS;
use crate::Result;

/// A command that takes the options of the Python baseline: `DIR --dtype --batch --layers --tokens --new`.
pub(super) struct Baseline<'a> {
    pub(super) command: &'a str,
    pub(super) dir: &'a Path,
    pub(super) cells: usize,
    pub(super) n_layers: usize,
    pub(super) new_tokens: usize,
}

/// What it measured of itself.
pub(super) struct BaselineRun {
    pub(super) cells_per_s: f64,
    pub(super) peak_rss_bytes: Option<u64>,
}

impl Baseline<'_> {
    pub(super) fn run(&self) -> Result<BaselineRun> {
        let mut words = self.command.split_whitespace();
        let program = words.next().ok_or("--baseline is empty")?;
        // It sweeps whole layers; its rate hardly depends on their number.
        let layers = self.cells.div_ceil(TOKENS.len()).min(self.n_layers);
        let tokens = TOKENS.map(|token| token.to_string()).join(",");
        let mut command = Command::new(program);
        command.args(words).arg(self.dir);
        if !self.command.contains("--dtype") {
            command.args(["--dtype", "bfloat16"]);
        }
        if !self.command.contains("--batch") {
            command.args(["--batch", "64"]);
        }
        command.args(["--layers", &format!("0..{layers}"), "--tokens", &tokens]);
        command.args(["--new", &self.new_tokens.to_string()]);
        let output = command
            .output()
            .map_err(|error| format!("cannot run {program}: {error}"))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let last = message.trim().lines().last().unwrap_or("no message");
            return Err(format!("the baseline failed: {last}").into());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.trim().lines().last().unwrap_or("");
        let json: Value = serde_json::from_str(line)
            .map_err(|error| format!("the baseline's last line is no JSON: {error}"))?;
        let cells_per_s = json["interpretations_per_s"]
            .as_f64()
            .ok_or("the baseline did not print interpretations_per_s")?;
        let mebibytes = json["peak_rss_mib"].as_u64();
        Ok(BaselineRun {
            cells_per_s,
            peak_rss_bytes: mebibytes.map(|mib| mib << 20),
        })
    }
}
