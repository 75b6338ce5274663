//! A step of control on one layer's MLP: forward, backward and Adam.

use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;
use selfie_control::TrainedMlp;
use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Adam, Backend, Cpu, DType};
use selfie_llama::{HostTensor, MlpUnit, MlpWeights};
use serde::Serialize;
use serde_json::Value;

use super::baseline::Python;
use super::{Args, median, save};
use crate::{Result, host};

/// Rows per step: a single embedding, and several.
const ROWS: [usize; 2] = [1, 8];

/// Steps per round; the rounds of the measurements alternate.
const STEPS: usize = 5;

/// All results.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    shape: String,
    d_model: usize,
    ffn: usize,
    /// The size of the MLP in f32, in bytes. Weights and moments take three times as much.
    mlp_bytes: usize,
    rows: Vec<Rows>,
}

#[derive(Serialize)]
struct Rows {
    rows: usize,
    step_s_median: f64,
    step_s: Vec<f64>,
    /// The time to read and write weights and moments once, on all threads.
    floor_s_median: f64,
    floor_s: Vec<f64>,
    step_over_floor: f64,
    baseline: Option<BaselineReport>,
}

#[derive(Serialize)]
struct BaselineReport {
    step_s_median: f64,
    step_s: Vec<f64>,
    baseline_over_ours: f64,
}

/// Measures steps, the floor and the baseline, alternating.
pub(super) fn run(args: &Args, shape: &RandomCheckpoint) -> Result<()> {
    let cpu = host::cpu(args.threads)?;
    let (d, ffn) = (shape.d_model, shape.ffn);
    let mut report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(&cpu)?,
        shape: args.shape.clone(),
        d_model: d,
        ffn,
        mlp_bytes: 3 * d * ffn * 4,
        rows: Vec::new(),
    };
    println!("{}, {}", report.host.cpu, report.host.device);
    println!(
        "control of one MLP, {d} x {ffn}, {} MB in f32",
        report.mlp_bytes / 1_000_000
    );
    for rows in ROWS {
        let (mut ours, mut floor, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..args.repeat {
            ours.extend(steps(&cpu, d, ffn, rows)?);
            floor.extend(copies(&cpu, 3 * d * ffn)?);
            if let Some(python) = &args.baseline {
                theirs.extend(baseline(python, d, ffn, rows, cpu.threads())?);
            }
        }
        let step = median(&ours);
        let floor_s = median(&floor);
        println!(
            "  {rows:>3} rows: step {:>8.1} ms, one read and write of weights and moments {:>8.1} ms, {:.2} x",
            step * 1e3,
            floor_s * 1e3,
            step / floor_s
        );
        let mut compared = None;
        if args.baseline.is_some() {
            let baseline = median(&theirs);
            println!(
                "             PyTorch {:>6.1} ms, {:.1} x ours",
                baseline * 1e3,
                baseline / step
            );
            compared = Some(BaselineReport {
                step_s_median: baseline,
                step_s: theirs,
                baseline_over_ours: baseline / step,
            });
        }
        report.rows.push(Rows {
            rows,
            step_s_median: step,
            step_s: ours,
            floor_s_median: floor_s,
            floor_s: floor,
            step_over_floor: step / floor_s,
            baseline: compared,
        });
    }
    save(args, &report)
}

/// The times of some steps on random weights, after a first step that touches all memory.
fn steps(cpu: &Cpu, d: usize, ffn: usize, rows: usize) -> Result<Vec<f64>> {
    let values = |n: usize, scale: f32| -> Vec<f32> {
        let value = |i: usize| ((i * 2_654_435_761) % 1021) as f32 / 510.0 - 1.0;
        (0..n).into_par_iter().map(|i| scale * value(i)).collect()
    };
    let tensor = |name: &str, out: usize, columns: usize| {
        let name = format!("model.layers.0.mlp.{name}.weight");
        let values = values(out * columns, 0.02);
        HostTensor::new(name, DType::F32, vec![out, columns], &values)
    };
    let mlp = MlpWeights {
        layer: 0,
        tensors: vec![
            tensor("gate_proj", ffn, d),
            tensor("up_proj", ffn, d),
            tensor("down_proj", d, ffn),
        ],
    };
    let mut trained = TrainedMlp::new(cpu, &mlp, MlpUnit::default(), Adam::new(3e-4), rows)?;
    drop(mlp);
    let mut x = cpu.rows(rows, d)?;
    cpu.write_rows(&values(rows * d, 1.0), &mut x)?;
    let mut times = Vec::new();
    for _ in 0..=STEPS {
        let start = Instant::now();
        let out = trained.forward(cpu, &x)?;
        let scale = 2.0 / out.len() as f32;
        let gradient: Vec<f32> = out.iter().map(|out| scale * (out - 1.0)).collect();
        trained.step(cpu, &x, &gradient)?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times[1..].to_vec())
}

/// The times of reading and writing three arrays of `n` f32 once.
fn copies(cpu: &Cpu, n: usize) -> Result<Vec<f64>> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(cpu.threads())
        .build()?;
    let mut arrays = [vec![0.5f32; n], vec![0.25f32; n], vec![0.125f32; n]];
    let mut times = Vec::new();
    for _ in 0..=STEPS {
        let start = Instant::now();
        pool.install(|| {
            for array in &mut arrays {
                array.par_chunks_mut(1 << 16).for_each(|chunk| {
                    chunk.iter_mut().for_each(|x| *x = *x * 0.999 + 0.001);
                });
            }
        });
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times[1..].to_vec())
}

/// The times of as many steps in PyTorch.
fn baseline(python: &Path, d: usize, ffn: usize, rows: usize, threads: usize) -> Result<Vec<f64>> {
    let json = Python(python).run(
        "mlp_step.py",
        &[
            format!("--d-model={d}"),
            format!("--ffn={ffn}"),
            format!("--rows={rows}"),
            format!("--steps={STEPS}"),
            format!("--threads={threads}"),
        ],
    )?;
    let times = json["step_s"]
        .as_array()
        .ok_or("the baseline did not print step_s")?;
    Ok(times.iter().filter_map(Value::as_f64).collect())
}
