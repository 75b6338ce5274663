//! The same sweep on each family's own layers, over one shape: what a family costs beside a LLaMA, operation for
//! operation.

use std::fs;
use std::path::Path;

use selfie_demo::RandomCheckpoint;
use selfie_llama::ModelType;
use serde::Serialize;

use super::child::{SweepArgs, sweep_in_a_child};
use super::roof::Roof;
use super::{Args, median, save};
use crate::{Result, host};

/// Layers of each checkpoint: one period of the longest pattern, Gemma 3's.
const LAYERS: usize = 6;

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    shape: String,
    layers: usize,
    cells: usize,
    families: Vec<Family>,
}

/// A family's speed.
#[derive(Serialize)]
struct Family {
    family: &'static str,
    gflop_per_s_median: f64,
    /// Its FLOP/s over those of the LLaMA that ran just before: the median, and of each pair.
    of_llama_median: f64,
    of_llama: Vec<f64>,
}

/// Runs each family in turn with a LLaMA, so that a change of the machine's speed meets both. The matrices of all of
/// them have the same sizes; operations are counted over these alone.
pub(super) fn run(args: &Args, shape: &RandomCheckpoint) -> Result<()> {
    let shape = RandomCheckpoint {
        n_layers: LAYERS.min(shape.n_layers),
        ..shape.clone()
    };
    let root = Path::new("target/bench").join(format!("{}-families", args.shape));
    let cells = args.cells[0];
    let rate = |dir: &Path| -> Result<f64> {
        let run = sweep_in_a_child(&SweepArgs {
            checkpoint: dir.to_owned(),
            cells,
            new_tokens: args.new_tokens,
            threads: args.threads,
            dtype: args.dtype.clone(),
            quantize: None,
        })?;
        Ok(Roof::sweep_flop(&shape, cells, &run) / run.sweep_s / 1e9)
    };
    let mut report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(&host::cpu(args.threads)?)?,
        shape: args.shape.clone(),
        layers: shape.n_layers,
        cells,
        families: Vec::new(),
    };
    println!("{}, {}", report.host.cpu, report.host.device);
    println!(
        "{cells} cells x {} tokens, {} layers of the shape {}, random weights",
        args.new_tokens, report.layers, report.shape
    );
    let llama = root.join("base");
    shape.write(&llama, &args.tokenizer)?;
    // A LLaMA is among them: beside itself it shows how much the machine's noise is.
    for family in ModelType::ALL {
        let dir = root.join(family.name());
        let of_family = RandomCheckpoint {
            family,
            ..shape.clone()
        };
        of_family.write(&dir, &args.tokenizer)?;
        let (mut rates, mut of_llama) = (Vec::new(), Vec::new());
        for _ in 0..args.repeat {
            let base = rate(&llama)?;
            let own = rate(&dir)?;
            rates.push(own);
            of_llama.push(own / base);
        }
        remove(&dir)?;
        let family = Family {
            family: family.name(),
            gflop_per_s_median: median(&rates),
            of_llama_median: median(&of_llama),
            of_llama,
        };
        print(&family);
        report.families.push(family);
    }
    remove(&root)?;
    save(args, &report)
}

fn remove(dir: &Path) -> Result<()> {
    fs::remove_dir_all(dir).map_err(|e| format!("cannot remove {}: {e}", dir.display()).into())
}

fn print(family: &Family) {
    let spread =
        |pick: fn(f64, f64) -> f64, from: f64| family.of_llama.iter().copied().fold(from, pick);
    println!(
        "  {:14} {:>8.1} GFLOP/s  {:.3} of llama's ({:.3} to {:.3})",
        family.family,
        family.gflop_per_s_median,
        family.of_llama_median,
        spread(f64::min, f64::INFINITY),
        spread(f64::max, 0.0),
    );
}
