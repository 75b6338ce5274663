//! Weights in blocks: the tables of cases on every path that this machine has, the same arithmetic on all of them, the
//! same bits for a row in any batch, and the quality of quantization.

use selfie_kernels::reference::{BlockMatrix, Matrix};
use selfie_kernels::{
    Backend, BlockFormat, Cpu, CpuOptions, CpuPath, DType, Format, KernelError, quantize,
};
use selfie_testkit::cases::{self, acts_of, must, values};

fn cpu(path: CpuPath, threads: usize) -> Cpu {
    let options = CpuOptions {
        threads: Some(threads),
        path: Some(path),
    };
    must(path, Cpu::new(options))
}

fn on_all_paths(check: fn(&Cpu)) {
    for path in CpuPath::available() {
        check(&cpu(path, 2));
    }
}

#[test]
fn linear() {
    on_all_paths(cases::blocks::check_linear);
}

#[test]
fn stack() {
    on_all_paths(cases::blocks::check_stack);
}

#[test]
fn head() {
    on_all_paths(cases::blocks::check_head);
}

#[test]
fn not_finite() {
    on_all_paths(cases::blocks::check_not_finite);
}

#[test]
fn all_paths_have_the_same_bits() {
    let portable = cases::blocks::linear_bits(&cpu(CpuPath::Portable, 1));
    for path in CpuPath::available() {
        assert!(
            cases::blocks::linear_bits(&cpu(path, 2)) == portable,
            "{path} differs from plain Rust"
        );
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    let (n, k, out) = (70, 1000, 333);
    let a = values(1, n * k, (-1.0, 1.0));
    let bits = |y: &[f32]| y.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for format in BlockFormat::ALL {
        let w = BlockMatrix::quantize(format, k, &values(2, out * k, (-1.0, 1.0)));
        for path in CpuPath::available() {
            let one = cpu(path, 1);
            let packed = must("stack", one.stack(&[(&w, Format::Blocks(format))]));
            let run = |cpu: &Cpu, rows: std::ops::Range<usize>| {
                let a = acts_of(cpu, &a[rows.start * k..rows.end * k], k, DType::F32);
                let mut y = must("rows", cpu.rows(rows.len(), out));
                must("linear", cpu.linear(&a, &packed, None, &mut y));
                y.values().chunks_exact(out).map(bits).collect::<Vec<_>>()
            };
            let alone: Vec<_> = (0..n).flat_map(|row| run(&one, row..row + 1)).collect();
            for threads in 1..=4 {
                let cpu = cpu(path, threads);
                for (start, size) in [(0, 2), (5, 3), (9, 13), (0, 64), (0, n)] {
                    let got = run(&cpu, start..start + size);
                    assert!(
                        got == alone[start..start + size],
                        "{format} on {path}: rows {start}..{} on {threads} threads",
                        start + size
                    );
                }
            }
        }
    }
}

/// The root mean square error of each format, relative to that of the values, for uniform values. Even rounding gives a
/// squared error of the step squared over 12, and the step follows from the range of a block and the number of bits.
/// The searches of Q4_K, Q5_K and Q6_K must beat plain rounding to the block's extremes with as many bits.
#[test]
fn quantized_blocks_are_close_to_their_values() {
    let n = 256 * 64;
    let x = values(7, n, (-1.0, 1.0));
    let power: f64 = x.iter().map(|x| f64::from(x * x)).sum();
    let error = |format: BlockFormat| {
        let w = BlockMatrix::quantize(format, n, &x).values();
        let off = x.iter().zip(w.row(0)).map(|(x, y)| f64::from(x - y));
        (off.map(|off| off * off).sum::<f64>() / power).sqrt()
    };
    // Even steps over -1..1 with `steps` codes. The error is a step over the square root of 12; the root mean square of
    // the values is 3^-1/2.
    let even = |steps: f64| 2.0 / steps / 12f64.sqrt() * 3f64.sqrt();
    for (format, steps) in [
        (BlockFormat::Q8_0, 254.0),
        (BlockFormat::Q4_0, 15.0),
        (BlockFormat::Q4_1, 15.0),
        (BlockFormat::Q5_0, 31.0),
        (BlockFormat::Q5_1, 31.0),
        (BlockFormat::Q4K, 15.0),
        (BlockFormat::Q5K, 31.0),
        (BlockFormat::Q6K, 63.0),
    ] {
        let off = error(format);
        assert!(
            off < 1.1 * even(steps),
            "{format}: {off}, of {}",
            even(steps)
        );
        assert!(
            off > 0.5 * even(steps),
            "{format}: {off}, of {}",
            even(steps)
        );
    }
    assert!(error(BlockFormat::Q4K) < error(BlockFormat::Q4_0));
    assert!(error(BlockFormat::Q5K) < error(BlockFormat::Q5_0));
}

/// Rows that each format holds exactly: codes times an f16 scale, including the extreme codes.
#[test]
fn exact_rows_survive_quantization() {
    let codes = |low: i32, n: i32| -> Vec<f32> {
        (0..256).map(|i| (low + i * 7 % n) as f32 * 0.25).collect()
    };
    for (format, row) in [
        (BlockFormat::Q8_0, codes(-127, 255)),
        (BlockFormat::Q4_0, codes(-8, 16)),
        (BlockFormat::Q4_1, codes(3, 16)),
        (BlockFormat::Q5_0, codes(-16, 32)),
        (BlockFormat::Q5_1, codes(-5, 32)),
    ] {
        // A block of 32 has only some of the 255 codes, so its first value is set to the extreme.
        let mut row = row;
        if format == BlockFormat::Q8_0 {
            row.iter_mut().step_by(32).for_each(|x| *x = -127.0 * 0.25);
        }
        let mut blocks = Vec::new();
        quantize(format, &row, &mut blocks);
        let mut back = Vec::new();
        format.dequantize(&blocks, &mut back);
        assert_eq!(back, row, "{format}");
    }
}

#[test]
fn zeros_stay_zeros() {
    let zeros = [0.0; 300];
    for format in BlockFormat::ALL {
        let mut blocks = Vec::new();
        quantize(format, &zeros, &mut blocks);
        assert_eq!(blocks.len(), Format::Blocks(format).row_bytes(zeros.len()));
        let mut back = Vec::new();
        format.dequantize(&blocks, &mut back);
        assert!(back.iter().all(|&x| x == 0.0), "{format}");
    }
}

#[test]
fn a_weight_that_is_not_finite_is_refused() {
    let cpu = cpu(CpuPath::Portable, 1);
    let mut x = values(1, 40 * 64, (-1.0, 1.0));
    x[37 * 64 + 5] = f32::INFINITY;
    let plain = Matrix::new(DType::F32, 64, &x);
    let before = Matrix::new(DType::F32, 64, &[0.0; 3 * 64]);
    for format in BlockFormat::ALL {
        let stack = cpu.stack(&[
            (&before, Format::Plain(DType::F32)),
            (&plain, Format::Blocks(format)),
        ]);
        match stack {
            Err(KernelError::NotFinite { row, column, .. }) => assert_eq!((row, column), (40, 5)),
            Err(e) => panic!("{format}: {e}"),
            Ok(_) => panic!("{format}: taken"),
        }
    }
    // A scale that exceeds f16.
    let large = Matrix::new(DType::F32, 64, &[1e30; 64]);
    let stack = cpu.stack(&[(&large, Format::Blocks(BlockFormat::Q8_0))]);
    assert!(matches!(stack, Err(KernelError::NotFinite { row: 0, .. })));
}

#[test]
fn memory_is_that_of_the_blocks() {
    let cpu = cpu(CpuPath::Portable, 1);
    let w = Matrix::new(DType::F32, 512, &values(1, 64 * 512, (-1.0, 1.0)));
    for format in BlockFormat::ALL {
        let packed = must("stack", cpu.stack(&[(&w, Format::Blocks(format))]));
        let blocks = 64 * Format::Blocks(format).row_bytes(512);
        let share = packed.bytes() as f64 / blocks as f64;
        assert!((1.0..1.03).contains(&share), "{format}: {share}");
    }
}
