//! `cargo xtask bench`: ops, a sweep of layers x tokens, and a step of control, on random weights of a real shape.

mod baseline;
mod control;
mod ops;
mod roof;
mod sweep;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use selfie_kernels::DType;
use selfie_llama::RandomCheckpoint;
use serde::Serialize;

use crate::{Result, host};
use baseline::Baseline;
pub(crate) use host::commit;
use sweep::SweepRun;
pub(crate) use sweep::{SweepArgs, sweep_in_this_process};

/// Weights are random: the figures say how fast the work is, not what the words are worth.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// tiny, tinyllama-1.1b, llama-3.2-1b, llama-2-7b, llama-3.1-8b or llama-2-13b
    #[arg(long, default_value = "tiny")]
    shape: String,
    /// Cells of the sweep: layers from 0 up, tokens 4 to 7
    #[arg(long, default_value_t = 64)]
    cells: usize,
    /// Tokens of each interpretation
    #[arg(long, default_value_t = 20)]
    new_tokens: usize,
    /// Runs of each measurement; the median counts
    #[arg(long, default_value_t = 5)]
    repeat: usize,
    /// CPU threads [default: one a core]
    #[arg(long)]
    threads: Option<usize>,
    /// auto, f32, bf16 or f16
    #[arg(long, default_value = "auto", value_parser = ["auto", "f32", "bf16", "f16"])]
    dtype: String,
    /// Where the checkpoint is, or is to be written [default: target/bench/SHAPE]
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// A folder with tokenizer.json for a checkpoint that is written
    #[arg(long, default_value = "crates/selfie-llama/tests/golden/llama2-mha")]
    tokenizer: PathBuf,
    /// Only ops, only sweep, or only control: a step of one layer's MLP, which needs no checkpoint
    #[arg(long, value_parser = ["ops", "sweep", "control"])]
    only: Option<String>,
    /// Write all figures to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// A command that measures the same sweep in Python and prints a JSON line with `interpretations_per_s` and
    /// `peak_rss_mib`; it gets the checkpoint's folder and the sweep's options, and runs in turn with ours. With
    /// `--only control`: the same step, as benches/baseline/mlp_step.py
    #[arg(long, value_name = "COMMAND")]
    baseline: Option<String>,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    shape: String,
    weights: &'static str,
    dtype: String,
    checkpoint_bytes: u64,
    roof: roof::Roof,
    ops: Vec<ops::Op>,
    sweep: Option<SweepReport>,
    baseline: Option<BaselineReport>,
}

#[derive(Serialize)]
struct SweepReport {
    cells: usize,
    new_tokens: usize,
    relevancy: bool,
    cells_per_s_median: f64,
    cells_per_s: Vec<f64>,
    load_s: f64,
    /// The roofline's time over the sweep's.
    of_roof: f64,
    /// The matrix products' FLOP/s over the peak.
    of_peak: f64,
    peak_rss_bytes: Option<u64>,
    peak_rss_over_checkpoint: Option<f64>,
}

#[derive(Serialize)]
struct BaselineReport {
    command: String,
    cells_per_s_median: f64,
    cells_per_s: Vec<f64>,
    peak_rss_bytes: Option<u64>,
    ours_over_baseline: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.repeat == 0 || args.cells == 0 || args.new_tokens == 0 {
        return Err("--repeat, --cells and --new-tokens have to be at least 1".into());
    }
    let shape = shape(&args.shape)?;
    if args.only.as_deref() == Some("control") {
        return control::run(args, &shape);
    }
    let default = Path::new("target/bench").join(&args.shape);
    let dir = args.checkpoint.as_ref().unwrap_or(&default);
    // config.json is the last file that is written.
    if !dir.join("config.json").exists() {
        let start = Instant::now();
        shape.write(dir, &args.tokenizer)?;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "wrote random weights to {} in {seconds:.1} s",
            dir.display()
        );
    }
    let cpu = host::cpu(args.threads)?;
    let dtype = sweep::dtype(&args.dtype).unwrap_or(shape.dtype);
    let roof = roof::Roof::measure(&cpu, dtype, args.repeat)?;
    let mut report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(&cpu)?,
        shape: args.shape.clone(),
        weights: "random",
        dtype: args.dtype.clone(),
        checkpoint_bytes: selfie_llama::Checkpoint::open(dir)?.total_bytes(),
        roof,
        ops: Vec::new(),
        sweep: None,
        baseline: None,
    };
    println!("{}, {}", report.host.cpu, report.host.device);
    println!(
        "shape {}, random weights, {} bytes",
        report.shape, report.checkpoint_bytes
    );
    println!(
        "peak {:.0} GFLOP/s, parallel read {:.1} GB/s",
        roof.peak_gflop_per_s, roof.read_gb_per_s
    );
    if args.only.as_deref() != Some("sweep") {
        report.ops = ops::measure(&cpu, &roof, &shape, args.repeat)?;
        ops::print(&report.ops);
    }
    drop(cpu);
    if args.only.as_deref() != Some("ops") {
        measure_sweep(args, dir, &shape, &mut report)?;
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n")
            .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(())
}

fn shape(name: &str) -> Result<RandomCheckpoint> {
    if name == "tiny" {
        // A few seconds on any machine, and still more work than overhead.
        return Ok(RandomCheckpoint {
            d_model: 512,
            ffn: 1408,
            n_layers: 8,
            vocab_size: 4096,
            dtype: DType::Bf16,
            ..RandomCheckpoint::tiny()
        });
    }
    RandomCheckpoint::shape(name).ok_or_else(|| {
        let known = RandomCheckpoint::SHAPES.join(", ");
        format!("there is no shape \"{name}\"; there are: tiny, {known}").into()
    })
}

fn measure_sweep(
    args: &Args,
    dir: &Path,
    shape: &RandomCheckpoint,
    report: &mut Report,
) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let sweep = SweepArgs {
        checkpoint: dir.to_owned(),
        cells: args.cells,
        new_tokens: args.new_tokens,
        threads: args.threads,
        dtype: args.dtype.clone(),
    };
    let baseline = args.baseline.as_deref().map(|command| Baseline {
        command,
        dir,
        cells: args.cells,
        n_layers: shape.n_layers,
        new_tokens: args.new_tokens,
    });
    // In turn, so that a change of the machine's speed meets both.
    for _ in 0..args.repeat {
        ours.push(sweep_in_a_child(&sweep)?);
        if let Some(baseline) = &baseline {
            theirs.push(baseline.run()?);
        }
    }
    let cells_per_s: Vec<f64> = ours
        .iter()
        .map(|run| args.cells as f64 / run.sweep_s)
        .collect();
    let peak = ours.iter().filter_map(|run| run.peak_rss_bytes).max();
    let over = |bytes: u64| bytes as f64 / report.checkpoint_bytes as f64;
    let seconds = median(&ours.iter().map(|run| run.sweep_s).collect::<Vec<_>>());
    let flop = roof::Roof::sweep_flop(shape, args.cells, &ours[0]);
    let sweep = SweepReport {
        of_roof: report.roof.sweep_seconds(shape, args.cells, &ours[0]) / seconds,
        of_peak: flop / seconds / report.roof.peak_gflop_per_s / 1e9,
        cells: args.cells,
        new_tokens: args.new_tokens,
        relevancy: true,
        cells_per_s_median: median(&cells_per_s),
        cells_per_s,
        load_s: median(&ours.iter().map(|run| run.load_s).collect::<Vec<_>>()),
        peak_rss_bytes: peak,
        peak_rss_over_checkpoint: peak.map(over),
    };
    println!(
        "\nsweep: {} cells x {} tokens, relevancy on, {}",
        sweep.cells, sweep.new_tokens, ours[0].dtype
    );
    println!(
        "  {:26} {:>10.2} cells/s (median of {})",
        "selfie", sweep.cells_per_s_median, args.repeat
    );
    println!(
        "  {:26} {:>10.2} of the roofline, {:.2} of the peak",
        "", sweep.of_roof, sweep.of_peak
    );
    println!("  {:26} {:>10.2} s", "load", sweep.load_s);
    if let (Some(peak), Some(over)) = (peak, sweep.peak_rss_over_checkpoint) {
        println!(
            "  {:26} {:>10.0} MB, {over:.2} x the checkpoint",
            "peak RSS",
            peak as f64 / 1e6
        );
    }
    if args.baseline.is_none() {
        println!("  {:26} not measured: no --baseline", "ratio to a baseline");
    }
    if let Some(command) = &args.baseline {
        let rates: Vec<f64> = theirs.iter().map(|run| run.cells_per_s).collect();
        let rate = median(&rates);
        let ratio = sweep.cells_per_s_median / rate;
        println!(
            "  {:26} {rate:>10.2} cells/s; selfie is {ratio:.1} x",
            "baseline"
        );
        let peak = theirs.iter().filter_map(|run| run.peak_rss_bytes).max();
        if let Some(peak) = peak {
            println!(
                "  {:26} {:>10.0} MB",
                "baseline's peak RSS",
                peak as f64 / 1e6
            );
        }
        report.baseline = Some(BaselineReport {
            command: command.clone(),
            cells_per_s_median: rate,
            cells_per_s: rates,
            peak_rss_bytes: peak,
            ours_over_baseline: ratio,
        });
    }
    report.sweep = Some(sweep);
    Ok(())
}

fn sweep_in_a_child(args: &SweepArgs) -> Result<SweepRun> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("sweep").args(args.to_arguments());
    let output = command.output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the sweep failed: {}", message.trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
