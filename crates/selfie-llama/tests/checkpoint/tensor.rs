//! Requests for a tensor.

use half::{bf16, f16};
use selfie_llama::{Checkpoint, LlamaError};

use crate::{SINGLE, TWO, folder, message, vector_file, weights};

#[test]
fn missing_tensor() {
    let dir = folder(&[(SINGLE, &vector_file(&[1.0]))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = checkpoint.tensor("model.norm.weight", &[1]).unwrap_err();
    assert!(matches!(error, LlamaError::MissingTensor { .. }));
    assert_eq!(
        message(&error, dir.path()),
        "DIR has no tensor model.norm.weight: its files are incomplete, or do not belong to its \
         config.json"
    );
    let error = checkpoint.tensor("lm_head.weight", &[1]).unwrap_err();
    assert!(matches!(error, LlamaError::MissingHead { .. }));
    assert_eq!(
        message(&error, dir.path()),
        "DIR has no tensor lm_head.weight: its files are incomplete, or its head is the embedding table; then \
         write \"tie_word_embeddings\": true into its config.json"
    );
}

/// Such a tensor may be in the file, even if this version does not know its type.
#[test]
fn unsupported_dtype() {
    for (dtype, bytes) in [("I8", 2), ("F64", 16), ("F8_E4M3", 2), ("Q4_NEW", 1)] {
        let header =
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{bytes}]}}}}"#);
        let dir = folder(&[(SINGLE, &weights(&header, &vec![0; bytes]))]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.find("a").unwrap().dtype, dtype);
        let error = checkpoint.tensor("a", &[2]).unwrap_err();
        assert!(matches!(error, LlamaError::TensorDType { .. }));
        let expected = format!(
            "DIR/model.safetensors: tensor a is stored as {dtype}, and F32, BF16 and F16 are \
             supported; save the model unquantized in one of these"
        );
        assert_eq!(message(&error, dir.path()), expected);
    }
}

#[test]
fn wrong_shape() {
    let dir = folder(&[(SINGLE, &weights(TWO, &[0; 12]))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    for expected in [&[2, 1][..], &[2], &[1, 2, 1]] {
        let error = checkpoint.tensor("b", expected).unwrap_err();
        assert!(matches!(error, LlamaError::TensorShape { .. }));
        let text = format!(
            "DIR/model.safetensors: tensor b has shape [1, 2], and config.json asks for {expected:?}; \
             one of the two belongs to another model"
        );
        assert_eq!(message(&error, dir.path()), text);
    }
}

#[test]
fn vector_that_is_not_finite() {
    for (value, shown) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        let dtypes = [
            ("F32", value.to_le_bytes().to_vec()),
            ("BF16", bf16::from_f32(value).to_le_bytes().to_vec()),
            ("F16", f16::from_f32(value).to_le_bytes().to_vec()),
        ];
        for (dtype, bytes) in dtypes {
            let header = format!(
                r#"{{"a":{{"dtype":"{dtype}","shape":[3],"data_offsets":[0,{}]}}}}"#,
                3 * bytes.len()
            );
            let data = [vec![0; 2 * bytes.len()], bytes].concat();
            let dir = folder(&[(SINGLE, &weights(&header, &data))]);
            let tensor = Checkpoint::open(dir.path()).unwrap().tensor("a", &[3]);
            let error = tensor.unwrap().vector().unwrap_err();
            assert!(matches!(error, LlamaError::NotFinite { index: 2, .. }));
            let expected = format!(
                "DIR/model.safetensors: value 2 of tensor a is {shown}, not a finite number; download \
                 or train it again"
            );
            assert_eq!(message(&error, dir.path()), expected);
        }
    }
}
