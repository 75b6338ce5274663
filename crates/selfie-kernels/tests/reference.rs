//! Checks the reference against numbers worked out by hand, because the other tests rely on it.

use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{
    Activation, Adam, Attend, AttnShape, Best, DType, InjectMode, Injection, LogitMap,
};

#[track_caller]
fn near(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= 1e-7 * want.abs().max(1e-3), "{got}, not {want}");
    }
}

#[test]
fn rounding() {
    // A tie goes to the even neighbour. f16 has three more bits and ends at 65504.
    let tie = 1.0 + 2f32.powi(-8);
    assert_eq!(reference::round(DType::F32, tie), tie);
    assert_eq!(reference::round(DType::Bf16, tie), 1.0);
    assert_eq!(reference::round(DType::F16, tie), tie);
    assert_eq!(reference::round(DType::F16, 1e5), f32::INFINITY);
    assert_eq!(reference::operand(DType::Bf16, tie), 1.0);
    assert_eq!(reference::operand(DType::F16, 1e5), 1e5);
}

#[test]
fn embed_and_linear() {
    let w = Matrix::new(DType::F32, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(reference::embed(&w, &[2, 0], 1.0), [5.0, 6.0, 1.0, 2.0]);
    assert_eq!(reference::embed(&w, &[1], 0.5), [1.5, 2.0]);
    let a = [1.0, -1.0, 0.5, 2.0];
    assert_eq!(
        reference::linear(&a, &w, None, None),
        [-1.0, -1.0, -1.0, 4.5, 9.5, 14.5]
    );
    let bias = [10.0, 20.0, 30.0];
    let residual = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    assert_eq!(
        reference::linear(&a, &w, Some(&bias), Some(&residual)),
        [9.0, 20.0, 31.0, 17.5, 33.5, 49.5]
    );
}

#[test]
fn norm_and_gate() {
    // The mean of squares is 12.5; an eps of 12.5 makes it 25.
    let root = 12.5f64.sqrt();
    near(
        &reference::rms_norm(&[3.0, 4.0], &[1.0, -2.0], 0.0),
        &[3.0 / root, -8.0 / root],
    );
    near(
        &reference::rms_norm(&[3.0, 4.0], &[1.0, 1.0], 12.5),
        &[0.6, 0.8],
    );
    // silu(ln 3) = ln 3 * 3/4.
    let ln3 = 3f64.ln();
    near(
        &reference::glu(Activation::Silu, &[ln3 as f32, 0.0, 4.0, 5.0], 2),
        &[f64::from(ln3 as f32) * 3.0, 0.0],
    );
}

#[test]
fn rotation() {
    // Four columns: frequencies 1 and 1/100 for theta 10000; pairs (0, 2) and (1, 3).
    let table = reference::rope_table(3, 4, 10_000.0);
    near(
        &table[8..],
        &[2f64.cos(), 0.02f64.cos(), 2f64.sin(), 0.02f64.sin()],
    );
    let mut head = [1.0, 2.0, 3.0, 4.0];
    // A quarter turn of the first pair; the second pair stays.
    reference::rope(&mut head, &[0.0, 1.0, 1.0, 0.0]);
    assert_eq!(head, [-3.0, 2.0, 1.0, 4.0]);
}

#[test]
fn attention() {
    let shape = AttnShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 1,
    };
    // Heads 0 and 1 read the first key and value, 2 and 3 the second. The scores of head 0 are 0 and ln 3.
    let ln3 = 3f32.ln();
    let q = [1.0, 0.0, 0.0, -1.0];
    let keys: [&[f32]; 2] = [&[0.0, 0.0], &[ln3, ln3]];
    let values: [&[f32]; 2] = [&[4.0, 40.0], &[8.0, 80.0]];
    near(
        &reference::attend(&Attend::new(shape), &q, &keys, &values),
        &[7.0, 6.0, 60.0, 50.0],
    );
    // With head_dim 4, scores are halved.
    let shape = AttnShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
    };
    let (zeros, key) = ([0.0; 4], [2.0 * ln3, 0.0, 0.0, 0.0]);
    let keys: [&[f32]; 2] = [&zeros, &key];
    let values: [&[f32]; 2] = [&[4.0; 4], &[8.0; 4]];
    near(
        &reference::attend(&Attend::new(shape), &[1.0; 4], &keys, &values),
        &[7.0; 4],
    );
}

#[test]
fn moves() {
    let src = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(reference::gather(&src, 2, &[2, 0]), [5.0, 6.0, 1.0, 2.0]);
}

#[test]
fn writes() {
    let src = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let mut dst = [0.0, 0.0, 5.0, 6.0];
    let write = |row, vector, mode| Injection {
        row,
        vector,
        mode,
        strength: 0.25,
    };
    let writes = [
        write(1, 0, InjectMode::Replace),
        write(0, 2, InjectMode::Add),
    ];
    reference::inject(&src, &writes, &mut dst, 2);
    assert_eq!(dst, [1.25, 1.5, 4.0, 5.0]);
    // Lengths 13 and 5: the matched vector is (3, 4) * 13 / 5.
    let mut dst = [5.0, 12.0, 5.0, 12.0];
    let writes = [
        write(0, 0, InjectMode::AddMatched),
        write(1, 0, InjectMode::ReplaceNorm),
    ];
    reference::inject(&[3.0, 4.0], &writes, &mut dst, 2);
    near(&dst, &[6.95, 14.6, 0.15, 0.2]);
    // A vector of length 0 adds nothing, and replaces the row with zeros.
    reference::inject(&[0.0, 0.0], &writes, &mut dst, 2);
    near(&dst, &[6.95, 14.6, 0.0, 0.0]);
}

#[test]
fn modes_have_names() {
    let names = ["replace", "add", "add-matched", "replace-norm"];
    assert_eq!(InjectMode::ALL.map(InjectMode::name), names);
    for mode in InjectMode::ALL {
        assert_eq!(mode.to_string().parse::<InjectMode>().ok(), Some(mode));
    }
    let refused = "Replace".parse::<InjectMode>().map_err(|e| e.to_string());
    let want = format!(
        "there is no injection mode `Replace`; use one of {}",
        names.join(", ")
    );
    assert_eq!(refused, Err(want));
}

#[test]
fn head() {
    let third = (1.0f64 / 3.0).ln();
    near(
        &reference::log_softmax(&[1000.0, 1000.0 + 2f64.ln()]),
        &[third, (2.0f64 / 3.0).ln()],
    );
    // Logits 0, 1, 1: the tie goes to token 1.
    let head = Matrix::new(DType::F32, 1, &[0.0, 1.0, 1.0]);
    let logprob = -(2.0 + (-1f64).exp()).ln();
    let [
        Best {
            token,
            logprob: got,
        },
    ] = reference::best(&[1.0], &head, &LogitMap::PLAIN)[..]
    else {
        panic!("one row has one best token");
    };
    assert_eq!(token, 1);
    near(&[got], &[logprob]);
    near(
        &reference::score(&[1.0, 1.0], &head, &LogitMap::PLAIN, &[0, 2]),
        &[logprob - 1.0, logprob],
    );
}

/// Checks the gradients of a whole MLP against central differences of its loss, `sum(down(silu(gate) * up) * target)`.
#[test]
fn gradients() {
    let (d, ffn) = (3, 5);
    let value = |i: usize| ((i * 37 + 11) % 19) as f32 / 8.0 - 1.1;
    let weights = |from: usize, n: usize| (from..from + n).map(value).collect::<Vec<_>>();
    let gate_up = weights(0, 2 * ffn * d);
    let down = weights(50, d * ffn);
    let (x, target) = (weights(90, 2 * d), weights(7, 2 * d));
    let matrix = |columns, values: &[f32]| Matrix::new(DType::F32, columns, values);

    let inner = reference::linear(&x, &matrix(d, &gate_up), None, None);
    let hidden = reference::glu(Activation::Silu, &inner, ffn);
    let d_hidden = reference::linear_back(&target, &matrix(ffn, &down));
    let d_inner = reference::mlp_backward(Activation::Silu, &inner, &d_hidden, ffn);
    let outer = |d: &[f32], x: &[f32], [n, out, width]: [usize; 3], at: usize| -> f64 {
        let (o, k) = (at / width, at % width);
        let term = |r| f64::from(d[r * out + o]) * f64::from(x[r * width + k]);
        (0..n).map(term).sum()
    };
    // The loss is in f64, so that differences keep enough digits.
    let loss = |gate_up: &[f64], down: &[f64]| -> f64 {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut loss = 0.0;
        for (x, target) in x.chunks_exact(d).zip(target.chunks_exact(d)) {
            let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            let inner: Vec<f64> = gate_up.chunks_exact(d).map(|w| dot(w, &x)).collect();
            let gated = |i: usize| inner[i] / (1.0 + (-inner[i]).exp()) * inner[ffn + i];
            let hidden: Vec<f64> = (0..ffn).map(gated).collect();
            for (w, &t) in down.chunks_exact(ffn).zip(target) {
                loss += dot(w, &hidden) * f64::from(t);
            }
        }
        loss
    };
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (wide_gate_up, wide_down) = (wide(&gate_up), wide(&down));
    let h = 1e-4;
    let mut worst = 0f64;
    for at in 0..gate_up.len() {
        let nudged = |by: f64| {
            let mut gate_up = wide_gate_up.clone();
            gate_up[at] += by;
            loss(&gate_up, &wide_down)
        };
        let slope = (nudged(h) - nudged(-h)) / (2.0 * h);
        worst = worst.max((slope - outer(&d_inner, &x, [2, 2 * ffn, d], at)).abs());
    }
    for at in 0..down.len() {
        let nudged = |by: f64| {
            let mut down = wide_down.clone();
            down[at] += by;
            loss(&wide_gate_up, &down)
        };
        let slope = (nudged(h) - nudged(-h)) / (2.0 * h);
        worst = worst.max((slope - outer(&target, &hidden, [2, d, ffn], at)).abs());
    }
    assert!(worst < 2e-6, "a gradient is off by {worst:e}");
}

#[test]
fn adam() {
    // The first step is lr * sign(gradient), whatever the gradient's size.
    let [w, m, v] = reference::adam([1.0, 0.0, 0.0], -1e-3, &Adam::new(0.1));
    near(&[w as f32, m as f32], &[1.1 - 1e-6, -1e-4]);
    assert!((v - 1e-9).abs() < 1e-18, "{v}");
    // The second step, by hand: m = 0.19, v = 0.001999; corrected, both are 1.
    let second = Adam {
        step: 2,
        ..Adam::new(0.1)
    };
    let state = reference::adam([0.0, 0.1, 0.001], 1.0, &second);
    near(&state.map(|x| x as f32), &[-0.1, 0.19, 0.001999]);
}
