//! The reference against numbers worked out by hand, so that the other tests stand on something.

use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{AttnShape, Best, DType, InjectMode, Injection};

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
    // A tie goes to the even neighbour; f16 has three bits more and ends at 65504.
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
    assert_eq!(reference::embed(&w, &[2, 0]), [5.0, 6.0, 1.0, 2.0]);
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
    // Mean of squares 12.5; with eps 12.5 it is 25.
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
        &reference::swiglu(&[ln3 as f32, 0.0, 4.0, 5.0], 2),
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
    // A quarter turn of the first pair, none of the second.
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
    // Heads 0 and 1 read the first key and value, 2 and 3 the second. Scores of head 0: 0 and ln 3.
    let ln3 = 3f32.ln();
    let q = [1.0, 0.0, 0.0, -1.0];
    let keys: [&[f32]; 2] = [&[0.0, 0.0], &[ln3, ln3]];
    let values: [&[f32]; 2] = [&[4.0, 40.0], &[8.0, 80.0]];
    near(
        &reference::attend(&shape, &q, &keys, &values),
        &[7.0, 6.0, 60.0, 50.0],
    );
    // With head_dim 4 scores are halved.
    let shape = AttnShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
    };
    let (zeros, key) = ([0.0; 4], [2.0 * ln3, 0.0, 0.0, 0.0]);
    let keys: [&[f32]; 2] = [&zeros, &key];
    let values: [&[f32]; 2] = [&[4.0; 4], &[8.0; 4]];
    near(
        &reference::attend(&shape, &[1.0; 4], &keys, &values),
        &[7.0; 4],
    );
}

#[test]
fn moves() {
    let src = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(reference::gather(&src, 2, &[2, 0]), [5.0, 6.0, 1.0, 2.0]);
    let mut dst = [0.0; 4];
    reference::scatter(&src, &[2], &mut dst, &[1], 2);
    assert_eq!(dst, [0.0, 0.0, 5.0, 6.0]);
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
    ] = reference::best(&[1.0], &head)[..]
    else {
        panic!("one row has one best token");
    };
    assert_eq!(token, 1);
    near(&[got], &[logprob]);
    near(
        &reference::score(&[1.0, 1.0], &head, &[0, 2]),
        &[logprob - 1.0, logprob],
    );
}
