//! A matrix product in cuBLASLt's terms: column-major.
//!
//! Row-major `[r, c]` is column-major `[c, r]`. So `out = a · w` is requested as `outᵀ = wᵀ · aᵀ`, without a copy: the
//! weight comes first, and the rows of the batch are the columns of the result.

use crate::DType;
use crate::gpu::{Gemm, WeightOrder};

/// The largest alignment that cuBLASLt uses, and the alignment of every allocation.
const MOST_ALIGNED: usize = 256;

/// The number of rows to choose an algorithm for, if one algorithm has to serve all.
const TYPICAL_ROWS: usize = 128;

/// The shapes of the matrices to multiply, without their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    m: usize,
    n: usize,
    k: usize,
    order: WeightOrder,
    pub(super) dtype: DType,
    pub(super) out_dtype: DType,
}

/// A column-major matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Elements from one column to the next.
    pub(super) stride: usize,
    /// The alignment of its address in bytes, wherever in a buffer it begins.
    pub(super) alignment: u32,
}

impl Problem {
    pub(super) fn new(gemm: &Gemm) -> Self {
        let Gemm {
            m,
            n,
            k,
            order,
            dtype,
            out_dtype,
            ..
        } = *gemm;
        Self {
            m,
            n,
            k,
            order,
            dtype,
            out_dtype,
        }
    }

    /// The same weight with another number of rows.
    pub(super) fn with_rows(self, m: usize) -> Self {
        Self { m, ..self }
    }

    /// The same weight with a number of rows that does not depend on the batch.
    pub(super) fn of_any_batch(self) -> Self {
        self.with_rows(TYPICAL_ROWS)
    }

    /// The same weight with roughly as many rows: one of eight numbers between a power of two and the next.
    pub(super) fn of_like_batches(self) -> Self {
        let step = (self.m.next_power_of_two() / 16).max(1);
        self.with_rows(self.m.next_multiple_of(step))
    }

    /// Multiply-adds.
    pub(super) fn work(&self) -> f64 {
        self.m as f64 * self.n as f64 * self.k as f64
    }

    /// Bytes of the result.
    pub(super) fn out_bytes(&self) -> u64 {
        (self.m * self.n * self.out_dtype.size()) as u64
    }

    /// Whether the weight is multiplied transposed.
    pub(super) fn transposed(&self) -> bool {
        self.order == WeightOrder::Outputs
    }

    /// The weight.
    pub(super) fn weight(&self) -> Layout {
        let (rows, columns) = match self.order {
            WeightOrder::Outputs => (self.k, self.n),
            WeightOrder::Terms => (self.n, self.k),
        };
        Layout {
            rows,
            columns,
            stride: rows,
            alignment: MOST_ALIGNED as u32,
        }
    }

    /// The rows of the batch.
    pub(super) fn operand(&self) -> Layout {
        Layout {
            rows: self.k,
            columns: self.m,
            stride: self.k,
            alignment: alignment(self.k * self.dtype.size()),
        }
    }

    /// The result.
    pub(super) fn out(&self) -> Layout {
        Layout {
            rows: self.n,
            columns: self.m,
            stride: self.n,
            alignment: alignment(self.n * self.out_dtype.size()),
        }
    }
}

/// The alignment of each row of a buffer.
fn alignment(row_bytes: usize) -> u32 {
    let bits = row_bytes
        .trailing_zeros()
        .min(MOST_ALIGNED.trailing_zeros());
    1 << bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(m: usize, n: usize, k: usize, order: WeightOrder) -> Problem {
        Problem {
            m,
            n,
            k,
            order,
            dtype: DType::F32,
            out_dtype: DType::F32,
        }
    }

    /// What cuBLASLt does: `out = op(first) · second`, column-major.
    fn column_major(p: &Problem, first: &[f32], second: &[f32]) -> Vec<f32> {
        let (weight, operand, out) = (p.weight(), p.operand(), p.out());
        let at = |layout: &Layout, row, column| {
            assert!(row < layout.rows && column < layout.columns);
            column * layout.stride + row
        };
        let mut result = vec![0.0; out.stride * out.columns];
        for row in 0..out.rows {
            for column in 0..out.columns {
                for term in 0..operand.rows {
                    let w = if p.transposed() {
                        at(&weight, term, row)
                    } else {
                        at(&weight, row, term)
                    };
                    let product = first[w] * second[at(&operand, term, column)];
                    result[at(&out, row, column)] += product;
                }
            }
        }
        result
    }

    #[test]
    fn a_row_major_product_is_seen_transposed() {
        let (m, n, k) = (2, 3, 4);
        // Small integers: sums are exact in any order.
        let a: Vec<f32> = (0..m * k).map(|i| i as f32 - 3.0).collect();
        let w: Vec<f32> = (0..n * k).map(|i| (i * i % 7) as f32).collect();
        for order in [WeightOrder::Outputs, WeightOrder::Terms] {
            let weight = |output: usize, term: usize| match order {
                WeightOrder::Outputs => w[output * k + term],
                WeightOrder::Terms => w[term * n + output],
            };
            let want: Vec<f32> = (0..m * n)
                .map(|i| (0..k).map(|t| a[i / n * k + t] * weight(i % n, t)).sum())
                .collect();
            let got = column_major(&problem(m, n, k, order), &w, &a);
            assert_eq!(got, want, "{order:?}");
        }
    }

    #[test]
    fn alignments_hold_for_every_row() {
        let p = problem(5, 10, 172, WeightOrder::Outputs);
        // 688 and 40 bytes a row.
        assert_eq!((p.operand().alignment, p.out().alignment), (16, 8));
        let p = problem(5, 4096, 4096, WeightOrder::Outputs);
        assert_eq!((p.operand().alignment, p.out().alignment), (256, 256));
    }

    #[test]
    fn like_batches_share_a_choice() {
        let rows = |m| problem(m, 64, 32, WeightOrder::Outputs).of_like_batches().m;
        let sizes = [1, 7, 16, 17, 18, 33, 36, 37, 608, 8000, 8192];
        let want = [1, 7, 16, 18, 18, 36, 36, 40, 640, 8192, 8192];
        assert_eq!(sizes.map(rows), want);
    }

    #[test]
    fn one_algorithm_for_any_batch() {
        let one = problem(1, 64, 32, WeightOrder::Outputs);
        let many = problem(500, 64, 32, WeightOrder::Outputs);
        assert_ne!(one, many);
        assert_eq!(one.of_any_batch(), many.of_any_batch());
        assert_eq!(
            one.of_any_batch().operand().alignment,
            many.operand().alignment
        );
    }
}
