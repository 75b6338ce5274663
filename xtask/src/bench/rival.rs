//! The sweep's cells in PyTorch: with hooks, as people write them today, or with the original package.

use std::path::Path;

use selfie_demo::RandomCheckpoint;
use selfie_kernels::AttnShape;
use serde::Serialize;
use serde_json::Value;

use super::baseline::{Python, number};
use super::child::{PROMPT, TOKENS};
use super::{Args, median};
use crate::Result;

/// Another implementation of the sweep, and its dtype.
pub(super) struct Rival<'a> {
    name: &'static str,
    python: &'a Path,
    /// A checkout of the original package; without one, benches/baseline/hooks.py runs.
    package: Option<&'a Path>,
    dtype: &'a str,
}

/// A rival's results.
#[derive(Serialize)]
pub(super) struct Raced {
    name: &'static str,
    dtype: String,
    batch: usize,
    cells_per_s_median: f64,
    cells_per_s: Vec<f64>,
    peak_rss_bytes: u64,
    ours_over_it: f64,
}

impl<'a> Rival<'a> {
    /// The rivals that the arguments name.
    pub(super) fn of(args: &'a Args, shape: &RandomCheckpoint) -> Result<Vec<Self>> {
        let mut rivals = Vec::new();
        if let Some(python) = &args.baseline {
            rivals.push(Rival {
                name: "PyTorch with hooks",
                python,
                package: None,
                dtype: &args.baseline_dtype,
            });
        }
        if let Some(package) = &args.original {
            check_original(package, shape)?;
            rivals.push(Rival {
                name: "original package",
                python: &args.original_python,
                package: Some(package),
                // It turns relevancies into numpy arrays, which do not support bf16.
                dtype: "f32",
            });
        }
        Ok(rivals)
    }

    /// Runs one sweep and returns the JSON that sweep.py prints.
    pub(super) fn sweep(
        &self,
        args: &Args,
        cells: usize,
        dir: &Path,
        shape: &RandomCheckpoint,
    ) -> Result<Value> {
        let tokens = TOKENS.map(|token| token.to_string()).join(",");
        let mut arguments = vec![dir.display().to_string(), format!("--prompt={PROMPT}")];
        arguments.extend([
            format!("--cells={cells}"),
            format!("--layers={}", shape.n_layers),
            format!("--tokens={tokens}"),
            format!("--new={}", args.new_tokens),
            format!("--batch={}", args.baseline_batch),
        ]);
        arguments.push(match self.dtype {
            "f32" => "--dtype=float32".to_owned(),
            _ => "--dtype=bfloat16".to_owned(),
        });
        arguments.extend(args.threads.map(|threads| format!("--threads={threads}")));
        let package = self
            .package
            .map(|dir| format!("--original={}", dir.display()));
        arguments.extend(package);
        Python(self.python).run("sweep.py", &arguments)
    }

    /// Summarizes all sweeps with so many cells, beside our cells/s.
    pub(super) fn raced(
        &self,
        args: &Args,
        cells: usize,
        ours: f64,
        runs: &[Value],
    ) -> Result<Raced> {
        let mut rates = Vec::new();
        let mut peak = 0.0f64;
        for json in runs {
            rates.push(cells as f64 / number(json, "seconds")?);
            peak = peak.max(number(json, "peak_rss_mib")?);
        }
        let rate = median(&rates);
        Ok(Raced {
            name: self.name,
            dtype: self.dtype.to_owned(),
            batch: args.baseline_batch,
            cells_per_s_median: rate,
            cells_per_s: rates,
            peak_rss_bytes: (peak as u64) << 20,
            ours_over_it: ours / rate,
        })
    }
}

/// Checks that the package exists, and that its transformers (4.34) can load the shape.
fn check_original(package: &Path, shape: &RandomCheckpoint) -> Result<()> {
    let entry = package.join("selfie/interpret.py");
    if !entry.exists() {
        let entry = entry.display();
        return Err(format!(
            "--original: {entry} does not exist; give a checkout of tonychenxyz/selfie"
        )
        .into());
    }
    let AttnShape {
        heads, head_dim, ..
    } = shape.attn;
    if heads * head_dim != shape.d_model {
        let d_model = shape.d_model;
        return Err(format!(
            "--original: transformers 4.34 needs heads x head_dim = d_model, but this shape has {heads} x {head_dim} \
             and {d_model}: take another --shape"
        )
        .into());
    }
    Ok(())
}

pub(super) fn print(raced: &Raced) {
    let Raced {
        name, dtype, batch, ..
    } = raced;
    println!(
        "  {:26} {:>10.2} cells/s ({dtype}, batch {batch}); selfie is {:.1} x; its peak RSS {:.2} GB",
        name,
        raced.cells_per_s_median,
        raced.ours_over_it,
        raced.peak_rss_bytes as f64 / 1e9
    );
}
