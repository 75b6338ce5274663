//! Attention's kernels in the simulator, with all its checks: no races, no reads of unwritten memory, nothing out of
//! bounds. One table of cases runs in each element type, against the oracle.

mod cases;
mod oracle;
mod problem;
mod traffic;

use selfie_kernels::gpu::plan::{HEAD_DIM_STEP, MAX_HEAD_DIM, Splits};
use selfie_kernels::{DType, Slot, reference};

use cases::{CASES, Case, F32_CASES, SPLIT_CASES, small};
use problem::Problem;

/// This many multiprocessors make splits as short as possible: 64 keys.
const SHORTEST_SPLITS: Splits = Splits::Fill {
    multiprocessors: 1 << 20,
};

/// The largest relative error of one rounding.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => (-24f64).exp2(),
        DType::Bf16 => (-8f64).exp2(),
        DType::F16 => (-11f64).exp2(),
    }
}

/// Runs cases in an element type, all rows of each case at once, and fails if a value is out of its bound. `keys` is
/// the length of a split, if `splits` leads to splits.
fn check(cases: &[&Case], dtype: DType, splits: Splits, keys: Option<usize>) {
    let mut failures = Vec::new();
    let mut values = 0;
    // The largest error relative to its bound, and the error itself.
    let mut worst = (0.0, 0.0);
    for case in cases {
        let problem = Problem::new(case, dtype);
        let rows = problem.rows();
        let run = problem.run(&rows, splits);
        for (i, got) in run.out.iter().enumerate() {
            for (column, (&got, want)) in got.iter().zip(problem.want(&rows, i, keys)).enumerate() {
                // The output is the nearest value of its type to something within the bound.
                let round = |x: f64| f64::from(reference::round(dtype, x as f32));
                let (low, high) = (
                    round(want.value - want.bound),
                    round(want.value + want.bound),
                );
                let got = f64::from(got);
                let error = (got - want.value).abs();
                let allowed = want.bound + unit(dtype) * want.value.abs();
                values += 1;
                if error > worst.0 * allowed {
                    worst = (error / allowed, error);
                }
                if !(low <= got && got <= high) {
                    failures.push(format!(
                        "{:?} {:?}, column {column}: {got:e}, not {:e}: off by {error:e}, bound {:e}",
                        case.heads, rows[i], want.value, want.bound
                    ));
                }
            }
        }
    }
    let summary = format!(
        "attention in {dtype}: {values} values, largest error {:.2} of what it may be ({:.1e})",
        worst.0, worst.1
    );
    println!("{summary}");
    assert!(
        failures.is_empty(),
        "{summary}; {} are wrong, among them\n{}",
        failures.len(),
        failures[..failures.len().min(12)].join("\n")
    );
    assert!(values > 0);
}

#[test]
fn bf16() {
    let cases: Vec<_> = CASES.iter().collect();
    check(&cases, DType::Bf16, Splits::Fixed, None);
}

#[test]
fn f16() {
    let cases: Vec<_> = CASES.iter().collect();
    check(&cases, DType::F16, Splits::Fixed, None);
}

#[test]
fn f32() {
    let cases: Vec<_> = CASES.iter().chain(F32_CASES).collect();
    check(&cases, DType::F32, Splits::Fixed, None);
}

#[test]
fn every_head_dim() {
    let step = HEAD_DIM_STEP as usize;
    let dims = (HEAD_DIM_STEP..=MAX_HEAD_DIM).step_by(step);
    let cases: Vec<_> = dims.map(|head_dim| small((2, 1, head_dim))).collect();
    let cases: Vec<_> = cases.iter().collect();
    check(&cases, DType::Bf16, Splits::Fixed, None);
    check(&cases, DType::Bf16, SHORTEST_SPLITS, Some(64));
}

#[test]
fn splits_that_fill_a_device() {
    let cases: Vec<_> = SPLIT_CASES.iter().collect();
    check(&cases, DType::Bf16, SHORTEST_SPLITS, Some(64));
    check(&cases, DType::F16, SHORTEST_SPLITS, Some(64));
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_the_batch() {
    // All rows at once, in the runs that they form, and each row alone.
    for dtype in [DType::Bf16, DType::F32] {
        for case in CASES {
            let problem = Problem::new(case, dtype);
            let rows = problem.rows();
            let together = problem.run(&rows, Splits::Fixed);
            for (row, together) in rows.iter().zip(&together.out) {
                let alone = problem.run(&[*row], Splits::Fixed);
                assert_eq!(
                    bits(together),
                    bits(&alone.out[0]),
                    "{:?} {row:?}",
                    case.heads
                );
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_schedule_of_warps() {
    for (cases, splits) in [(CASES, Splits::Fixed), (SPLIT_CASES, SHORTEST_SPLITS)] {
        for dtype in [DType::Bf16, DType::F32] {
            for case in cases {
                let mut problem = Problem::new(case, dtype);
                let rows = problem.rows();
                let in_order = problem.run(&rows, splits);
                for seed in [1, 2] {
                    problem.schedule = Some(seed);
                    let drawn = problem.run(&rows, splits);
                    for (row, (a, b)) in rows.iter().zip(in_order.out.iter().zip(&drawn.out)) {
                        assert_eq!(bits(a), bits(b), "{:?} {row:?}, seed {seed}", case.heads);
                    }
                }
            }
        }
    }
}

#[test]
fn the_bits_of_a_run_do_not_depend_on_its_pieces() {
    // Pieces of different lengths start their tiles elsewhere and use different numbers of warps.
    for case in CASES.iter().filter(|case| case.heads.1 == 2) {
        let problem = Problem::new(case, DType::F16);
        let mut rows = problem.rows();
        rows.retain(|row| row.slot == Slot::Branch(0));
        let whole = problem.run(&rows, Splits::Fixed);
        for cut in [1, 2, 9, 17].into_iter().filter(|&cut| cut < rows.len()) {
            for piece in [0..cut, cut..rows.len()] {
                let run = problem.run(&rows[piece.clone()], Splits::Fixed);
                for (i, row) in piece.clone().zip(&run.out) {
                    assert_eq!(bits(&whole.out[i]), bits(row), "row {i} of piece {piece:?}");
                }
            }
        }
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}
