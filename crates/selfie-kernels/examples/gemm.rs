//! A matrix product: weights are packed once, and rows are multiplied with them, in f32, bf16, and blocks of 8 and 4
//! bits.
//!
//! `cargo run --release -p selfie-kernels --example gemm [OUTPUTS INPUTS ROWS]`

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use selfie_kernels::{Backend, BlockFormat, Cpu, CpuOptions, DType, Format, SliceMatrix};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let [outputs, inputs, n] = shape()?;
    let cpu = Cpu::new(CpuOptions::default())?;
    println!(
        "{}: [{n}, {inputs}] x [{outputs}, {inputs}]",
        cpu.describe()
    );

    let weights = values(outputs * inputs, 1);
    let x = values(n * inputs, 2);
    let exact = product(&x, &weights, inputs);
    let mut rows = cpu.rows(n, inputs)?;
    cpu.write_rows(&x, &mut rows)?;

    let formats = [
        Format::Plain(DType::F32),
        Format::Plain(DType::Bf16),
        Format::Blocks(BlockFormat::Q8_0),
        Format::Blocks(BlockFormat::Q4K),
    ];
    for format in formats {
        // Packed in the order in which the product reads it: the only copy of a weight that a model needs.
        let source = SliceMatrix::from_f32(inputs, &weights)?;
        let matrix = cpu.stack(&[(&source, format)])?;

        // The rows, as the operand that such a weight asks for.
        let operand = match format {
            Format::Plain(dtype) => dtype,
            Format::Blocks(_) => DType::F32,
        };
        let mut acts = cpu.acts(n, inputs, operand)?;
        cpu.cast(&rows, &mut acts)?;

        let mut out = cpu.rows(n, outputs)?;
        let begin = Instant::now();
        cpu.linear(&acts, &matrix, None, &mut out)?;
        let seconds = begin.elapsed().as_secs_f64();

        let got = cpu.read_rows(&out, 0..n)?;
        let off = got
            .iter()
            .zip(&exact)
            .map(|(&got, &exact)| (f64::from(got) - exact).powi(2));
        let error = (off.sum::<f64>() / exact.iter().map(|x| x * x).sum::<f64>()).sqrt();
        let gflops = 2.0 * (n * inputs * outputs) as f64 / seconds / 1e9;
        let name = format.to_string();
        println!("{name:5} {gflops:8.1} GFLOP/s, relative error {error:.1e}");
        // What 4 bits leave of a weight; the others are far better.
        if error.is_nan() || error > 0.1 {
            return Err(format!("the product in {format} is wrong").into());
        }
    }
    Ok(())
}

/// Outputs, inputs and rows, as the command line says.
fn shape() -> Result<[usize; 3], Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        return Ok([1024, 2048, 64]);
    }
    let numbers: Result<Vec<usize>, _> = args.iter().map(|arg| arg.parse()).collect();
    match numbers.as_deref() {
        Ok(&[outputs, inputs, n]) if outputs > 0 && inputs > 0 && n > 0 => Ok([outputs, inputs, n]),
        _ => Err("give three numbers above 0, OUTPUTS INPUTS ROWS".into()),
    }
}

/// Numbers from -1 to 1 that look random (a linear congruential generator).
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The product in f64, to compare with.
fn product(x: &[f32], weights: &[f32], inputs: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    let row = |a| weights.chunks_exact(inputs).map(move |w| dot(a, w));
    x.chunks_exact(inputs).flat_map(row).collect()
}
