//! Sweeps of layers x tokens, alternating with those of rivals.

use std::path::Path;

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{BlockFormat, Cpu};
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
    quantized: Option<Quantized>,
    rivals: Vec<Raced>,
}

/// The same sweep, with weights that are quantized on loading.
#[derive(Serialize)]
struct Quantized {
    format: String,
    cells_per_s_median: f64,
    cells_per_s: Vec<f64>,
    /// Its speed over that of the plain weights: the median of the pairs.
    ratio: f64,
    load_s: f64,
    peak_rss_bytes: Option<u64>,
}

/// Measures a sweep of so many cells, alternating with the roofs, the quantized weights and the rivals, so that changes
/// in the machine's speed affect all of them.
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
        quantize: None,
    };
    let dtype = super::dtype(args, shape);
    let (mut runs, mut quantized) = (Vec::new(), Vec::new());
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
        if args.quantize.is_some() {
            quantized.push(sweep_in_a_child(&SweepArgs {
                quantize: args.quantize,
                ..ours.clone()
            })?);
        }
        for (rival, runs) in rivals.iter().zip(&mut theirs) {
            runs.push(rival.sweep(args, cells, dir, shape)?);
        }
    }
    let rates = rates(cells, &runs);
    let rate = median(&rates);
    let peak = peak(&runs);
    let quantized = args
        .quantize
        .map(|format| Quantized::new(format, cells, &quantized, &rates));
    Ok(Sweep {
        cells,
        new_tokens: args.new_tokens,
        relevancy: true,
        dtype: runs[0].dtype.clone(),
        cells_per_s_median: rate,
        cells_per_s: rates,
        load_s: load(&runs),
        scored_rows_per_token: runs[0].scored_rows as f64 / (cells * args.new_tokens) as f64,
        of_roof: median(&of_roof),
        of_peak: median(&of_peak),
        peak_rss_bytes: peak,
        peak_rss_over_checkpoint: peak.map(|peak| peak as f64 / checkpoint_bytes as f64),
        quantized,
        rivals: rivals
            .iter()
            .zip(&theirs)
            .map(|(rival, runs)| rival.raced(args, cells, rate, runs))
            .collect::<Result<_>>()?,
    })
}

impl Quantized {
    fn new(format: BlockFormat, cells: usize, runs: &[SweepRun], plain: &[f64]) -> Self {
        let rates = rates(cells, runs);
        let ratios: Vec<f64> = rates
            .iter()
            .zip(plain)
            .map(|(rate, plain)| rate / plain)
            .collect();
        Self {
            format: format.to_string(),
            cells_per_s_median: median(&rates),
            ratio: median(&ratios),
            load_s: load(runs),
            peak_rss_bytes: peak(runs),
            cells_per_s: rates,
        }
    }
}

fn rates(cells: usize, runs: &[SweepRun]) -> Vec<f64> {
    runs.iter().map(|run| cells as f64 / run.sweep_s).collect()
}

fn load(runs: &[SweepRun]) -> f64 {
    median(&runs.iter().map(|run| run.load_s).collect::<Vec<_>>())
}

fn peak(runs: &[SweepRun]) -> Option<u64> {
    runs.iter().filter_map(|run| run.peak_rss_bytes).max()
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
    if let Some(quantized) = &sweep.quantized {
        let ratio = format!("cells/s, {:.2} x the above", quantized.ratio);
        line(&quantized.format, quantized.cells_per_s_median, &ratio);
        line("load", quantized.load_s, "s");
        if let Some(peak) = quantized.peak_rss_bytes {
            line("peak RSS", peak as f64 / 1e9, "GB");
        }
    }
    if sweep.rivals.is_empty() {
        println!("  {:26} not measured: no --baseline", "ratio to PyTorch");
    }
    sweep.rivals.iter().for_each(rival::print);
}
