//! The ops that train one MLP.

use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{Adam, Backend, DType};

use super::rows::{ACTIVATIONS, argument, exp_units};
use super::tables::{ADAM, GLU, LINEAR, Linear, ROWS, Step};
use super::*;

pub fn check_read_matrix<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "read_matrix");
    for (seed, case) in LINEAR.iter().enumerate() {
        for dtype in DTYPES {
            let w = values(seed as u64, case.out * case.k, case.w);
            let w = Matrix::new(dtype, case.k, &w);
            let packed = must("matrix", backend.matrix(&[&w], dtype));
            let rows = case.out / 3..case.out;
            let want: Vec<f32> = rows.clone().flat_map(|i| w.row(i).to_vec()).collect();
            let got = must("read_matrix", backend.read_matrix(&packed, rows));
            let name = format_args!("{dtype} {} x {}", case.out, case.k);
            errors.compare(name, &got, &want, |_| 0.0);
        }
    }
    let vector = values(1, 33, (-1.0, 1.0));
    let copy = must("vector", backend.vector(&vector));
    let got = must("read_vector", backend.read_vector(&copy));
    errors.compare(format_args!("a vector"), &got, &vector, |_| 0.0);
    errors.finish();
}

pub fn check_linear_f32<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "linear_f32");
    for (seed, case) in LINEAR.iter().enumerate() {
        let (rows, seed) = (ROWS[ROWS.len() - 1], seed as u64 * 10);
        let Linear { k, out: width, .. } = *case;
        let x = values(seed, rows * k, case.a);
        let w = Matrix::new(DType::F32, k, &values(seed + 1, width * k, case.w));
        let bias = values(seed + 2, width, case.a);
        let weights = rows_of(backend, &all(&w), k);
        for bias in [None, Some(&bias[..])] {
            let want = reference::linear(&x, &w, bias, None);
            let size = reference::linear(&abs(&x), &abs_matrix(&w), bias.map(abs).as_deref(), None);
            let bias = bias.map(|bias| rows_of(backend, bias, 1));
            for n in ROWS {
                let x = rows_of(backend, &x[..n * k], k);
                let mut out = must("rows", backend.rows(n, width));
                let done = backend.linear_f32(&x, &weights, bias.as_ref(), &mut out);
                must("linear_f32", done);
                errors.compare(
                    format_args!("[{n}, {k}] x [{width}, {k}], bias {}", bias.is_some()),
                    &read_all(backend, &out),
                    &want[..n * width],
                    |i| sum_bound(k) * f64::from(size[i]),
                );
            }
        }
    }
    errors.finish();
}

pub fn check_linear_f32_back<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "linear_f32_back");
    for (seed, case) in LINEAR.iter().enumerate() {
        let (rows, seed) = (ROWS[ROWS.len() - 1], seed as u64 * 10);
        // The table's [out, in], transposed: sums also run over its long side.
        let Linear { k: out, out: k, .. } = *case;
        let d = values(seed, rows * out, case.a);
        let w = Matrix::new(DType::F32, k, &values(seed + 1, out * k, case.w));
        let want = reference::linear_back(&d, &w);
        let size = reference::linear_back(&abs(&d), &abs_matrix(&w));
        let weights = rows_of(backend, &all(&w), k);
        for n in ROWS {
            let d = rows_of(backend, &d[..n * out], out);
            let mut dx = must("rows", backend.rows(n, k));
            let done = backend.linear_f32_back(&d, &weights, &mut dx);
            must("linear_f32_back", done);
            errors.compare(
                format_args!("[{n}, {out}] x [{out}, {k}]"),
                &read_all(backend, &dx),
                &want[..n * k],
                |i| sum_bound(out) * f64::from(size[i]),
            );
        }
    }
    errors.finish();
}

pub fn check_mlp_backward<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "glu_f32 and mlp_backward");
    for (seed, case) in GLU.iter().enumerate() {
        let ffn = case.ffn;
        for n in ROWS {
            let gate = values(seed as u64, n * ffn, case.gate);
            let up = values(100 + seed as u64, n * ffn, (-3.0, 3.0));
            let d = values(200 + seed as u64, n * ffn, (-2.0, 2.0));
            let rows = gate.chunks_exact(ffn).zip(up.chunks_exact(ffn));
            let gate_up = rows.flat_map(|(gate, up)| [gate, up]).collect::<Vec<_>>();
            let gate_up = gate_up.concat();
            let device = rows_of(backend, &gate_up, 2 * ffn);
            let d_hidden = rows_of(backend, &d, ffn);
            for activation in ACTIVATIONS {
                // Of both signs: a gradient contains e^-u and 1 - 1 / (1 + e^-u).
                let units =
                    |gate: f32| exp_units(activation, gate).max(exp_units(activation, -gate)) * U;
                let want = reference::glu(activation, &gate_up, ffn);
                let mut out = must("rows", backend.rows(n, ffn));
                must("glu_f32", backend.glu_f32(activation, &device, &mut out));
                let got = read_all(backend, &out);
                let name = format_args!("{activation:?} {n} x {ffn}, gate {:?}", case.gate);
                errors.compare(name, &got, &want, |i| {
                    units(gate[i]) * f64::from(want[i].abs()) + 1e-34 * f64::from(up[i].abs())
                });

                let want = reference::mlp_backward(activation, &gate_up, &d, ffn);
                let mut out = must("rows", backend.rows(n, 2 * ffn));
                let done = backend.mlp_backward(activation, &device, &d_hidden, &mut out);
                must("mlp_backward", done);
                let got = read_all(backend, &out);
                let name = format_args!("backward {activation:?} {n} x {ffn}, {:?}", case.gate);
                errors.compare(name, &got, &want, |i| {
                    let (row, column) = (i / (2 * ffn), i % (2 * ffn));
                    let at = row * ffn + column % ffn;
                    let x = f64::from(gate[at]);
                    let [u, inner] = argument(activation, x);
                    let sigmoid = 1.0 / (1.0 + (-u).exp());
                    // Near its minimum the slope is a difference of two terms of this size.
                    let size = if column < ffn {
                        f64::from(up[at]).abs() * sigmoid * (1.0 + x.abs() * inner)
                    } else {
                        x.abs() * sigmoid
                    };
                    let d = f64::from(d[at]).abs();
                    units(gate[at]) * d * size + 1e-34 * (1.0 + x.abs() * inner) * 10.0
                });
            }
        }
    }
    errors.finish();
}

pub fn check_adam<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "adam");
    for (seed, case) in ADAM.iter().enumerate() {
        let Step { n, width, out, .. } = *case;
        let seed = seed as u64 * 10;
        let size = f64::from(case.d.1.abs());
        let x = values(seed, n * width, (-1.0, 1.0));
        let d = values(seed + 1, n * out, case.d);
        let w = values(seed + 2, out * width, (-1.0, 1.0));
        let m = values(seed + 3, out * width, (-1.0, 1.0));
        let m: Vec<f32> = m.iter().map(|m| (f64::from(*m) * size) as f32).collect();
        let v = values(seed + 4, out * width, (0.0, 1.0));
        let v: Vec<f32> = v
            .iter()
            .map(|v| (f64::from(*v) * size * size) as f32)
            .collect();
        let rate = Adam {
            step: case.number,
            ..Adam::new(1e-2)
        };
        let [mut dev_w, mut dev_m, mut dev_v] =
            [&w, &m, &v].map(|values| rows_of(backend, values, width));
        let (dev_d, dev_x) = (rows_of(backend, &d, out), rows_of(backend, &x, width));
        let moments = [&mut dev_m, &mut dev_v];
        let done = backend.adam(&mut dev_w, moments, &dev_d, &dev_x, &rate);
        must("adam", done);

        let mut want = [Vec::new(), Vec::new(), Vec::new()];
        let mut bounds = [Vec::new(), Vec::new(), Vec::new()];
        for o in 0..out {
            for k in 0..width {
                let terms = (0..n).map(|r| f64::from(d[r * out + o]) * f64::from(x[r * width + k]));
                let terms: Vec<f64> = terms.collect();
                let gradient: f64 = terms.iter().sum();
                // The gradient may be off by the rounding of a sum; try what that does to the step.
                let off = sum_bound(n) * terms.iter().map(|t| t.abs()).sum::<f64>();
                let at = o * width + k;
                let before = [w[at], m[at], v[at]].map(f64::from);
                let exact = reference::adam(before, gradient, &rate);
                let near = [gradient - off, gradient + off]
                    .map(|gradient| reference::adam(before, gradient, &rate));
                let step = (exact[0] - before[0]).abs();
                let rounding = [
                    exact[0].abs() + 16.0 * step,
                    4.0 * (before[1].abs() + gradient.abs()),
                    4.0 * exact[2],
                ];
                for i in 0..3 {
                    want[i].push(exact[i] as f32);
                    let moved = near.iter().map(|near| (near[i] - exact[i]).abs());
                    bounds[i].push(moved.fold(0.0, f64::max) + 2.0 * U * rounding[i]);
                }
            }
        }
        for (i, (name, got)) in [("w", &dev_w), ("m", &dev_m), ("v", &dev_v)]
            .iter()
            .enumerate()
        {
            errors.compare(
                format_args!("{name} of [{out}, {width}], {n} rows, step {}", case.number),
                &read_all(backend, got),
                &want[i],
                |at| bounds[i][at],
            );
        }
    }
    errors.finish();
}

fn all(w: &Matrix) -> Vec<f32> {
    (0..w.rows()).flat_map(|i| w.row(i).to_vec()).collect()
}
