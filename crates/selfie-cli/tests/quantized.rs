//! Weights quantized on loading, and the accuracy they lose.

mod common;

use std::fs;

use common::{dir, selfie, selfie_of};

#[test]
fn quantized_weights_are_told_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.txt");
    fs::write(
        &texts,
        "The capital of France is\nThe largest country in Asia is\n",
    )
    .unwrap();
    let model = dir("llama2-mha");

    let info = selfie("info", &model, &["--quantize", "q4_k"]);
    let computed = info
        .stdout
        .lines()
        .find(|line| line.starts_with("computed in"));
    let computed = computed.unwrap();
    // A row of 64 columns is shorter than a block of 256: Q5_0 instead, and Q8_0 for the head beside it. `down` has 172
    // columns, not a multiple of 32.
    for format in ["q5_0 (", "q8_0 (1)", "f32 (4)"] {
        assert!(computed.contains(format), "{computed}");
    }

    let drift = |options: &[&str]| -> Vec<f64> {
        let out = folder.path().join("drift.csv");
        let paths = [
            "--data",
            texts.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let args = [&paths, options].concat();
        let outcome = selfie_of(&["eval", "drift"], &model, &args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let is_noted = outcome.stderr.contains("are quantized");
        assert_eq!(
            is_noted,
            options.contains(&"--quantize"),
            "{}",
            outcome.stderr
        );
        let csv = fs::read_to_string(&out).unwrap();
        let line = csv.lines().nth(1).unwrap();
        line.split(',')
            .map(|value| value.parse().unwrap())
            .collect()
    };
    // The golden checkpoint is f32: nothing changes.
    let same = drift(&["--interpret", "3"]);
    // Two texts at five layers each.
    assert_eq!(same[2..], [0.0, 1.0, 10.0, 0.0]);
    let [eight, five] = ["q8_0", "q4_k"].map(|format| drift(&["--quantize", format]));
    assert_eq!(eight.len(), 4);
    assert!(0.0 < eight[2] && eight[2] < five[2], "{eight:?} {five:?}");
}

#[test]
fn impossible_quantizations_are_refused() {
    let model = dir("llama2-mha");
    for (args, says) in [
        (&["--quantize", "q3_k"][..], "q8_0, q4_0"),
        (&["--quantize", "q8_0", "--dtype", "f32"], "--dtype"),
    ] {
        let outcome = selfie("info", &model, args);
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
    }
}
