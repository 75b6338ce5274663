//! Compares rotary embeddings with those that transformers computes.

use std::path::Path;

use selfie_llama::{LlamaConfig, Rope, RopeScaling};
use serde_json::{Value, json};

/// The rotary fields of a case, in a configuration that also has the other fields.
fn with_shape(rotary: &Value) -> LlamaConfig {
    let mut config = json!({
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 500,
    });
    for (name, value) in rotary.as_object().unwrap() {
        config[name] = value.clone();
    }
    LlamaConfig::parse(&config.to_string(), Path::new("config.json")).unwrap()
}

#[test]
fn rope_agrees_with_transformers() {
    let reference: Value = serde_json::from_str(include_str!("rope_reference.json")).unwrap();
    let floats = |value: &Value| -> Vec<f64> {
        let list = value.as_array().unwrap();
        list.iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let positions = floats(&reference["positions"]);
    let last = *positions.last().unwrap() as usize;
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 19);
    for case in cases {
        let name = &case["name"];
        let config = with_shape(&case["config"]);
        let head_dim = config.attn.head_dim;
        let half = head_dim / 2;

        let inv_freq = config.rope.inv_freq(head_dim);
        let expected_freq = floats(&case["inv_freq"]);
        assert_eq!(inv_freq.len(), half);
        assert_eq!(expected_freq.len(), half);
        for (&found, expected) in inv_freq.iter().zip(&expected_freq) {
            let error = (f64::from(found) / expected - 1.0).abs();
            assert!(error <= 1e-6, "{name}: {found} {expected}");
        }

        let scale = case["attention_factor"].as_f64().unwrap();
        let found = f64::from(config.rope.attention_factor());
        assert!((found - scale).abs() <= 1e-6, "{name}: {found} {scale}");

        let table = config.rope.table(head_dim, last + 1);
        assert_eq!(table.len(), (last + 1) * head_dim);
        for (&position, expected) in positions.iter().zip(case["table"].as_array().unwrap()) {
            let row = &table[position as usize * head_dim..][..head_dim];
            for (i, (&found, expected)) in row.iter().zip(floats(expected)).enumerate() {
                // Powers of the two libraries may differ by one rounding, which the position multiplies.
                let angle = position * expected_freq[i % half];
                let allowed = 1e-5 + scale * angle * f64::from(f32::EPSILON);
                let error = (f64::from(found) - expected).abs();
                assert!(
                    error <= allowed,
                    "{name}, position {position}, column {i}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn rope_table_is_cosines_then_sines() {
    let rope = Rope {
        theta: 100.0,
        scaling: RopeScaling::None,
    };
    assert_eq!(rope.inv_freq(4), [1.0, 0.1]);
    assert_eq!(rope.attention_factor(), 1.0);
    let table = rope.table(4, 3);
    assert_eq!(table[..4], [1.0, 1.0, 0.0, 0.0]);
    let angles = [2.0_f64, f64::from(0.1_f32) * 2.0];
    let expected = [
        angles[0].cos(),
        angles[1].cos(),
        angles[0].sin(),
        angles[1].sin(),
    ];
    assert_eq!(table[8..], expected.map(|x| x as f32));
    assert!(rope.table(4, 0).is_empty());
}
