//! Attention's kernels in the simulator, with all its checks: no race, no read of what nobody has written, nothing
//! out of bounds. One table of cases, run in each element type, against the oracle.

mod cases;
#[path = "../../../selfie-kernels/tests/cases/mod.rs"]
mod ops;
mod oracle;
mod problem;

use selfie_kernels::gpu::plan::Splits;
use selfie_kernels::{BatchRow, DType, Slot, reference};

use cases::{CASES, Case, F32_CASES};
use problem::Problem;

/// The largest relative error of one rounding.
fn unit(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => (-24f64).exp2(),
        DType::Bf16 => (-8f64).exp2(),
        DType::F16 => (-11f64).exp2(),
    }
}

/// Runs cases in an element type, all rows of each at once, and fails if a value is out of its bound.
fn check(cases: &[&Case], dtype: DType) {
    let mut failures = Vec::new();
    let mut values = 0;
    // The largest error in units of what it may be, and itself.
    let mut worst = (0.0, 0.0);
    for case in cases {
        let problem = Problem::new(case, dtype);
        let rows = problem.rows();
        let run = problem.run(&rows, Splits::Fixed);
        for (i, got) in run.out.iter().enumerate() {
            for (column, (&got, want)) in got.iter().zip(problem.want(&rows, i)).enumerate() {
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
    check(&CASES.iter().collect::<Vec<_>>(), DType::Bf16);
}

#[test]
fn f16() {
    check(&CASES.iter().collect::<Vec<_>>(), DType::F16);
}

#[test]
fn f32() {
    check(
        &CASES.iter().chain(F32_CASES).collect::<Vec<_>>(),
        DType::F32,
    );
}

/// The bits of each row, alone with those of its own slot.
fn slot_by_slot(problem: &Problem<'_>, rows: &[BatchRow]) -> Vec<Vec<u32>> {
    let mut out = vec![Vec::new(); rows.len()];
    let mut slots: Vec<Slot> = Vec::new();
    for row in rows {
        if !slots.contains(&row.slot) {
            slots.push(row.slot);
        }
    }
    for slot in slots {
        let at: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].slot == slot).collect();
        let alone: Vec<BatchRow> = at.iter().map(|&i| rows[i]).collect();
        let run = problem.run(&alone, Splits::Fixed);
        for (&i, row) in at.iter().zip(&run.out) {
            out[i] = bits(row);
        }
    }
    out
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_other_slots() {
    for dtype in [DType::Bf16, DType::F32] {
        for case in CASES.iter().filter(|case| case.branches.len() > 1) {
            let problem = Problem::new(case, dtype);
            let rows = problem.rows();
            let together = problem.run(&rows, Splits::Fixed);
            let alone = slot_by_slot(&problem, &rows);
            for (i, row) in rows.iter().enumerate() {
                assert_eq!(bits(&together.out[i]), alone[i], "{:?} {row:?}", case.heads);
            }
        }
    }
}

#[test]
fn the_bits_of_a_run_do_not_depend_on_its_pieces() {
    // Pieces of other lengths begin their tiles elsewhere, and take other numbers of warps.
    for case in CASES.iter().filter(|case| case.heads == (8, 2, 128)) {
        let problem = Problem::new(case, DType::Bf16);
        let mut rows = problem.rows();
        rows.retain(|row| row.slot == Slot::Branch(0));
        let whole = problem.run(&rows, Splits::Fixed);
        for pieces in [
            [0..34, 34..34],
            [0..2, 2..34],
            [0..9, 9..34],
            [0..17, 17..34],
        ] {
            for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
                let run = problem.run(&rows[piece.clone()], Splits::Fixed);
                for (i, row) in piece.clone().zip(&run.out) {
                    assert_eq!(bits(&whole.out[i]), bits(row), "row {i} of piece {piece:?}");
                }
            }
        }
    }
}
