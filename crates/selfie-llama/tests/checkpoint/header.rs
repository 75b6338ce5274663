//! The header of a safetensors file.

use std::fs;

use safetensors::SafeTensors;
use selfie_kernels::MatrixSource;
use selfie_llama::{Checkpoint, LlamaError, ShardError, TensorInfo};

use crate::{SINGLE, TWO, open, read_rows, refusal, weights};

/// The error of opening a folder with this one file.
#[track_caller]
fn single_refusal(header: &str, data: &[u8]) -> (LlamaError, String) {
    refusal(&[(SINGLE, &weights(header, data))])
}

#[test]
fn shorter_than_its_first_field() {
    for len in 0..8 {
        let (error, message) = refusal(&[(SINGLE, &vec![0; len])]);
        assert!(matches!(
            error,
            LlamaError::Shard(ShardError::Truncated { .. })
        ));
        let expected = format!(
            "DIR/model.safetensors is cut off: it should have 8 bytes and has {len}; download it again"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn header_too_large() {
    for length in [100_000_001u64, u64::MAX] {
        let (error, message) = refusal(&[(SINGLE, &length.to_le_bytes())]);
        assert!(
            matches!(error, LlamaError::Shard(ShardError::HeaderTooLarge { header, .. }) if header == length)
        );
        let expected = format!(
            "DIR/model.safetensors begins with a header of {length} bytes, but only 100000000 are allowed: \
             it is not a safetensors file; download it again (`git lfs pull`, if it is a pointer of \
             Git LFS)"
        );
        assert_eq!(message, expected);
    }
    // The file that a clone without Git LFS has.
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2200119864\n";
    let (error, _) = refusal(&[(SINGLE, pointer)]);
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::HeaderTooLarge { .. })
    ));
}

#[test]
fn header_past_the_end() {
    for length in [3u64, 100_000_000] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend(b"{}");
        let (error, message) = refusal(&[(SINGLE, &file)]);
        assert!(matches!(
            error,
            LlamaError::Shard(ShardError::HeaderPastEnd { found: 10, .. })
        ));
        let expected = format!(
            "DIR/model.safetensors begins with a header of {length} bytes but has only 10 bytes: it is \
             cut off or not a safetensors file; download it again"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn header_that_does_not_parse() {
    let tensor = |fields: &str| format!(r#"{{"a":{{{fields}}}}}"#);
    for (header, reason) in [
        (
            String::new(),
            "EOF while parsing a value at line 1 column 0",
        ),
        (
            "[]".to_owned(),
            "invalid type: sequence, expected an object of tensors at line 1 column 0",
        ),
        (
            "{\"a\u{1}".to_owned(),
            "control character (\\u0000-\\u001F) found while parsing a string at line 1 column 4",
        ),
        (
            tensor(r#""dtype":"F32","shape":[1]"#),
            "missing field `data_offsets` at line 1 column 32",
        ),
        (
            tensor(r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#),
            "invalid value: integer `-1`, expected usize at line 1 column 31",
        ),
        (
            tensor(r#""dtype":"F32","shape":[1],"data_offsets":[0,4,8]"#),
            "trailing characters at line 1 column 53",
        ),
    ] {
        let (error, message) = single_refusal(&header, &[0; 4]);
        assert!(matches!(
            error,
            LlamaError::Shard(ShardError::Header { .. })
        ));
        let expected = format!(
            "the header of DIR/model.safetensors is damaged: {reason}; download the file again"
        );
        assert_eq!(message, expected);
    }
    let not_text = [&2u64.to_le_bytes()[..], &[b'"', 0xff]].concat();
    let (error, _) = refusal(&[(SINGLE, &not_text)]);
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::Header { .. })
    ));
}

#[test]
fn truncated() {
    open(&[(SINGLE, &weights(TWO, &[0; 12]))]);
    let (error, message) = single_refusal(TWO, &[0; 11]);
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::Truncated { .. })
    ));
    let whole = 8 + TWO.len() + 12;
    let expected = format!(
        "DIR/model.safetensors is cut off: it should have {whole} bytes and has {}; download it again",
        whole - 1
    );
    assert_eq!(message, expected);
}

#[test]
fn overlap() {
    let header = TWO.replace("[8,12]", "[6,10]");
    let (error, message) = single_refusal(&header, &[0; 12]);
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::Overlap { .. })
    ));
    assert_eq!(
        message,
        "DIR/model.safetensors: tensor b begins at byte 6 of the data, but a ends at 8; download the \
         file again"
    );
    // A tensor inside another one, and one at the same place.
    for place in ["[0,4]", "[4,8]"] {
        let header = TWO.replace("[8,12]", place);
        let (error, _) = single_refusal(&header, &[0; 8]);
        assert!(
            matches!(error, LlamaError::Shard(ShardError::Overlap { .. })),
            "{error}"
        );
    }
}

#[test]
fn gap() {
    let (begin, middle) = (
        TWO.replace("[8,12]", "[9,13]").replace("[0,8]", "[1,9]"),
        TWO.replace("[8,12]", "[10,14]"),
    );
    for (header, len, bytes) in [
        (&begin[..], 13, "0..1"),
        (&middle, 14, "8..10"),
        (TWO, 15, "12..15"),
    ] {
        let (error, message) = single_refusal(header, &vec![0; len]);
        assert!(matches!(error, LlamaError::Shard(ShardError::Gap { .. })));
        let expected = format!(
            "DIR/model.safetensors: bytes {bytes} of the data belong to no tensor; download the file \
             again"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn duplicate() {
    let header = TWO.replace("\"b\"", "\"a\"");
    let (error, message) = single_refusal(&header, &[0; 12]);
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::DuplicateTensor { .. })
    ));
    assert_eq!(
        message,
        "DIR/model.safetensors lists the tensor a twice; write or download it again"
    );
}

#[test]
fn sizes_that_do_not_match() {
    for (place, shape) in [
        ("[8,12]", "[1,3]"),
        ("[8,12]", "[1]"),
        ("[8,13]", "[1,2]"),
        ("[12,8]", "[1,2]"),
    ] {
        let header = TWO
            .replace("[8,12]", place)
            .replace("\"shape\":[1,2]", &format!("\"shape\":{shape}"));
        let (error, message) = single_refusal(&header, &[0; 13]);
        assert!(matches!(
            error,
            LlamaError::Shard(ShardError::TensorBytes { .. })
        ));
        let expected = format!(
            "DIR/model.safetensors: the header gives tensor b the bytes {}, which is not the size of {} in \
             BF16; download the file again",
            place.trim_matches(['[', ']']).replace(',', ".."),
            shape.replace(',', ", ")
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn size_that_cannot_be_counted() {
    let header = TWO.replace("[1,2]", "[4294967296,4294967296]");
    let (error, message) = single_refusal(&header, &[0; 12]);
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::ShapeOverflow { .. })
    ));
    assert_eq!(
        message,
        "DIR/model.safetensors: tensor b of shape [4294967296, 4294967296] has more bytes than 64 bits \
         can count; download the file again"
    );
}

#[test]
fn place_near_the_end_of_numbers() {
    let header = TWO.replace("[8,12]", "[18446744073709551611,18446744073709551615]");
    let (error, _) = single_refusal(&header, &[0; 12]);
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::Truncated {
            promised: u64::MAX,
            ..
        })
    ));
}

/// Damages each byte of a file in several ways. Nothing may panic. A file that still opens both here and with the
/// `safetensors` crate must have the same tensors in both.
#[test]
fn damaged_bytes() {
    let data: Vec<u8> = (0..12).collect();
    let file = weights(TWO, &data);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SINGLE);
    let (mut refused, mut compared) = (0, 0);
    for place in 0..file.len() - data.len() {
        for byte in [
            0, b'0', b'1', b'9', b'"', b'{', b'[', b',', b'a', b'b', 0xff,
        ] {
            let mut damaged = file.clone();
            damaged[place] = byte;
            fs::write(&path, &damaged).unwrap();
            let Ok(checkpoint) = Checkpoint::open(dir.path()) else {
                refused += 1;
                continue;
            };
            let Ok(theirs) = SafeTensors::deserialize(&damaged) else {
                // A type that only they refuse.
                let unknown =
                    |(_, info): (_, TensorInfo)| !["F32", "BF16", "F16"].contains(&info.dtype);
                assert!(checkpoint.tensors().any(unknown), "byte {byte} at {place}");
                continue;
            };
            compared += 1;
            assert_eq!(checkpoint.tensors().count(), theirs.len());
            for (name, view) in theirs.iter() {
                let tensor = checkpoint.tensor(name, view.shape()).unwrap();
                let rows = 0..tensor.shape().0;
                assert_eq!(read_rows(&tensor, rows), view.data());
            }
        }
    }
    assert!(refused > 500, "{refused} refused");
    assert!(compared > 10, "{compared} compared");
}
