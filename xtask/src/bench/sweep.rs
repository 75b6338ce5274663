//! Sweeps of layers x tokens, alternating with those of rivals.

use std::path::Path;

use selfie_demo::RandomCheckpoint;
use selfie_kernels::Cpu;
use serde::Serialize;

use super::child::{SweepArgs, SweepRun, sweep_in_a_child};
use super::rival::{self, Raced, Rival};
use super::roof::Roof;
use super::{Args, median};
use crate::Result;

/// The results for one number of cells.
#[derive(Serialize)]
pub(super) struct Sweep {
    cells: usize,
    new_tokens: usize,
    relevancy: bool,
    dtype: String,
    cells_per_s_median: f64,
    cells_per_s: Vec<f64>,
    load_s: f64,
    /// Rows run per scored token.
    scored_rows_per_token: f64,
    /// The roofline's time over the sweep's.
    of_roof: f64,
    /// The matrix products' FLOP/s over the peak.
    of_peak: f64,
    peak_rss_bytes: Option<u64>,
    peak_rss_over_checkpoint: Option<f64>,
    rivals: Vec<Raced>,
}

/// Measures a sweep of so many cells, alternating with the roofs and the rivals, so that changes in the machine's speed
/// affect all of them.
pub(super) fn measure(
    args: &Args,
    rivals: &[Rival<'_>],
    cells: usize,
    dir: &Path,
    shape: &RandomCheckpoint,
    cpu: &Cpu,
    checkpoint_bytes: u64,
) -> Result<Sweep> {
    let ours = SweepArgs {
        checkpoint: dir.to_owned(),
        cells,
        new_tokens: args.new_tokens,
        threads: args.threads,
        dtype: args.dtype.clone(),
    };
    let dtype = super::dtype(args, shape);
    let mut runs = Vec::new();
    let mut theirs = vec![Vec::new(); rivals.len()];
    let (mut of_roof, mut of_peak) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let before = Roof::measure(cpu, dtype, 1)?;
        let run = sweep_in_a_child(&ours)?;
        let roof = before.higher(Roof::measure(cpu, dtype, 1)?);
        of_roof.push(roof.sweep_seconds(shape, cells, &run) / run.sweep_s);
        let flop = Roof::sweep_flop(shape, cells, &run);
        of_peak.push(flop / run.sweep_s / roof.peak_gflop_per_s / 1e9);
        runs.push(run);
        for (rival, runs) in rivals.iter().zip(&mut theirs) {
            runs.push(rival.sweep(args, cells, dir, shape)?);
        }
    }
    let rates: Vec<f64> = runs.iter().map(|run| cells as f64 / run.sweep_s).collect();
    let rate = median(&rates);
    let peak = runs.iter().filter_map(|run| run.peak_rss_bytes).max();
    Ok(Sweep {
        cells,
        new_tokens: args.new_tokens,
        relevancy: true,
        dtype: runs[0].dtype.clone(),
        cells_per_s_median: rate,
        cells_per_s: rates,
        load_s: median(
            &runs
                .iter()
                .map(|run: &SweepRun| run.load_s)
                .collect::<Vec<_>>(),
        ),
        scored_rows_per_token: runs[0].scored_rows as f64 / (cells * args.new_tokens) as f64,
        of_roof: median(&of_roof),
        of_peak: median(&of_peak),
        peak_rss_bytes: peak,
        peak_rss_over_checkpoint: peak.map(|peak| peak as f64 / checkpoint_bytes as f64),
        rivals: rivals
            .iter()
            .zip(&theirs)
            .map(|(rival, runs)| rival.raced(args, cells, rate, runs))
            .collect::<Result<_>>()?,
    })
}

pub(super) fn print(sweep: &Sweep) {
    let line = |name: &str, value: f64, unit: &str| println!("  {name:26} {value:>10.2} {unit}");
    println!(
        "\nsweep: {} cells x {} tokens, relevancy on, {}",
        sweep.cells, sweep.new_tokens, sweep.dtype
    );
    let runs = format!("cells/s (median of {})", sweep.cells_per_s.len());
    line("selfie", sweep.cells_per_s_median, &runs);
    let of_peak = format!("of the roofline, {:.2} of the peak", sweep.of_peak);
    line("", sweep.of_roof, &of_peak);
    line(
        "scored",
        sweep.scored_rows_per_token,
        "rows per token, since texts with a common beginning share rows",
    );
    line("load", sweep.load_s, "s");
    if let (Some(peak), Some(over)) = (sweep.peak_rss_bytes, sweep.peak_rss_over_checkpoint) {
        line(
            "peak RSS",
            peak as f64 / 1e9,
            &format!("GB, {over:.2} x the checkpoint"),
        );
    }
    if sweep.rivals.is_empty() {
        println!("  {:26} not measured: no --baseline", "ratio to PyTorch");
    }
    sweep.rivals.iter().for_each(rival::print);
}
