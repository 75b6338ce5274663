//! Python scripts that do the same work in PyTorch, alternating with ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Result;

/// A Python with torch (and transformers) to run scripts with.
pub(super) struct Python<'a>(pub(super) &'a Path);

impl Python<'_> {
    /// Runs a script of `benches/baseline` and returns the JSON object of its last line.
    pub(super) fn run(&self, script: &str, arguments: &[String]) -> Result<Value> {
        let python = self.0.display();
        let script = scripts().join(script);
        let output = Command::new(self.0)
            .arg(&script)
            .args(arguments)
            .output()
            .map_err(|error| format!("cannot run the baseline's {python}: {error}"))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let last = message.trim().lines().last().unwrap_or("no message");
            let script = script.display();
            return Err(format!("the baseline failed: {python} {script}: {last}").into());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.trim().lines().last().unwrap_or("");
        serde_json::from_str(line).map_err(|error| {
            format!("{}: its last line is not JSON: {error}", script.display()).into()
        })
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/baseline")
}

/// A number in the object that a script printed.
pub(super) fn number(json: &Value, name: &str) -> Result<f64> {
    let number = json[name].as_f64();
    Ok(number.ok_or_else(|| format!("the baseline printed no {name}"))?)
}
