//! The ops that read a weight matrix, with weights in blocks: for backends that multiply with blocks.
//!
//! The oracle rounds the operand as the backend does ([`reference::block_operand`]) and uses the values of the blocks.
//! Sums within a block are exact. What remains are f32 roundings, one or two per block, so [`sum_bound`] holds. A value
//! with a minimum is a difference of two numbers; both magnitudes count.

use selfie_kernels::reference::{self, BlockMatrix, Matrix};
use selfie_kernels::{Backend, BlockFormat, DType, Format, LogitMap, MatrixSource};

use super::tables::{LINEAR, Linear, ROWS};
use super::*;

/// The table of products in all formats, with additional shapes for blocks and half blocks.
pub fn check_linear<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "linear of blocks");
    for (seed, case) in LINEAR.iter().enumerate() {
        for format in BlockFormat::ALL {
            let product = Product::new(seed as u64, case, format);
            product.check(backend, &mut errors);
        }
    }
    errors.finish();
}

/// The bits of every product in the table; all paths must agree on them.
pub fn linear_bits<B: Backend>(backend: &B) -> Vec<u32> {
    let mut bits = Vec::new();
    for (seed, case) in LINEAR.iter().enumerate() {
        for format in BlockFormat::ALL {
            let product = Product::new(seed as u64, case, format);
            let packed = product.pack(backend);
            let got = product.run(backend, &packed, 64, None, None);
            bits.extend(got.iter().map(|x| x.to_bits()));
        }
    }
    bits
}

struct Product<'a> {
    case: &'a Linear,
    format: BlockFormat,
    a: Vec<f32>,
    w: BlockMatrix,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl<'a> Product<'a> {
    fn new(seed: u64, case: &'a Linear, format: BlockFormat) -> Self {
        let (n, seed) = (ROWS[ROWS.len() - 1], seed * 10);
        let w = values(seed + 1, case.out * case.k, case.w);
        Self {
            case,
            format,
            a: values(seed, n * case.k, case.a),
            w: BlockMatrix::quantize(format, case.k, &w),
            bias: values(seed + 2, case.out, case.a),
            residual: values(seed + 3, n * case.out, case.a),
        }
    }

    fn pack<B: Backend>(&self, backend: &B) -> B::Matrix {
        let format = Format::Blocks(self.format);
        must("stack", backend.stack(&[(&self.w, format)]))
    }

    fn run<B: Backend>(
        &self,
        backend: &B,
        packed: &B::Matrix,
        n: usize,
        bias: Option<&[f32]>,
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        let Linear { k, out, .. } = *self.case;
        let a = acts_of(backend, &self.a[..n * k], k, DType::F32);
        let bias = bias.map(|b| must("vector", backend.vector(b)));
        let before = match residual {
            Some(residual) => residual[..n * out].to_vec(),
            None => vec![f32::NAN; n * out],
        };
        let mut y = rows_of(backend, &before, out);
        let done = match residual {
            Some(_) => backend.linear_add(&a, packed, bias.as_ref(), &mut y),
            None => backend.linear(&a, packed, bias.as_ref(), &mut y),
        };
        must("linear", done);
        read_all(backend, &y)
    }

    fn check<B: Backend>(&self, backend: &B, errors: &mut Errors) {
        let Linear { k, out, .. } = *self.case;
        let packed = self.pack(backend);
        let values = self.w.values();
        let got = must("read_matrix", backend.read_matrix(&packed, 0..out));
        let want: Vec<f32> = (0..out).flat_map(|i| values.row(i).to_vec()).collect();
        let name = format!("{} [{out}, {k}]", self.format);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        errors.equal(format_args!("{name}: values"), bits(&got), bits(&want));

        let a: Vec<f32> = self
            .a
            .chunks_exact(k)
            .flat_map(reference::block_operand)
            .collect();
        let sizes = magnitudes(&values);
        let exact = reference::linear(&self.a, &values, None, None);
        let rounding = operand_bounds(&self.a, k, &values);
        for (bias, residual) in [
            (None, None),
            (Some(&self.bias[..]), Some(&self.residual[..])),
        ] {
            let want = reference::linear(&a, &values, bias, residual);
            let (bias_size, residual_size) = (bias.map(abs), residual.map(abs));
            let size = reference::linear(
                &abs(&a),
                &sizes,
                bias_size.as_deref(),
                residual_size.as_deref(),
            );
            let bound = |i: usize| sum_bound(k) * f64::from(size[i]);
            for n in ROWS {
                let got = self.run(backend, &packed, n, bias, residual);
                let name = format!("{name}, {n} rows, bias {}", bias.is_some());
                errors.compare(format_args!("{name}"), &got, &want[..n * out], bound);
                if bias.is_none() {
                    // The most that rounding the operand may cost.
                    errors.compare(
                        format_args!("{name}, against exact operands"),
                        &got,
                        &exact[..n * out],
                        |i| f64::from(rounding[i]) + bound(i),
                    );
                }
            }
        }
    }
}

/// The largest error that rounding the operand causes in each product: half a step of each block, which is 1/254 of its
/// largest value, times the magnitudes of the weights (and two f32 roundings for the scale).
fn operand_bounds(a: &[f32], k: usize, w: &Matrix) -> Vec<f32> {
    let half_steps: Vec<f32> = a
        .chunks_exact(k)
        .flat_map(|row| {
            row.chunks(32).flat_map(|block| {
                let largest = block.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                vec![largest * 1.000_01 / 254.0; block.len()]
            })
        })
        .collect();
    reference::linear(&half_steps, &abs_matrix(w), None, None)
}

/// The magnitudes of a weight's scaled code and its minimum together: at most a few times the largest weight that
/// shares them.
fn magnitudes(w: &Matrix) -> Matrix {
    let mut values = Vec::new();
    for row in 0..w.rows() {
        for block in w.row(row).chunks(32) {
            let largest = block.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            values.extend(block.iter().map(|x| x.abs() + 3.0 * largest));
        }
    }
    Matrix::new(DType::F32, w.columns(), &values)
}

/// Stacks of several formats. Each row has the bits that its source has alone, with and without bias, and every part
/// takes the operand in its own precision.
pub fn check_stack<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "stacks of several formats");
    let (k, n) = (96, 7);
    let heights = [33, 16, 1, 64, 40];
    let a = values(1, n * k, (-1.0, 1.0));
    let sources: Vec<Matrix> = heights
        .iter()
        .enumerate()
        .map(|(i, out)| Matrix::new(DType::F32, k, &values(2 + i as u64, out * k, (-1.0, 1.0))))
        .collect();
    let formats = [
        Format::Blocks(BlockFormat::Q4K),
        Format::Plain(DType::Bf16),
        Format::Blocks(BlockFormat::Q6K),
        Format::Plain(DType::F16),
        Format::Blocks(BlockFormat::Q4K),
    ];
    let stack: Vec<(&dyn MatrixSource, Format)> = sources
        .iter()
        .zip(formats)
        .map(|(s, f)| (s as &dyn MatrixSource, f))
        .collect();
    let total: usize = heights.iter().sum();
    let bias = values(9, total, (-1.0, 1.0));
    let run = |matrix: &B::Matrix, out: usize, bias: &[f32]| {
        let a = acts_of(backend, &a, k, DType::F32);
        let bias = must("vector", backend.vector(bias));
        let mut y = must("rows", backend.rows(n, out));
        must("linear", backend.linear(&a, matrix, Some(&bias), &mut y));
        read_all(backend, &y)
    };
    let whole = run(&must("stack", backend.stack(&stack)), total, &bias);
    let mut first = 0;
    for (part, &out) in stack.iter().zip(&heights) {
        let alone = must("stack", backend.stack(std::slice::from_ref(part)));
        let alone = run(&alone, out, &bias[first..first + out]);
        for row in 0..n {
            errors.equal(
                format_args!("{}, row {row}", part.1),
                &whole[row * total + first..][..out],
                &alone[row * out..][..out],
            );
        }
        first += out;
    }
    // bf16 weights read bf16, whatever the operand was made for.
    let w = &sources[1];
    let rounded: Vec<f32> = a
        .iter()
        .map(|&x| reference::round(DType::Bf16, x))
        .collect();
    let plain = must("matrix", backend.matrix(&[w], DType::Bf16));
    let mut y = must("rows", backend.rows(n, w.rows()));
    let operand = acts_of(backend, &rounded, k, DType::Bf16);
    must("linear", backend.linear(&operand, &plain, None, &mut y));
    let zeros = vec![0.0; w.rows()];
    errors.equal(
        format_args!("a bf16 part"),
        run(&plain, w.rows(), &zeros),
        read_all(backend, &y),
    );
    errors.finish();
}

/// An operand that is not finite is detected: products with its row are NaN, and so is the log-probability of every
/// token. Other rows are unaffected.
pub fn check_not_finite<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "blocks with operands that are not finite");
    let (n, k, out) = (5, 70, 600);
    for format in BlockFormat::ALL {
        let w = BlockMatrix::quantize(format, k, &values(1, out * k, (-1.0, 1.0)));
        let packed = must("stack", backend.stack(&[(&w, Format::Blocks(format))]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 31, 32, 69] {
                let mut a = values(2, n * k, (-1.0, 1.0));
                a[2 * k + at] = bad;
                let a = acts_of(backend, &a, k, DType::F32);
                let mut y = must("rows", backend.rows(n, out));
                must("linear", backend.linear(&a, &packed, None, &mut y));
                let nan: Vec<bool> = read_all(backend, &y).iter().map(|x| x.is_nan()).collect();
                let want: Vec<bool> = (0..n * out).map(|i| i / out == 2).collect();
                errors.equal(format_args!("{format}, {bad} at {at}"), nan, want);
                let best = must(
                    "head_best",
                    backend.head_best(&a, &packed, &LogitMap::PLAIN),
                );
                let nan: Vec<bool> = best.iter().map(|best| best.logprob.is_nan()).collect();
                let want: Vec<bool> = (0..n).map(|row| row == 2).collect();
                errors.equal(format_args!("{format}, {bad} at {at}, best"), nan, want);
            }
        }
    }
    errors.finish();
}

/// The head with weights in blocks: the best token, and scores.
pub fn check_head<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "head of blocks");
    let (n, k) = (13, 160);
    for format in BlockFormat::ALL {
        for vocab in [31, 512, 1100] {
            let w = BlockMatrix::quantize(format, k, &values(vocab as u64, vocab * k, (-1.0, 1.0)));
            let packed = must("stack", backend.stack(&[(&w, Format::Blocks(format))]));
            let values = w.values();
            let a = super::values(3, n * k, (-1.0, 1.0));
            let rounded: Vec<f32> = a
                .chunks_exact(k)
                .flat_map(reference::block_operand)
                .collect();
            let acts = acts_of(backend, &a, k, DType::F32);
            let map = LogitMap::PLAIN;
            let want = reference::best(&rounded, &values, &map);
            let got = must("head_best", backend.head_best(&acts, &packed, &map));
            let name = format!("{format} {vocab}");
            let tokens: Vec<u32> = got.iter().map(|best| best.token).collect();
            let expected: Vec<u32> = want.iter().map(|best| best.token).collect();
            errors.equal(format_args!("{name}"), &tokens, &expected);
            let size = reference::linear(&abs(&rounded), &magnitudes(&values), None, None);
            let bound = |row: usize, logprob: f32| {
                let largest = size[row * vocab..][..vocab]
                    .iter()
                    .copied()
                    .fold(0.0, f32::max);
                2.0 * sum_bound(k) * f64::from(largest)
                    + sum_bound(vocab)
                    + 4.0 * U * f64::from(largest + logprob.abs())
            };
            let logprobs: Vec<f32> = got.iter().map(|best| best.logprob).collect();
            let expected: Vec<f32> = want.iter().map(|best| best.logprob).collect();
            errors.compare(format_args!("{name}"), &logprobs, &expected, |i| {
                bound(i, expected[i])
            });
            let asked: Vec<u32> = (0..n as u32).map(|i| i * 7 % vocab as u32).collect();
            let want = reference::score(&rounded, &values, &map, &asked);
            let got = must(
                "head_score",
                backend.head_score(&acts, &packed, &map, &asked),
            );
            errors.compare(format_args!("{name}, score"), &got, &want, |i| {
                bound(i, want[i])
            });
        }
    }
    errors.finish();
}
