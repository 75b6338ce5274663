//! Ops at the sizes of real models, against the CPU. `cargo xtask sim --all` runs them.

use selfie_kernels::reference::Matrix;
use selfie_kernels::{Activation, Adam, Backend, Cpu, CpuOptions, DType, LogitMap, Result};
use selfie_sim::Sim;
use selfie_testkit::cases::{acts_of, must, read_all, rows_of, values};

fn devices() -> (Cpu, Sim) {
    let cpu = must("cpu", Cpu::new(CpuOptions::default()));
    (cpu, must("sim", selfie_sim::sim()))
}

/// `|a - b| <= tolerance * (1 + |b|)` for all values.
#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let near = (a - b).abs() <= tolerance * (1.0 + b.abs());
        assert!(near, "{what}: value {i} is {a}, {b} on the CPU");
    }
}

/// The norm and the gated unit, for rows as wide as in models of up to 405 billion parameters.
#[test]
#[ignore = "real sizes: cargo xtask sim --all"]
fn wide_rows() {
    fn run<B: Backend>(b: &B, width: usize) -> Result<[Vec<f32>; 2]> {
        let x = rows_of(b, &values(1, 16 * width, (-2.0, 2.0)), width);
        let weight = b.vector(&values(2, width, (-1.5, 1.5)))?;
        let mut out = b.rows(16, width)?;
        b.rms_norm_f32(&x, &weight, 1e-5, &mut out)?;
        let gate_up = rows_of(b, &values(3, 16 * 2 * width, (-4.0, 4.0)), 2 * width);
        let mut gated = b.rows(16, width)?;
        b.glu_f32(Activation::Silu, &gate_up, &mut gated)?;
        Ok([read_all(b, &out), read_all(b, &gated)])
    }
    let (cpu, sim) = devices();
    for width in [2048, 4096, 5120, 8192, 11_008, 16_384, 4097] {
        let (got, want) = (must(width, run(&sim, width)), must(width, run(&cpu, width)));
        for (got, want) in got.iter().zip(&want) {
            close(&format!("{width} columns"), got, want, 1e-5);
        }
    }
}

/// The vocabularies of LLaMA 2 and 3, and one that cannot be read 16 bytes at a time.
#[test]
#[ignore = "real sizes: cargo xtask sim --all"]
fn whole_vocabularies() {
    const K: usize = 8;
    fn run<B: Backend>(b: &B, head: &Matrix, n: usize) -> Result<(Vec<u32>, Vec<f32>)> {
        let packed = b.matrix(&[head], DType::F32)?;
        let a = acts_of(b, &values(5, n * K, (-2.0, 2.0)), K, DType::F32);
        let best = b.head_best(&a, &packed, &LogitMap::PLAIN)?;
        let tokens: Vec<u32> = (0..n).map(|i| (i * 7919 % head.rows()) as u32).collect();
        let mut logprobs: Vec<f32> = best.iter().map(|best| best.logprob).collect();
        logprobs.extend(b.head_score(&a, &packed, &LogitMap::PLAIN, &tokens)?);
        Ok((best.iter().map(|best| best.token).collect(), logprobs))
    }
    let (cpu, sim) = devices();
    for vocab in [32_000, 128_256, 32_003] {
        let head = Matrix::new(DType::F32, K, &values(6, vocab * K, (-1.0, 1.0)));
        let (tokens, logprobs) = must(vocab, run(&sim, &head, 12));
        let (want_tokens, want) = must(vocab, run(&cpu, &head, 12));
        assert_eq!(tokens, want_tokens, "{vocab} tokens");
        close(&format!("{vocab} tokens"), &logprobs, &want, 1e-5);
    }
}

/// A training step on slices of a real MLP, with more rows than a tile.
#[test]
#[ignore = "real sizes: cargo xtask sim --all"]
fn a_wide_step_of_adam() {
    fn run<B: Backend>(b: &B, (n, out, width): (usize, usize, usize)) -> Result<Vec<f32>> {
        let mut w = rows_of(b, &values(1, out * width, (-1.0, 1.0)), width);
        let zeros = vec![0.0; out * width];
        let mut moments = [&zeros, &zeros].map(|zeros| rows_of(b, zeros, width));
        let d = rows_of(b, &values(2, n * out, (-1.0, 1.0)), out);
        let x = rows_of(b, &values(3, n * width, (-1.0, 1.0)), width);
        let [m, v] = &mut moments;
        b.adam(&mut w, [m, v], &d, &x, &Adam::new(1e-3))?;
        let mut all = read_all(b, &moments[0]);
        all.extend(read_all(b, &moments[1]));
        Ok(all)
    }
    let (cpu, sim) = devices();
    for sizes in [(100, 200, 4096), (33, 4096, 130), (257, 129, 515)] {
        let (got, want) = (must(sizes, run(&sim, sizes)), must(sizes, run(&cpu, sizes)));
        close(&format!("{sizes:?}"), &got, &want, 1e-5);
    }
}
