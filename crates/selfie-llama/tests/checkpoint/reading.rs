//! The tensors found in a checkpoint, and their bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use selfie_demo::RandomCheckpoint;
use selfie_kernels::{DType, MatrixSource};
use selfie_llama::{Checkpoint, LlamaError, TensorInfo};

use crate::{INDEX, SINGLE, folder, message, open, read_rows, vector_file, weights};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The name, shape and file of each tensor. All of them must have one dtype.
fn listing(checkpoint: &Checkpoint, dtype: &str) -> BTreeMap<String, (Vec<usize>, String)> {
    let entry = |(name, info): (&str, TensorInfo)| {
        assert_eq!(info.dtype, dtype, "{name}");
        let file = info.file.file_name().unwrap().to_str().unwrap();
        (name.to_owned(), (info.shape.to_vec(), file.to_owned()))
    };
    checkpoint.tensors().map(entry).collect()
}

/// The tensors of a LLaMA without biases and head, with transformers' names.
fn llama_shapes(
    n_layers: usize,
    [vocab, width, kv, ffn]: [usize; 4],
) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![vocab, width]),
        ("model.norm.weight".to_owned(), vec![width]),
    ]);
    for layer in 0..n_layers {
        for (name, shape) in [
            ("input_layernorm", vec![width]),
            ("self_attn.q_proj", vec![width, width]),
            ("self_attn.k_proj", vec![kv, width]),
            ("self_attn.v_proj", vec![kv, width]),
            ("self_attn.o_proj", vec![width, width]),
            ("post_attention_layernorm", vec![width]),
            ("mlp.gate_proj", vec![ffn, width]),
            ("mlp.up_proj", vec![ffn, width]),
            ("mlp.down_proj", vec![width, ffn]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    shapes
}

#[test]
fn golden_of_one_file() {
    let checkpoint = Checkpoint::open(&golden("llama2-mha")).unwrap();
    let mut expected = llama_shapes(4, [560, 64, 64, 172]);
    expected.insert("lm_head.weight".to_owned(), vec![560, 64]);
    let in_file = |(name, shape)| (name, (shape, SINGLE.to_owned()));
    assert_eq!(
        listing(&checkpoint, "F32"),
        expected.into_iter().map(in_file).collect()
    );
    // 2 * 560 * 64 + 4 * (4 * 64 * 64 + 3 * 172 * 64 + 2 * 64) + 64 values.
    assert_eq!(checkpoint.total_bytes(), 4 * 269_888);
}

#[test]
fn golden_of_shards() {
    let dir = golden("llama3-gqa");
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let json = fs::read_to_string(dir.join(INDEX)).unwrap();
    let index: serde_json::Value = serde_json::from_str(&json).unwrap();
    let in_shard = |(name, shape): (String, _)| {
        let shard = index["weight_map"][&name].as_str().unwrap().to_owned();
        (name, (shape, shard))
    };
    let expected = llama_shapes(5, [573, 128, 32, 344]);
    assert_eq!(
        listing(&checkpoint, "BF16"),
        expected.into_iter().map(in_shard).collect()
    );
    assert_eq!(
        index["metadata"]["total_size"].as_u64(),
        Some(checkpoint.total_bytes())
    );
}

/// Ranges that cover `0..rows` in order, in chunks of varying sizes.
fn chunks(rows: usize, sizes: &[usize]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for size in sizes.iter().cycle() {
        let end = rows.min(start + size);
        ranges.push(start..end);
        start = end;
        if start == rows {
            break;
        }
    }
    ranges
}

/// Reads each tensor of a file in several ways. All of them must agree with the `safetensors` crate.
fn assert_same_bytes(checkpoint: &Checkpoint, path: &Path) {
    let bytes = fs::read(path).unwrap();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
        let tensor = checkpoint.tensor(name, view.shape()).unwrap();
        let (rows, columns) = tensor.shape();
        let (&last, outer) = view.shape().split_last().unwrap();
        assert_eq!((rows, columns), (outer.iter().product(), last), "{name}");
        assert_eq!(tensor.file(), path);
        for sizes in [&[usize::MAX / 2][..], &[1], &[3, 0, 7], &[64, 1, 1, 129]] {
            let ranges = chunks(rows, sizes).into_iter();
            let read: Vec<u8> = ranges.flat_map(|range| read_rows(&tensor, range)).collect();
            assert!(read == view.data(), "{name} in chunks of {sizes:?}");
        }
    }
}

#[test]
fn rows_are_those_of_the_safetensors_crate() {
    for name in ["llama2-mha", "llama3-gqa"] {
        let checkpoint = Checkpoint::open(&golden(name)).unwrap();
        let files: BTreeSet<_> = checkpoint.tensors().map(|(_, info)| info.file).collect();
        for file in files {
            assert_same_bytes(&checkpoint, file);
        }
    }
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        let dir = tempfile::tempdir().unwrap();
        let random = RandomCheckpoint {
            dtype,
            mlp_bias: true,
            ..RandomCheckpoint::tiny()
        };
        random.write(dir.path(), &golden("llama2-mha")).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_same_bytes(&checkpoint, &dir.path().join(SINGLE));
    }
}

/// The header of 109 bytes and the odd-sized first tensor put the others at odd addresses.
#[test]
fn unaligned_data() {
    let header = r#"{"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[3,11]}}"#;
    assert_eq!(header.len(), 109);
    let mut data = vec![9, 9, 9];
    data.extend(1.5f32.to_le_bytes());
    data.extend((-2.25f32).to_le_bytes());
    let tensor = open(&[(SINGLE, &weights(header, &data))]).tensor("a", &[2, 1]);
    assert_eq!(tensor.unwrap().vector().unwrap(), [1.5, -2.25]);
}

/// Zero, a normal number, the smallest denormal and the largest number of each type, given as bits.
#[test]
fn vectors_are_exact() {
    let halves = |bits: [u16; 4]| bits.map(u16::to_le_bytes).concat();
    let singles = [0, 0xbfc0_0000, 1, 0x7f7f_ffff_u32];
    for (dtype, data, expected) in [
        (
            "F16",
            halves([0, 0xbe00, 1, 0x7bff]),
            [0.0, -1.5, 2f32.powi(-24), 65504.0],
        ),
        (
            "BF16",
            halves([0, 0xbfc0, 1, 0x7f7f]),
            [0, 0xbfc0_0000, 0x0001_0000, 0x7f7f_0000].map(f32::from_bits),
        ),
        (
            "F32",
            singles.map(u32::to_le_bytes).concat(),
            singles.map(f32::from_bits),
        ),
    ] {
        let header = format!(
            r#"{{"a":{{"dtype":"{dtype}","shape":[4],"data_offsets":[0,{}]}}}}"#,
            data.len()
        );
        let tensor = open(&[(SINGLE, &weights(&header, &data))]).tensor("a", &[4]);
        assert_eq!(tensor.unwrap().vector().unwrap(), expected);
    }
}

#[test]
fn scalars_and_empty_tensors() {
    let header = r#"{"__metadata__":{"format":"pt"},"none":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]},"one":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  "#;
    let checkpoint = open(&[(SINGLE, &weights(header, &2.5f32.to_le_bytes()))]);
    let one = checkpoint.tensor("one", &[]).unwrap();
    assert_eq!(one.shape(), (1, 1));
    assert_eq!(one.vector().unwrap(), [2.5]);
    let none = checkpoint.tensor("none", &[0, 9223372036854775807]);
    let none = none.unwrap();
    assert_eq!(none.shape(), (0, 9223372036854775807));
    assert_eq!(none.vector().unwrap(), [0.0; 0]);
    assert_eq!(checkpoint.tensors().count(), 2);
    assert_eq!(checkpoint.total_bytes(), 4);
}

#[test]
fn rows_out_of_range() {
    let tensor = open(&[(SINGLE, &vector_file(&[1.0, 2.0]))]).tensor("a", &[2]);
    let tensor = tensor.unwrap();
    let backwards = Range { start: 1, end: 0 };
    for (rows, shown) in [(0..2, "0..2"), (2..2, "2..2"), (backwards, "1..0")] {
        let error = tensor
            .with_rows(rows, &mut |_| panic!("there are no such rows"))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let message = format!("rows {shown} were requested, but the tensor has 1");
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn file_shortened_after_opening() {
    let dir = folder(&[(SINGLE, &vector_file(&[1.0, 2.0, 3.0]))]);
    let path = dir.path().join(SINGLE);
    let tensor = Checkpoint::open(dir.path()).unwrap().tensor("a", &[3]);
    let tensor = tensor.unwrap();
    assert_eq!(tensor.vector().unwrap(), [1.0, 2.0, 3.0]);

    let whole = fs::metadata(&path).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(whole - 1).unwrap();
    let error = tensor.vector().unwrap_err();
    assert!(matches!(error, LlamaError::Read { .. }));
    let expected = format!(
        "cannot read DIR/model.safetensors: bytes {}..{whole} are needed but the file has {}: it was \
         shortened after it was opened",
        whole - 12,
        whole - 1
    );
    assert_eq!(message(&error, dir.path()), expected);
    let error = tensor
        .with_rows(0..1, &mut |_| panic!("not all bytes are there"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn file_replaced_after_opening() {
    let dir = folder(&[(SINGLE, &vector_file(&[1.0, 2.0]))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    fs::write(dir.path().join("new"), vector_file(&[3.0])).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join(SINGLE)).unwrap();
    let tensor = checkpoint.tensor("a", &[2]).unwrap();
    assert_eq!(tensor.vector().unwrap(), [1.0, 2.0]);
}
