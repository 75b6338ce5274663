//! The ops that read a weight matrix.

use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{Activation, Backend, BatchRow, DType, LogitMap, Slot};

use super::rows::{ACTIVATIONS, exp_units};
use super::tables::{EMBED, HEAD, Head, LINEAR, Linear, NOT_FINITE, ROWS, SCORED};
use super::*;

pub fn check_embed<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "embed");
    for (seed, case) in EMBED.iter().enumerate() {
        for dtype in DTYPES {
            let table = values(seed as u64, case.vocab * case.width, (-2.0, 2.0));
            let table = Matrix::new(dtype, case.width, &table);
            let packed = must("matrix", backend.matrix(&[&table], dtype));
            let rows: Vec<BatchRow> = case.tokens.iter().map(|&token| row(token)).collect();
            let mut batch = must("batch", backend.batch(rows.len()));
            must("load_batch", backend.load_batch(&rows, &mut batch));
            let mut out = must("rows", backend.rows(rows.len(), case.width));
            must("embed", backend.embed(&packed, &batch, 1.0, &mut out));
            let want = reference::embed(&table, case.tokens, 1.0);
            errors.compare(
                format_args!("{dtype} {} x {}", case.vocab, case.width),
                &read_all(backend, &out),
                &want,
                |_| 0.0,
            );
        }
    }
    errors.finish();
}

fn row(token: u32) -> BatchRow {
    BatchRow {
        token,
        slot: Slot::Prefix(0),
        position: 0,
    }
}

pub fn check_linear<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "linear");
    for (seed, case) in LINEAR.iter().enumerate() {
        for dtype in DTYPES {
            Product::new::<B>(seed, case, dtype).check(backend, false, &mut errors);
        }
    }
    errors.finish();
}

pub fn check_linear_add<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "linear_add");
    for (seed, case) in LINEAR.iter().enumerate() {
        for dtype in DTYPES {
            Product::new::<B>(seed, case, dtype).check(backend, true, &mut errors);
        }
    }
    errors.finish();
}

/// The cases of the linear table whose outputs split into a gate and a gated half.
pub fn check_linear_glu<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "linear_glu");
    let pairs = LINEAR.iter().filter(|case| case.out.is_multiple_of(2));
    for (seed, case) in pairs.enumerate() {
        for dtype in DTYPES {
            // These products are past the largest f16.
            if B::projection(dtype) == DType::F16 && case.a.1 > 1e4 {
                continue;
            }
            let product = Product::new::<B>(seed, case, dtype);
            for activation in ACTIVATIONS {
                product.check_gated(backend, activation, &mut errors);
            }
        }
    }
    errors.finish();
}

/// A case of the linear table for one dtype, with the largest number of rows.
struct Product<'a> {
    case: &'a Linear,
    a: Vec<f32>,
    w: Matrix,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl<'a> Product<'a> {
    fn new<B: Operands>(seed: usize, case: &'a Linear, dtype: DType) -> Self {
        let (n, seed) = (ROWS[ROWS.len() - 1], seed as u64 * 10);
        let a = values(seed, n * case.k, case.a);
        let w = values(seed + 1, case.out * case.k, case.w);
        Self {
            case,
            a: operands::<B>(dtype, &a),
            w: Matrix::new(dtype, case.k, &w),
            bias: values(seed + 2, case.out, case.a),
            residual: values(seed + 3, n * case.out, case.a),
        }
    }

    fn check<B: Operands>(&self, backend: &B, add: bool, errors: &mut Errors) {
        let Linear { k, out: width, .. } = *self.case;
        let dtype = selfie_kernels::MatrixSource::dtype(&self.w);
        let packed = must("matrix", backend.matrix(&[&self.w], dtype));
        // f32 rows, and projections where they are others.
        let mut outputs = vec![DType::F32, B::projection(dtype)];
        outputs.dedup();
        for (out_dtype, bias) in outputs
            .iter()
            .flat_map(|&out| [None, Some(&self.bias[..])].map(|bias| (out, bias)))
        {
            let residual = add.then(|| rounded(out_dtype, &self.residual));
            let residual = residual.as_deref();
            let want = reference::linear(&self.a, &self.w, bias, residual);
            let magnitude = reference::linear(
                &abs(&self.a),
                &abs_matrix(&self.w),
                bias.map(abs).as_deref(),
                residual.map(abs).as_deref(),
            );
            // A bias may be added to a product that has been rounded.
            let twice = |i: usize| match bias {
                Some(bias) if out_dtype != DType::F32 => {
                    let product = want[i].abs() + bias[i % width].abs();
                    rounding(out_dtype, product.into())
                }
                _ => 0.0,
            };
            let vector = bias.map(|b| must("vector", backend.vector(b)));
            for n in ROWS {
                let a = acts_of(backend, &self.a[..n * k], k, dtype);
                // The previous contents of the output must not matter, or must count as the residual.
                let before = match residual {
                    Some(residual) => residual[..n * width].to_vec(),
                    None => vec![f32::NAN; n * width],
                };
                let mut out = projections_of(backend, &before, width, out_dtype);
                if add {
                    let added = backend.linear_add(&a, &packed, vector.as_ref(), &mut out);
                    must("linear_add", added);
                } else {
                    must(
                        "linear",
                        backend.linear(&a, &packed, vector.as_ref(), &mut out),
                    );
                }
                errors.compare_acts(
                    format_args!(
                        "{dtype} [{n}, {k}] x [{width}, {k}], bias {}, in {out_dtype}",
                        bias.is_some()
                    ),
                    out_dtype,
                    &read_all(backend, &out),
                    &want[..n * width],
                    |i| product_bound::<B>(k, dtype) * f64::from(magnitude[i]) + twice(i),
                );
            }
        }
    }
}

impl Product<'_> {
    /// The product followed by a gated unit.
    fn check_gated<B: Operands>(&self, backend: &B, activation: Activation, errors: &mut Errors) {
        let Linear { k, out: width, .. } = *self.case;
        let ffn = width / 2;
        let dtype = selfie_kernels::MatrixSource::dtype(&self.w);
        let packed = must("matrix", backend.matrix(&[&self.w], dtype));
        for bias in [None, Some(&self.bias[..])] {
            let product = reference::linear(&self.a, &self.w, bias, None);
            let want = reference::glu(activation, &product, ffn);
            let magnitude = reference::linear(
                &abs(&self.a),
                &abs_matrix(&self.w),
                bias.map(abs).as_deref(),
                None,
            );
            // The errors of both factors (the activation's slope is below 1.2, and its value is at most the gate), and
            // the error of the activation itself. Where projections have 16 bits, a factor may be rounded to them,
            // before and after its bias.
            let bound = |i: usize| {
                let gate = i / ffn * width + i % ffn;
                let value = |i: usize| f64::from(product[i].abs());
                let stored = |i: usize| match (B::projection(dtype), bias) {
                    (DType::F32, _) => 0.0,
                    (stored, None) => rounding(stored, value(i)),
                    (stored, Some(bias)) => {
                        2.0 * rounding(stored, value(i) + f64::from(bias[i % width].abs()))
                    }
                };
                let error = |i: usize| sum_bound(k) * f64::from(magnitude[i]) + stored(i);
                let (g, u) = (error(gate), error(gate + ffn));
                1.2 * g * (value(gate + ffn) + u)
                    + u * value(gate)
                    + exp_units(activation, product[gate]) * U * f64::from(want[i].abs())
                    + 1e-34 * value(gate + ffn)
            };
            let vector = bias.map(|b| must("vector", backend.vector(b)));
            for n in ROWS {
                let a = acts_of(backend, &self.a[..n * k], k, dtype);
                let gate_up = backend.projections(n, width, dtype);
                let mut gate_up = must("projections", gate_up);
                let mut out = must("acts", backend.acts(n, ffn, dtype));
                let vector = vector.as_ref();
                let done =
                    backend.linear_glu(&a, &packed, vector, activation, &mut gate_up, &mut out);
                must("linear_glu", done);
                errors.compare_acts(
                    format_args!(
                        "{activation:?} {dtype} [{n}, {k}] x [{width}, {k}], bias {}",
                        bias.is_some()
                    ),
                    B::operand(dtype),
                    &read_acts(backend, &out, n),
                    &want[..n * ffn],
                    bound,
                );
            }
        }
    }
}

/// Caps that keep logits distinct: where tanh reaches 1, the lowest of the best tokens would be as good as the others.
const WIDE_CAPS: [f32; 2] = [1000.0, 300.0];

pub fn check_head_best<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "head_best");
    for (seed, case) in HEAD.iter().enumerate() {
        for dtype in DTYPES {
            let logits = Logits::new::<B>(seed, case, dtype);
            let packed = must("matrix", backend.matrix(&[&logits.head], dtype));
            logits.check_gaps();
            for (n, map) in each_map(WIDE_CAPS) {
                let want = reference::best(&logits.a, &logits.head, &map);
                let a = acts_of(backend, &logits.a[..n * case.k], case.k, dtype);
                let got = must("head_best", backend.head_best(&a, &packed, &map));
                let name = format!("{dtype} [{n}, {}] x {}, {map:?}", case.k, case.vocab);
                let tokens = |best: &[selfie_kernels::Best]| -> Vec<u32> {
                    best.iter().map(|b| b.token).collect()
                };
                errors.equal(format_args!("{name}"), tokens(&got), tokens(&want[..n]));
                let got: Vec<f32> = got.iter().map(|b| b.logprob).collect();
                let want: Vec<f32> = want[..n].iter().map(|b| b.logprob).collect();
                errors.compare(format_args!("{name}"), &got, &want, |i| {
                    logits.bound(i, want[i]) + cap_bound(&map)
                });
            }
        }
    }
    errors.finish();
}

pub fn check_head_score<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "head_score");
    for (seed, case) in HEAD.iter().enumerate() {
        for dtype in DTYPES {
            let logits = Logits::new::<B>(seed, case, dtype);
            let packed = must("matrix", backend.matrix(&[&logits.head], dtype));
            let known = SCORED
                .iter()
                .filter(|&&token| (token as usize) < case.vocab);
            let tokens: Vec<u32> = known.copied().collect();
            for (n, map) in each_map([30.0, 5.0]) {
                let tokens: Vec<u32> = (0..n).map(|i| tokens[(i + n) % tokens.len()]).collect();
                let a = &logits.a[..n * case.k];
                let want = reference::score(a, &logits.head, &map, &tokens);
                let a = acts_of(backend, a, case.k, dtype);
                let got = must("head_score", backend.head_score(&a, &packed, &map, &tokens));
                errors.compare(
                    format_args!("{dtype} [{n}, {}] x {}, {map:?}", case.k, case.vocab),
                    &got,
                    &want,
                    |i| logits.bound(i, want[i]) + cap_bound(&map),
                );
            }
        }
    }
    errors.finish();
}

/// Numbers of rows, each with a logit map.
fn each_map(caps: [f32; 2]) -> impl Iterator<Item = (usize, LogitMap)> {
    let caps = [
        (1.0, None),
        (0.125, None),
        (1.0, Some(caps[0])),
        (0.5, Some(caps[1])),
    ];
    let maps = caps.map(|(scale, softcap)| LogitMap { scale, softcap });
    ROWS.into_iter().flat_map(move |n| maps.map(|map| (n, map)))
}

/// The error of a cap's own tanh, at the logit and in the normalizer.
fn cap_bound(map: &LogitMap) -> f64 {
    16.0 * U * f64::from(map.softcap.unwrap_or(0.0))
}

/// Rows that alternate between logits that are not finite and logits that all are.
pub fn check_head_not_finite<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "head with logits that are not finite");
    let n = 5;
    for (seed, case) in NOT_FINITE.iter().enumerate() {
        for (dtype, k) in DTYPES
            .into_iter()
            .flat_map(|dtype| [(dtype, 20), (dtype, 24)])
        {
            let mut a = values(seed as u64, n * k, (-1.0, 1.0));
            // A tensor core adds the terms of both signs exactly, before they overflow, so those must be infinite.
            let cancels = case.weights[0] == -case.weights[1] && case.weights[0] != 0.0;
            let large = if cancels { f32::INFINITY } else { 3e38 };
            for (row, a) in a.chunks_exact_mut(k).enumerate() {
                // A NaN in the operand makes all logits NaN.
                a[..2].fill([0.0, large, 0.0, f32::NAN][row % 4]);
            }
            let mut head = values(100 + seed as u64, case.vocab * k, (-1.0, 1.0));
            for (token, w) in head.chunks_exact_mut(k).enumerate() {
                let own = token == case.token;
                w[..2].copy_from_slice(if own { &case.weights } else { &[0.0; 2] });
            }
            let packed = Matrix::new(dtype, k, &head);
            let packed = must("matrix", backend.matrix(&[&packed], dtype));
            let a = acts_of(backend, &a, k, dtype);
            let name = format!("{dtype}, k {k}, token {} of {}", case.token, case.vocab);
            let finite = |logprob: f32| (logprob.is_finite(), logprob.is_nan());
            let want: Vec<_> = (0..n).map(|row| (row % 2 == 0, row % 2 == 1)).collect();
            let best = must(
                "head_best",
                backend.head_best(&a, &packed, &LogitMap::PLAIN),
            );
            let got: Vec<_> = best.iter().map(|best| finite(best.logprob)).collect();
            errors.equal(format_args!("{name}, best"), &got, &want);
            let tokens: Vec<_> = best.iter().map(|best| best.token as usize).collect();
            assert!(
                tokens.iter().all(|&token| token < case.vocab),
                "{name}: {tokens:?}"
            );
            for token in [0, case.token, case.vocab - 1] {
                let scores = backend.head_score(&a, &packed, &LogitMap::PLAIN, &[token as u32; 5]);
                let got: Vec<_> = must("head_score", scores).into_iter().map(finite).collect();
                errors.equal(format_args!("{name}, score of {token}"), &got, &want);
            }
        }
    }
    errors.finish();
}

/// A case of the head table for one dtype, with the largest number of rows.
struct Logits<'a> {
    case: &'a Head,
    a: Vec<f32>,
    head: Matrix,
    /// The relative error of a logit.
    off: f64,
    /// The largest sum of magnitudes of a logit, by row.
    magnitude: Vec<f32>,
}

impl<'a> Logits<'a> {
    fn new<B: Operands>(seed: usize, case: &'a Head, dtype: DType) -> Self {
        let (n, k, seed) = (ROWS[ROWS.len() - 1], case.k, 1000 + seed as u64 * 10);
        let a = operands::<B>(dtype, &values(seed, n * k, case.a));
        let mut head = values(seed + 1, case.vocab * k, (-1.0, 1.0));
        for &token in case.tie {
            // Twice the largest weight, each with the sign of row 0's operand: no other logit reaches that.
            for (w, x) in head[token * k..][..k].iter_mut().zip(&a) {
                *w = 2.0 * x.signum();
            }
        }
        let head = Matrix::new(dtype, k, &head);
        let magnitudes = reference::linear(&abs(&a), &abs_matrix(&head), None, None);
        let largest = |row: &[f32]| row.iter().copied().fold(0.0, f32::max);
        let magnitude = magnitudes.chunks_exact(case.vocab).map(largest).collect();
        Self {
            case,
            a,
            head,
            off: product_bound::<B>(k, dtype),
            magnitude,
        }
    }

    /// A log-probability is a logit minus the logarithm of a sum over the vocabulary: two errors of a logit, the sum's
    /// own error, and the roundings of the logit and of the result.
    fn bound(&self, row: usize, logprob: f32) -> f64 {
        let magnitude = f64::from(self.magnitude[row]);
        2.0 * self.off * magnitude
            + sum_bound(self.case.vocab)
            + 4.0 * U * (magnitude + f64::from(logprob.abs()))
    }

    /// The table must not contain choices that rounding decides: logits differ by more than their bound, or they are
    /// the same sum.
    fn check_gaps(&self) {
        let logits = reference::linear(&self.a, &self.head, None, None);
        for (row, logits) in logits.chunks_exact(self.case.vocab).enumerate() {
            let order = |&x: &usize, &y: &usize| logits[x].total_cmp(&logits[y]);
            let best = (0..logits.len()).max_by(order).unwrap_or(0);
            let bound = 2.0 * self.off * f64::from(self.magnitude[row]);
            for (token, &x) in logits.iter().enumerate() {
                let near = f64::from(logits[best] - x) <= bound;
                let same = self.head.row(token) == self.head.row(best);
                assert!(
                    !near || same,
                    "tokens {token} and {best} nearly tie in row {row}"
                );
            }
        }
    }
}
