//! `--kv`: the dtype of keys and values.

mod common;

use std::fs;

use common::{dir, fail, selfie_of, succeed};

#[test]
fn info_knows_the_size_of_the_cache() {
    let model = dir("llama3-gqa");
    // 1024 positions of 5 layers, each with a key and a value of 2 heads of 16 values.
    let values = 1024 * 5 * 2 * 2 * 16;
    for (args, kept, bytes) in [
        (&[][..], "f32", 4 * values),
        (&["--kv", "f32"], "f32", 4 * values),
        (&["--kv", "bf16"], "bf16", 2 * values),
        (&["--kv", "f16"], "f16", 2 * values),
    ] {
        let args = [&["--device", "cpu"], args].concat();
        let info = succeed("info", &model, &args);
        let megabytes = f64::from(bytes) / 1e6;
        let line = format!("kv cache     {kept}, {megabytes:.1} MB for 1024 positions\n");
        assert!(info.contains(&line), "{info}");
    }
    let message = fail(2, "info", &model, &["--kv", "f8"]);
    assert!(message.contains("auto, f32, bf16, f16"), "{message}");
}

/// Against keys and values in f32: bf16 has 8 bits of mantissa, f16 has 11.
#[test]
fn drift_measures_what_it_costs() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.txt");
    fs::write(
        &texts,
        "The capital of France is\nThe largest country in Asia is\n",
    )
    .unwrap();
    let model = dir("llama2-mha");
    let drift = |kv: &str| -> f64 {
        let out = folder.path().join("drift.csv");
        let args = [
            "--kv",
            kv,
            "--data",
            texts.to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
        ];
        let outcome = selfie_of(&["eval", "drift"], &model, &args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let csv = fs::read_to_string(&out).unwrap();
        let line = csv.lines().nth(1).unwrap();
        line.split(',').nth(2).unwrap().parse().unwrap()
    };
    let [exact, half, brain] = ["f32", "f16", "bf16"].map(drift);
    assert_eq!(exact, 0.0);
    assert!(0.0 < half && half < brain, "{half:e}, {brain:e}");
}
