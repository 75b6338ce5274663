//! What threads share, in small products. `.ci/unsafe.sh` runs this in Miri and under ThreadSanitizer, which see what
//! an ordinary run does not.

use std::thread;

use selfie_kernels::{Backend, BlockFormat, Cpu, CpuOptions, CpuPath, DType, Format, SliceMatrix};

/// Rows of the weight: enough work for two threads. The last strip is not whole.
const ROWS: usize = 163;
const COLUMNS: usize = 64;
/// Rows of the operand: a tile, and some that are left.
const OPERANDS: usize = 7;

/// Small whole numbers: sums are exact in any order and in any type.
fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| ((i * 7 + seed * 5) % 5) as f32 - 2.0)
        .collect()
}

fn product(a: &[f32], w: &[f32]) -> Vec<f32> {
    let dot = |(a, w): (&[f32], &[f32])| a.iter().zip(w).map(|(a, w)| a * w).sum();
    let rows = a.chunks(COLUMNS);
    rows.flat_map(|a| {
        w.chunks(COLUMNS)
            .map(move |w| dot((a, w)))
            .collect::<Vec<f32>>()
    })
    .collect()
}

/// One product on a backend that others may be using.
fn check(cpu: &Cpu, format: Format, seed: usize) {
    let (w, x) = (
        values(ROWS * COLUMNS, seed),
        values(OPERANDS * COLUMNS, seed + 1),
    );
    let source = SliceMatrix::from_f32(COLUMNS, &w).unwrap();
    let matrix = cpu.stack(&[(&source, format)]).unwrap();
    let mut rows = cpu.rows(OPERANDS, COLUMNS).unwrap();
    cpu.write_rows(&x, &mut rows).unwrap();
    let dtype = match format {
        Format::Plain(dtype) => dtype,
        Format::Blocks(_) => DType::F32,
    };
    let mut acts = cpu.acts(OPERANDS, COLUMNS, dtype).unwrap();
    cpu.cast(&rows, &mut acts).unwrap();
    let mut out = cpu.rows(OPERANDS, ROWS).unwrap();
    cpu.linear(&acts, &matrix, None, &mut out).unwrap();
    let got = cpu.read_rows(&out, 0..OPERANDS).unwrap();
    let want = product(&x, &w);
    match format {
        Format::Plain(_) => assert_eq!(got, want),
        // Blocks of 8 bits: a step is a 127th of the largest value, 2, on both sides.
        Format::Blocks(_) => {
            let most = COLUMNS as f32 * 2.0 * (2.0 / 127.0 + 2.0 / 127.0);
            assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() <= most));
        }
    }
    // The bits do not depend on who else calls.
    cpu.linear_add(&acts, &matrix, None, &mut out).unwrap();
    let twice = cpu.read_rows(&out, 0..OPERANDS).unwrap();
    assert!(
        twice
            .iter()
            .zip(&got)
            .all(|(twice, once)| *twice == 2.0 * once)
    );
}

#[test]
fn callers_share_threads_and_scratch() {
    for path in CpuPath::available() {
        let options = CpuOptions {
            threads: Some(2),
            path: Some(path),
        };
        let cpu = Cpu::new(options).unwrap();
        thread::scope(|scope| {
            let cpu = &cpu;
            for (seed, format) in [
                Format::Plain(DType::F32),
                Format::Plain(DType::Bf16),
                Format::Plain(DType::F16),
                Format::Blocks(BlockFormat::Q8_0),
            ]
            .into_iter()
            .enumerate()
            {
                scope.spawn(move || check(cpu, format, seed));
            }
        });
    }
}
