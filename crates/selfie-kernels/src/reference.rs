//! Defines what each op of [`Backend`](crate::Backend) computes, in code that is meant to be read.
//!
//! Plain loops over row-major slices, for tests of a backend and for readers. Sums run in f64 and are rounded to f32
//! once, so a test measures only the rounding of the backend. In the shapes, `n` is the number of rows; it follows from
//! the lengths of the slices.

use std::io;
use std::ops::Range;

use half::{bf16, f16};

use crate::batch::LEAST_LENGTH;
use crate::{
    Activation, Adam, Attend, Best, BlockFormat, DType, Format, Injection, LogitMap, MatrixSource,
    Parts, quantize,
};

/// The value of a weight of `dtype` that stores `x`: `x` rounded to nearest, ties to even.
pub fn round(dtype: DType, x: f32) -> f32 {
    match dtype {
        DType::F32 => x,
        DType::Bf16 => bf16::from_f32(x).to_f32(),
        DType::F16 => f16::from_f32(x).to_f32(),
    }
}

/// The activation that a GEMM reads for `x`: rounded to bf16 for bf16 weights, f32 for f32 and f16 weights.
pub fn operand(weights: DType, x: f32) -> f32 {
    match weights {
        DType::Bf16 => round(DType::Bf16, x),
        DType::F32 | DType::F16 => x,
    }
}

/// The activations that a product with weights in blocks reads for `row`. Each 32 values are rounded to multiples of
/// 1/127 of their largest magnitude, to nearest, ties to even. All 32 are NaN if one is not finite, and 0 if the
/// largest is below 2^-120.
pub fn block_operand(row: &[f32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(row.len());
    for block in row.chunks(32) {
        let largest = block.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = 127.0 / largest;
        out.extend(block.iter().map(|x| {
            if !block.iter().all(|x| x.is_finite()) {
                f32::NAN
            } else if largest < 2f32.powi(-120) {
                0.0
            } else {
                (x * inverse).round_ties_even() * scale
            }
        }));
    }
    out
}

/// A weight matrix in memory, `[rows, columns]`, in blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMatrix {
    format: BlockFormat,
    columns: usize,
    blocks: Vec<u8>,
}

impl BlockMatrix {
    /// Quantizes `values` (`[rows, columns]`).
    pub fn quantize(format: BlockFormat, columns: usize, values: &[f32]) -> Self {
        let mut blocks = Vec::new();
        for row in values.chunks_exact(columns) {
            quantize(format, row, &mut blocks);
        }
        Self {
            format,
            columns,
            blocks,
        }
    }

    /// The values of the blocks.
    pub fn values(&self) -> Matrix {
        let mut values = Vec::new();
        for row in self.blocks.chunks_exact(self.row_bytes()) {
            let end = values.len() + self.columns;
            self.format.dequantize(row, &mut values);
            values.truncate(end);
        }
        Matrix::new(DType::F32, self.columns, &values)
    }

    /// The blocks of all rows.
    pub fn blocks(&self) -> &[u8] {
        &self.blocks
    }

    fn row_bytes(&self) -> usize {
        Format::Blocks(self.format).row_bytes(self.columns)
    }
}

impl MatrixSource for BlockMatrix {
    fn shape(&self) -> (usize, usize) {
        (self.blocks.len() / self.row_bytes(), self.columns)
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.values().with_rows(rows, read)
    }

    fn blocks(&self) -> Option<BlockFormat> {
        Some(self.format)
    }

    fn with_blocks(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let bytes = self.row_bytes();
        read(&self.blocks[rows.start * bytes..rows.end * bytes]);
        Ok(())
    }
}

/// A weight matrix in memory, `[rows, columns]`. The ops below read it, and it is a [`MatrixSource`].
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    dtype: DType,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// Stores `values` (`[rows, columns]`) as `dtype`.
    pub fn new(dtype: DType, columns: usize, values: &[f32]) -> Self {
        Self {
            dtype,
            columns,
            values: values.iter().map(|&x| round(dtype, x)).collect(),
        }
    }

    /// Rows, `out`.
    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Columns, `in`.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Row `i`, `[columns]`, as f32.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.columns..][..self.columns]
    }
}

impl MatrixSource for Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows(), self.columns)
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let values = &self.values[rows.start * self.columns..rows.end * self.columns];
        let bytes: Vec<u8> = match self.dtype {
            DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DType::Bf16 => values
                .iter()
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
            DType::F16 => values
                .iter()
                .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                .collect(),
        };
        read(&bytes);
        Ok(())
    }
}

/// `scale * x + residual`.
pub fn add(x: &[f32], scale: f32, residual: &[f32]) -> Vec<f32> {
    let sum = |(&x, &r): (&f32, &f32)| (f64::from(scale) * f64::from(x) + f64::from(r)) as f32;
    x.iter().zip(residual).map(sum).collect()
}

/// The rows of `table` for `tokens`, times `scale`: `[n, columns]`.
pub fn embed(table: &Matrix, tokens: &[u32], scale: f32) -> Vec<f32> {
    let rows = tokens.iter().flat_map(|&token| table.row(token as usize));
    rows.map(|x| scale * x).collect()
}

/// `x / sqrt(mean(x^2) + eps) * weight` of each row: `[n, width]`, weight `[width]`. A row whose squares overflow f32
/// becomes NaN.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(width) {
        let squares = dot(row, row);
        let scale = if squares <= f64::from(f32::MAX) {
            1.0 / (squares / width as f64 + f64::from(eps)).sqrt()
        } else {
            f64::NAN
        };
        for (&x, &w) in row.iter().zip(weight) {
            out.push((f64::from(x) * scale * f64::from(w)) as f32);
        }
    }
    out
}

/// [`rms_norm`] of parts of each row, in place: rows `[n, width]`, weight `[parts.width]`.
pub fn rms_norm_parts(rows: &mut [f32], width: usize, parts: Parts, weight: &[f32], eps: f32) {
    for row in rows.chunks_exact_mut(width) {
        for part in 0..parts.count {
            let part = &mut row[parts.first + part * parts.width..][..parts.width];
            part.copy_from_slice(&rms_norm(part, weight, eps));
        }
    }
}

/// `a · wᵀ (+ bias) (+ residual)`: `[n, in] x [out, in] -> [n, out]`, bias `[out]`, residual `[n, out]`.
pub fn linear(a: &[f32], w: &Matrix, bias: Option<&[f32]>, residual: Option<&[f32]>) -> Vec<f32> {
    let mut out = Vec::with_capacity(a.len() / w.columns() * w.rows());
    for a in a.chunks_exact(w.columns()) {
        for column in 0..w.rows() {
            let bias = bias.map_or(0.0, |b| f64::from(b[column]));
            let residual = residual.map_or(0.0, |r| f64::from(r[out.len()]));
            out.push((dot(a, w.row(column)) + bias + residual) as f32);
        }
    }
    out
}

/// The table that [`rope_append`](crate::Backend::rope_append) reads, `[positions, head_dim]`, unscaled. At position p,
/// for i in 0..head_dim/2, the angle is `p * theta^(-2i / head_dim)`. Cosines come first, then sines.
pub fn rope_table(positions: usize, head_dim: usize, theta: f64) -> Vec<f32> {
    let angle = |p: usize, i: usize| p as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
    let mut table = Vec::with_capacity(positions * head_dim);
    for p in 0..positions {
        table.extend((0..head_dim / 2).map(|i| angle(p, i).cos() as f32));
        table.extend((0..head_dim / 2).map(|i| angle(p, i).sin() as f32));
    }
    table
}

/// Rotates the first columns of one head (`[head_dim]`) in place. The length of a row of the table says how many;
/// columns i and i + half of them form a pair.
pub fn rope(head: &mut [f32], table: &[f32]) {
    let half = table.len() / 2;
    for i in 0..half {
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        let (cos, sin) = (f64::from(table[i]), f64::from(table[i + half]));
        head[i] = (a * cos - b * sin) as f32;
        head[i + half] = (b * cos + a * sin) as f32;
    }
}

/// Attention of one row: q is `[heads * head_dim]`, and each visible position has a key and a value of `[kv_heads *
/// head_dim]`. The result is `[heads * head_dim]`. Query head `h` reads key and value head `h / (heads / kv_heads)`.
/// The caller ensures causality: it passes all positions up to the row's own.
pub fn attend(attend: &Attend, q: &[f32], keys: &[&[f32]], values: &[&[f32]]) -> Vec<f32> {
    let (shape, dim) = (&attend.shape, attend.shape.head_dim);
    let first = attend.first(keys.len().saturating_sub(1));
    let (keys, values) = (&keys[first..], &values[first..]);
    let mut out = Vec::with_capacity(q.len());
    for (head, q) in q.chunks_exact(dim).enumerate() {
        let kv = head / (shape.heads / shape.kv_heads) * dim;
        let scores: Vec<f64> = keys
            .iter()
            .map(|key| dot(q, &key[kv..kv + dim]) * f64::from(attend.scale))
            .map(|score| cap(score, attend.softcap))
            .collect();
        let lse = log_sum_exp(&scores);
        for d in 0..dim {
            let weighted = scores
                .iter()
                .zip(values)
                .map(|(score, value)| (score - lse).exp() * f64::from(value[kv + d]));
            out.push(weighted.sum::<f64>() as f32);
        }
    }
    out
}

/// `activation(gate) * up` of each row: `[n, 2 ffn]`, gate first, to `[n, ffn]`.
pub fn glu(activation: Activation, gate_up: &[f32], ffn: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(gate_up.len() / 2);
    for row in gate_up.chunks_exact(2 * ffn) {
        let (gate, up) = row.split_at(ffn);
        for (&gate, &up) in gate.iter().zip(up) {
            out.push((activate(activation, f64::from(gate))[0] * f64::from(up)) as f32);
        }
    }
    out
}

/// An activation and its slope at `x`.
fn activate(activation: Activation, x: f64) -> [f64; 2] {
    match activation {
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + (-x).exp());
            [x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))]
        }
        Activation::GeluTanh => {
            // (1 + tanh z) / 2 is the logistic function of 2 z, which keeps its digits where it is small.
            let root = 2.0 * std::f64::consts::FRAC_2_PI.sqrt();
            let sigmoid = 1.0 / (1.0 + (-root * (x + 0.044715 * x.powi(3))).exp());
            let inner = root * (1.0 + 3.0 * 0.044715 * x * x);
            let active = x * sigmoid;
            [active, sigmoid + active * (1.0 - sigmoid) * inner]
        }
    }
}

fn cap(x: f64, softcap: Option<f32>) -> f64 {
    softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

/// Rows `index` of `src` (`[n, width]`), one after the other.
pub fn gather(src: &[f32], width: usize, index: &[usize]) -> Vec<f32> {
    let rows = index.iter().map(|&i| &src[i * width..][..width]);
    rows.collect::<Vec<_>>().concat()
}

/// Writes vectors (`[m, width]`) into rows (`[n, width]`) as each [`Injection`] says: `h' = a * v + b * h`.
pub fn inject(vectors: &[f32], writes: &[Injection], rows: &mut [f32], width: usize) {
    for write in writes {
        let form = write.mode.form();
        let v = &vectors[write.vector * width..][..width];
        let h = &mut rows[write.row * width..][..width];
        let mut a = f64::from(write.strength);
        if form.matched {
            a *= dot(h, h).sqrt();
        }
        if form.unit {
            a /= dot(v, v).sqrt().max(f64::from(LEAST_LENGTH));
        }
        let b = f64::from(form.keep.factor(write.strength));
        for (h, &v) in h.iter_mut().zip(v) {
            *h = (a * f64::from(v) + b * f64::from(*h)) as f32;
        }
    }
}

/// The gradient of a product's input, from that of its output: `d · w`, `[n, out] x [out, in] -> [n, in]`.
pub fn linear_back(d: &[f32], w: &Matrix) -> Vec<f32> {
    let row = |d: &[f32]| {
        let mut sums = vec![0f64; w.columns()];
        for (o, &d) in d.iter().enumerate() {
            for (sum, &w) in sums.iter_mut().zip(w.row(o)) {
                *sum += f64::from(d) * f64::from(w);
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect::<Vec<_>>()
    };
    d.chunks_exact(w.rows()).flat_map(row).collect()
}

/// The gradient of `gate_up` (`[n, 2 ffn]`), from that of [`glu`]'s output (`[n, ffn]`).
pub fn mlp_backward(
    activation: Activation,
    gate_up: &[f32],
    d_hidden: &[f32],
    ffn: usize,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(gate_up.len());
    for (row, d) in gate_up
        .chunks_exact(2 * ffn)
        .zip(d_hidden.chunks_exact(ffn))
    {
        let (gate, up) = row.split_at(ffn);
        let active: Vec<[f64; 2]> = gate
            .iter()
            .map(|&x| activate(activation, x.into()))
            .collect();
        let columns = || active.iter().zip(d.iter().zip(up));
        out.extend(
            columns().map(|([_, slope], (&d, &up))| (f64::from(d) * f64::from(up) * slope) as f32),
        );
        out.extend(columns().map(|([active, _], (&d, _))| (f64::from(d) * active) as f32));
    }
    out
}

/// One weight and its two moments after a step of Adam (arXiv 1412.6980, algorithm 1).
pub fn adam([w, m, v]: [f64; 3], gradient: f64, adam: &Adam) -> [f64; 3] {
    let m = adam.beta1 * m + (1.0 - adam.beta1) * gradient;
    let v = adam.beta2 * v + (1.0 - adam.beta2) * gradient * gradient;
    let t = adam.step as i32;
    let m_hat = m / (1.0 - adam.beta1.powi(t));
    let v_hat = v / (1.0 - adam.beta2.powi(t));
    [w - adam.lr * m_hat / (v_hat.sqrt() + adam.eps), m, v]
}

/// The log-probability of each logit: `x - log(sum(e^x))`.
pub fn log_softmax(logits: &[f64]) -> Vec<f32> {
    let lse = log_sum_exp(logits);
    logits.iter().map(|x| (x - lse) as f32).collect()
}

/// The most likely token of each row, the lowest id in a tie: a `[n, d]`, head `[vocab, d]`. The log-probability is NaN
/// if a product of the row with the head is not a finite f32.
pub fn best(a: &[f32], head: &Matrix, map: &LogitMap) -> Vec<Best> {
    let row = |a: &[f32]| {
        let logits = logits(a, head, map);
        let mut token = 0;
        for (i, &x) in logits.iter().enumerate() {
            if x > logits[token] {
                token = i;
            }
        }
        Best {
            token: token as u32,
            logprob: logprob(&logits, token),
        }
    };
    a.chunks_exact(head.columns()).map(row).collect()
}

/// The log-probability of `tokens[i]` at row `i`: a `[n, d]`, head `[vocab, d]`, tokens `[n]`. NaN as in [`best`].
pub fn score(a: &[f32], head: &Matrix, map: &LogitMap, tokens: &[u32]) -> Vec<f32> {
    a.chunks_exact(head.columns())
        .zip(tokens)
        .map(|(a, &token)| logprob(&logits(a, head, map), token as usize))
        .collect()
}

fn logprob(logits: &[f64], token: usize) -> f32 {
    if logits.iter().all(|&x| (x as f32).is_finite()) {
        log_softmax(logits)[token]
    } else {
        f32::NAN
    }
}

/// One row's logits, `[vocab]`; NaN for a product that is not a finite f32.
fn logits(a: &[f32], head: &Matrix, map: &LogitMap) -> Vec<f64> {
    let logit = |token| {
        let product = dot(a, head.row(token));
        if (product as f32).is_finite() {
            cap(product * f64::from(map.scale), map.softcap)
        } else {
            f64::NAN
        }
    };
    (0..head.rows()).map(logit).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum()
}

/// `log(sum(e^x))`.
fn log_sum_exp(x: &[f64]) -> f64 {
    let top = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + x.iter().map(|x| (x - top).exp()).sum::<f64>().ln()
}
