//! One table of cases per op, and a function per op that runs its table on any [`Backend`] against
//! [`selfie_kernels::reference`].
//!
//! **Bounds.** A kernel sums `k` products in f32, in its own order. Each addition rounds by at most `U = 2^-24` of the
//! partial sum, and no partial sum exceeds the sum of the magnitudes. Roundings are independent, so together they grow
//! as `sqrt(k)` and not as `k`. Twice that is about seven standard deviations when all products have one sign. 4 more
//! cover the roundings outside the sum, and sums too short for statistics. The bound is [`sum_bound`] times the sum of
//! magnitudes. For comparison: omitting one product of average size from a sum of 5632 is an error of twenty times the
//! bound. Products of bf16 are exact in f32, so the bound is the same for all dtypes once the oracle reads what the
//! kernel reads ([`Operands`]). An output stored in bf16 must be the bf16 nearest to some value within the bound; the
//! same holds for f16.
//!
//! Tensor cores truncate their additions instead of rounding them (Fasi, Higham, Mikaitis and Pranesh 2021, *Numerical
//! behavior of NVIDIA tensor cores*; Ootomo and Yokota 2022, arXiv 2203.03341; bit by bit in Khattak and Mikaitis 2025,
//! arXiv 2512.07004). The products of a step are aligned to the largest exponent and truncated: the A100's 8 products
//! at one bit beyond those of f32, the H100's 16 at two. Their sum is truncated once more. If all products have one
//! sign the errors have one too, and add up as `k`. On the A100, the coarser of the two, a product loses `U / 2` of the
//! partial sum on average and the sum of a step loses `U`: 5 `U` per 8 products. The partial sum is half of the last
//! one on average, so [`product_bound`] adds `5 / 16 * k`.

pub mod attention;
pub mod blocks;
pub mod callers;
pub mod draw;
pub mod errors;
pub mod matrix;
pub mod rows;
pub mod tables;
pub mod train;

use std::fmt::{Arguments, Debug};

use selfie_kernels::gpu::{Driver, Gpu};
use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{Backend, Cpu, DType, Result};

/// The largest relative error of one rounding to f32.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

/// The element types of weights.
pub const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// The relative error that a sum of `k` values in f32 may have; see the documentation of this module.
pub fn sum_bound(k: usize) -> f64 {
    (2.0 * (k as f64).sqrt() + 4.0) * U
}

/// The same for a product with weights of `dtype`, which tensor cores may compute.
pub fn product_bound<B: Operands>(k: usize, dtype: DType) -> f64 {
    let truncated = B::TENSOR_CORES && dtype != DType::F32;
    let lost = if truncated {
        5.0 / 16.0 * k as f64 * U
    } else {
        0.0
    };
    sum_bound(k) + lost
}

/// Reproducible values, uniform over `low..high` (splitmix64).
pub fn values(seed: u64, n: usize, (low, high): (f32, f32)) -> Vec<f32> {
    let mut state = seed;
    let mut unit = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| low + (high - low) * unit()).collect()
}

/// The magnitude of each value.
pub fn abs(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| x.abs()).collect()
}

/// The matrix of the magnitudes.
pub fn abs_matrix(w: &Matrix) -> Matrix {
    let values: Vec<f32> = (0..w.rows()).flat_map(|i| abs(w.row(i))).collect();
    Matrix::new(DType::F32, w.columns(), &values)
}

/// The types that a backend computes in.
pub trait Operands: Backend {
    /// The pairs of dtypes (of keys and values, and of the weights that the output is for) whose attention is tested
    /// with the table of cases. Others are tested separately, because their rounding is coarser than the table's
    /// bounds.
    const ATTENTION: &'static [[DType; 2]];

    /// The supported types of keys and values.
    const KV: &'static [DType];

    /// Whether tensor cores may compute products of bf16 and f16.
    const TENSOR_CORES: bool;

    /// The dtype of an operand of a GEMM with weights of `weights`.
    fn operand(weights: DType) -> DType;

    /// The dtype of [projections](Backend::projections) for weights of `weights`.
    fn projection(weights: DType) -> DType;
}

impl Operands for Cpu {
    const ATTENTION: &'static [[DType; 2]] = &[
        [DType::F32, DType::F32],
        [DType::F32, DType::Bf16],
        [DType::Bf16, DType::F32],
        [DType::Bf16, DType::Bf16],
        [DType::F16, DType::F32],
        [DType::F16, DType::Bf16],
    ];

    const KV: &'static [DType] = &DTYPES;

    const TENSOR_CORES: bool = false;

    fn operand(weights: DType) -> DType {
        match weights {
            DType::Bf16 => DType::Bf16,
            DType::F32 | DType::F16 => DType::F32,
        }
    }

    fn projection(_: DType) -> DType {
        DType::F32
    }
}

impl<D: Driver> Operands for Gpu<D> {
    /// bf16 and f16 round queries, keys, values and the weights of the softmax; tests/attention of selfie-sim covers
    /// them.
    const ATTENTION: &'static [[DType; 2]] = &[[DType::F32, DType::F32]];

    const KV: &'static [DType] = &DTYPES;

    const TENSOR_CORES: bool = true;

    fn operand(weights: DType) -> DType {
        weights
    }

    fn projection(weights: DType) -> DType {
        weights
    }
}

/// The dtypes of all projections.
pub fn projection_dtypes<B: Operands>() -> Vec<DType> {
    let mut dtypes = DTYPES.map(B::projection).to_vec();
    dtypes.dedup();
    dtypes
}

/// The largest error of one rounding of numbers of up to `x` to `dtype`. What may be past the largest f16 may be
/// anything.
pub fn rounding(dtype: DType, x: f64) -> f64 {
    match dtype {
        DType::F32 => U * x,
        DType::Bf16 => x / 256.0,
        DType::F16 if x >= 65504.0 => f64::INFINITY,
        // The smallest f16 is 2^-24.
        DType::F16 => x / 2048.0 + U / 2.0,
    }
}

/// Each value rounded to `dtype`.
pub fn rounded(dtype: DType, values: &[f32]) -> Vec<f32> {
    values.iter().map(|&x| reference::round(dtype, x)).collect()
}

/// The values that the GEMM reads for `values`.
pub fn operands<B: Operands>(weights: DType, values: &[f32]) -> Vec<f32> {
    rounded(B::operand(weights), values)
}

/// Unwraps a result; the panic names what was tried.
pub fn must<T>(what: impl Debug, result: Result<T>) -> T {
    result.unwrap_or_else(|e| panic!("{what:?}: {e}"))
}

/// Rows that hold `values` (`[n, width]`).
pub fn rows_of<B: Backend>(backend: &B, values: &[f32], width: usize) -> B::Rows {
    let mut rows = must("rows", backend.rows(values.len() / width, width));
    must("write_rows", backend.write_rows(values, &mut rows));
    rows
}

/// Projections that hold `values` (`[n, width]`), rounded as the weights require.
pub fn projections_of<B: Backend>(
    backend: &B,
    values: &[f32],
    width: usize,
    weights: DType,
) -> B::Rows {
    let rows = backend.projections(values.len() / width, width, weights);
    let mut rows = must("projections", rows);
    must("write_rows", backend.write_rows(values, &mut rows));
    rows
}

/// All rows in use, on the host.
pub fn read_all<B: Backend>(backend: &B, rows: &B::Rows) -> Vec<f32> {
    must("read_rows", backend.read_rows(rows, 0..backend.len(rows)))
}

/// A GEMM operand that holds `values` (`[n, width]`), rounded as the weights require.
pub fn acts_of<B: Backend>(backend: &B, values: &[f32], width: usize, weights: DType) -> B::Acts {
    let rows = rows_of(backend, values, width);
    let mut acts = must("acts", backend.acts(backend.len(&rows), width, weights));
    must("cast", backend.cast(&rows, &mut acts));
    acts
}

/// The `n` rows of a GEMM operand.
pub fn read_acts<B: Backend>(backend: &B, acts: &B::Acts, n: usize) -> Vec<f32> {
    must("read_acts", backend.read_acts(acts, 0..n))
}

/// The errors of an op on a backend. All cases run before [`Errors::finish`] fails.
pub struct Errors {
    title: String,
    values: usize,
    /// The largest error relative to its bound, and the error itself.
    worst: (f64, f64),
    failures: Vec<String>,
}

impl Errors {
    pub fn new<B: Backend>(backend: &B, op: &str) -> Self {
        Self {
            title: format!("{op} on {}", backend.describe()),
            values: 0,
            worst: (0.0, 0.0),
            failures: Vec::new(),
        }
    }

    /// Compares an output in f32; `bound` is the largest error that value `i` may have.
    pub fn compare(
        &mut self,
        case: Arguments<'_>,
        got: &[f32],
        want: &[f32],
        bound: impl Fn(usize) -> f64,
    ) {
        self.compare_acts(case, DType::F32, got, want, bound);
    }

    /// Compares an output stored in `dtype`: the operand of a GEMM.
    pub fn compare_acts(
        &mut self,
        case: Arguments<'_>,
        dtype: DType,
        got: &[f32],
        want: &[f32],
        bound: impl Fn(usize) -> f64,
    ) {
        if got.len() != want.len() {
            let lengths = format!("{case}: {} values instead of {}", got.len(), want.len());
            return self.failures.push(lengths);
        }
        self.values += got.len();
        let mut wrong = 0;
        let mut worst = (-1.0, String::new());
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            let bound = bound(i);
            let (x, y) = (f64::from(got), f64::from(want));
            let low = reference::round(dtype, (y - bound) as f32);
            let high = reference::round(dtype, (y + bound) as f32);
            let error = (x - y).abs();
            // In 16 bits most of the error is the intended rounding of the output.
            if dtype == DType::F32 && error > self.worst.0 * bound {
                self.worst = (error / bound, error);
            }
            if !(low <= got && got <= high) {
                wrong += 1;
                if error > worst.0 || error.is_nan() {
                    worst = (
                        error,
                        format!(
                            "value {i} is {got:e}, not {want:e}: off by {error:e}, bound {bound:e}"
                        ),
                    );
                }
            }
        }
        if wrong > 0 {
            let n = got.len();
            self.failures
                .push(format!("{case}: {wrong} of {n} values, worst: {}", worst.1));
        }
    }

    /// Compares values that must be equal.
    pub fn equal<T: PartialEq + Debug>(&mut self, case: Arguments<'_>, got: T, want: T) {
        self.values += 1;
        if got != want {
            self.failures.push(format!("{case}: {got:?}, not {want:?}"));
        }
    }

    /// Prints the largest error, and fails if one was out of bounds.
    pub fn finish(self) {
        let (share, error) = self.worst;
        let summary = format!(
            "{}: {} values, largest error {share:.2} of its bound ({error:.1e})",
            self.title, self.values
        );
        println!("{summary}");
        assert!(
            self.failures.is_empty(),
            "{summary}; {} cases are wrong, among them\n{}",
            self.failures.len(),
            self.failures[..self.failures.len().min(8)].join("\n")
        );
        assert!(self.values > 0, "{}: the table is empty", self.title);
    }
}
