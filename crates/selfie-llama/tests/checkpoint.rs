//! The checkpoint reader: what it finds in a folder, the bytes it reads, and what it refuses in which
//! words.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::SafeTensors;
use selfie_kernels::{DType, MatrixSource};
use selfie_llama::{Checkpoint, LlamaError, RandomCheckpoint, Tensor};
use tempfile::TempDir;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// A safetensors file: the header's length, the header, the data.
fn weights(header: &str, data: &[u8]) -> Vec<u8> {
    let length = header.len() as u64;
    [&length.to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A file of one f32 vector `a`.
fn vector_file(values: &[f32]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = format!(
        r#"{{"a":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#,
        values.len(),
        data.len()
    );
    weights(&header, &data)
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn open(files: &[(&str, &[u8])]) -> Checkpoint {
    Checkpoint::open(folder(files).path()).unwrap()
}

/// Why a folder of these files does not open, and the message with `DIR` for the folder.
#[track_caller]
fn refusal(files: &[(&str, &[u8])]) -> (LlamaError, String) {
    let dir = folder(files);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    let message = message(&error, dir.path());
    (error, message)
}

/// Why a folder with this one file does not open.
#[track_caller]
fn single_refusal(header: &str, data: &[u8]) -> (LlamaError, String) {
    refusal(&[(SINGLE, &weights(header, data))])
}

fn message(error: &LlamaError, dir: &Path) -> String {
    error.to_string().replace(dir.to_str().unwrap(), "DIR")
}

fn read_rows(tensor: &Tensor, rows: Range<usize>) -> Vec<u8> {
    let mut calls = 0;
    let mut read = Vec::new();
    tensor
        .with_rows(rows, &mut |bytes| {
            calls += 1;
            read.extend_from_slice(bytes);
        })
        .unwrap();
    assert_eq!(calls, 1);
    read
}

/// Name, shape and file of each tensor; all have to be of one dtype.
fn listing(checkpoint: &Checkpoint, dtype: &str) -> BTreeMap<String, (Vec<usize>, String)> {
    let entry = |(name, info): (&str, selfie_llama::TensorInfo)| {
        assert_eq!(info.dtype, dtype, "{name}");
        let file = info.file.file_name().unwrap().to_str().unwrap();
        (name.to_owned(), (info.shape.to_vec(), file.to_owned()))
    };
    checkpoint.tensors().map(entry).collect()
}

/// The tensors of a LLaMA without biases and head, by the naming of transformers.
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

/// Ranges that cover `0..rows` in order, in chunks of different sizes.
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

/// Reads each tensor of a file in several ways; all have to give what the `safetensors` crate gives.
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

/// The header of 109 bytes and the odd tensor in front put the others at odd addresses.
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

/// Zero, a normal number, the smallest denormal and the largest number of each type, by their bits.
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
        let message = format!("rows {shown} are asked for, but there are 1");
        assert_eq!(error.to_string(), message);
    }
}

// Which files of a folder are read.

#[test]
fn any_single_name() {
    let files: [(&str, &[u8]); 3] = [
        ("other.safetensors", &vector_file(&[1.0])),
        ("pytorch_model.bin", b""),
        ("config.json", b"{}"),
    ];
    let checkpoint = open(&files);
    let info = checkpoint.find("a").unwrap();
    assert_eq!((info.dtype, info.shape, info.bytes), ("F32", &[1][..], 4));
    assert!(info.file.ends_with("other.safetensors"));
    assert_eq!(checkpoint.find("b"), None);
}

/// As transformers does.
#[test]
fn single_file_goes_before_index() {
    let checkpoint = open(&[
        (INDEX, br#"{"weight_map":{"a":"part.safetensors"}}"#),
        ("part.safetensors", &vector_file(&[1.0])),
        (SINGLE, &vector_file(&[2.0])),
    ]);
    let tensor = checkpoint.tensor("a", &[1]).unwrap();
    assert_eq!(tensor.vector().unwrap(), [2.0]);
}

#[test]
fn index_chooses_the_tensors() {
    let checkpoint = open(&[
        (INDEX, br#"{"weight_map":{"a":"sub/one.safetensors"}}"#),
        ("sub/one.safetensors", &vector_file(&[1.0])),
        ("two.safetensors", &vector_file(&[2.0])),
    ]);
    assert_eq!(checkpoint.tensors().count(), 1);
    let tensor = checkpoint.tensor("a", &[1]).unwrap();
    assert_eq!(tensor.vector().unwrap(), [1.0]);
}

#[test]
fn no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(&dir.path().join("nowhere")).unwrap_err();
    assert!(matches!(error, LlamaError::NoFolder { .. }));
    assert_eq!(
        message(&error, dir.path()),
        "there is no folder DIR/nowhere; give one that holds config.json, *.safetensors and \
         tokenizer.json"
    );
}

#[test]
fn not_a_folder() {
    let dir = folder(&[(SINGLE, &vector_file(&[1.0]))]);
    let error = Checkpoint::open(&dir.path().join(SINGLE)).unwrap_err();
    assert!(matches!(error, LlamaError::NotAFolder { .. }));
    assert_eq!(
        message(&error, dir.path()),
        "DIR/model.safetensors is not a folder; give the folder that holds the model's files"
    );
}

#[test]
fn no_weights() {
    let (error, message) = refusal(&[("config.json", b"{}"), ("tokenizer.model", b"")]);
    assert!(matches!(error, LlamaError::NoWeights { .. }));
    assert_eq!(
        message,
        "DIR holds no weights: neither model.safetensors.index.json nor a *.safetensors file; \
         download them into it"
    );
}

#[test]
fn other_formats() {
    let cases = [
        (
            "pytorch_model-00001-of-00002.bin",
            "load the folder in Python with transformers and write it again: \
             AutoModelForCausalLM.from_pretrained(dir).save_pretrained(new_dir, \
             safe_serialization=True)",
        ),
        (
            "consolidated.00.pth",
            "Meta's original files are not supported: download the Hugging Face version of the \
             model, with config.json and *.safetensors",
        ),
        (
            "model.Q4_K_M.gguf",
            "GGUF is not supported: download the safetensors files of the model",
        ),
    ];
    for (name, advice) in cases {
        let (error, message) = refusal(&[("config.json", b"{}"), (name, b"x")]);
        assert!(matches!(error, LlamaError::WeightFormat { .. }));
        let expected = format!("DIR/{name} is not a safetensors file; {advice}");
        assert_eq!(message, expected);
        // Of two formats, the one that can be converted.
        let (_, message) = refusal(&[(name, b"x"), ("zzz.bin", b"x")]);
        assert!(message.contains("save_pretrained"), "{message}");
    }
}

#[test]
fn several_files_without_index() {
    let file = vector_file(&[1.0]);
    let (error, message) = refusal(&[("a.safetensors", &file), ("b.safetensors", &file)]);
    assert!(matches!(
        error,
        LlamaError::ManyWeightFiles { count: 2, .. }
    ));
    assert_eq!(
        message,
        "DIR holds 2 *.safetensors files but no model.safetensors.index.json that says which tensor \
         is where; download it too"
    );
}

#[test]
fn broken_index() {
    for (json, reason) in [
        (
            r#"{"weight_map":{"a":"#,
            "EOF while parsing a value at line 1 column 19",
        ),
        (
            r#"{"metadata":{}}"#,
            "missing field `weight_map` at line 1 column 15",
        ),
        (
            r#"{"weight_map":{"a":7}}"#,
            "invalid type: integer `7`, expected a string at line 1 column 20",
        ),
    ] {
        let (error, message) = refusal(&[(INDEX, json.as_bytes())]);
        assert!(matches!(error, LlamaError::Index { .. }));
        let expected = format!(
            "DIR/model.safetensors.index.json is not an index of shards: {reason}; download it again"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn missing_shard() {
    let json = br#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    let (error, message) = refusal(&[(INDEX, json), ("one.safetensors", &vector_file(&[1.0]))]);
    assert!(matches!(error, LlamaError::MissingShard { .. }));
    assert_eq!(
        message,
        "DIR/model.safetensors.index.json names the shard two.safetensors, which is not in its \
         folder; download that file too"
    );
}

#[test]
fn index_that_leads_elsewhere() {
    let dir = folder(&[
        ("outside.safetensors", &vector_file(&[1.0])),
        ("model/inside.safetensors", &vector_file(&[1.0])),
    ]);
    let model = dir.path().join("model");
    let absolute = dir.path().join("outside.safetensors");
    for shard in [
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "./inside.safetensors",
        "",
        absolute.to_str().unwrap(),
    ] {
        let index = serde_json::json!({ "weight_map": { "a": shard } });
        fs::write(model.join(INDEX), index.to_string()).unwrap();
        let error = Checkpoint::open(&model).unwrap_err();
        assert!(
            matches!(&error, LlamaError::ShardPath { shard: found, .. } if found == shard),
            "{shard}: {error}"
        );
        let expected = format!(
            "{}/model.safetensors.index.json names the shard \"{shard}\", which does not lie inside \
             its folder; download the index again",
            model.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn index_promises_too_much() {
    let json = br#"{"weight_map":{"a":"one.safetensors","b":"one.safetensors"}}"#;
    let (error, message) = refusal(&[(INDEX, json), ("one.safetensors", &vector_file(&[1.0]))]);
    assert!(matches!(error, LlamaError::NotInShard { .. }));
    assert_eq!(
        message,
        "DIR/model.safetensors.index.json says that one.safetensors holds the tensor b, but it does \
         not; download both files again"
    );
}

/// A shard of an index is checked like a single file.
#[test]
fn broken_shard() {
    let mut cut = vector_file(&[1.0]);
    cut.pop();
    let json = br#"{"weight_map":{"a":"one.safetensors"}}"#;
    let (error, message) = refusal(&[(INDEX, json), ("one.safetensors", &cut)]);
    assert!(matches!(error, LlamaError::Truncated { .. }));
    assert!(message.contains("DIR/one.safetensors"), "{message}");
}

#[test]
fn weights_that_are_a_folder() {
    let (error, message) = refusal(&[("model.safetensors/x", b"")]);
    assert!(matches!(error, LlamaError::Read { .. }));
    assert!(
        message.starts_with("cannot read DIR/model.safetensors: "),
        "{message}"
    );
}

// The header of a file.

#[test]
fn shorter_than_its_first_field() {
    for len in 0..8 {
        let (error, message) = refusal(&[(SINGLE, &vec![0; len])]);
        assert!(matches!(error, LlamaError::Truncated { .. }));
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
        assert!(matches!(error, LlamaError::HeaderTooLarge { header, .. } if header == length));
        let expected = format!(
            "DIR/model.safetensors begins with a header of {length} bytes, and 100000000 are allowed: \
             it is not a safetensors file; download it again (`git lfs pull`, if it is a pointer of \
             Git LFS)"
        );
        assert_eq!(message, expected);
    }
    // What a clone without Git LFS has.
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2200119864\n";
    let (error, _) = refusal(&[(SINGLE, pointer)]);
    assert!(matches!(error, LlamaError::HeaderTooLarge { .. }));
}

#[test]
fn header_past_the_end() {
    for length in [3u64, 100_000_000] {
        let mut file = length.to_le_bytes().to_vec();
        file.extend(b"{}");
        let (error, message) = refusal(&[(SINGLE, &file)]);
        assert!(matches!(error, LlamaError::HeaderPastEnd { found: 10, .. }));
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
        assert!(matches!(error, LlamaError::Header { .. }));
        let expected = format!(
            "the header of DIR/model.safetensors is damaged: {reason}; download the file again"
        );
        assert_eq!(message, expected);
    }
    let not_text = [&2u64.to_le_bytes()[..], &[b'"', 0xff]].concat();
    let (error, _) = refusal(&[(SINGLE, &not_text)]);
    assert!(matches!(error, LlamaError::Header { .. }));
}

const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}}"#;

#[test]
fn truncated() {
    open(&[(SINGLE, &weights(TWO, &[0; 12]))]);
    let (error, message) = single_refusal(TWO, &[0; 11]);
    assert!(matches!(error, LlamaError::Truncated { .. }));
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
    assert!(matches!(error, LlamaError::Overlap { .. }));
    assert_eq!(
        message,
        "DIR/model.safetensors: tensor b begins at byte 6 of the data, but a ends at 8; download the \
         file again"
    );
    // A tensor inside another one, and one in the same place.
    for place in ["[0,4]", "[4,8]"] {
        let header = TWO.replace("[8,12]", place);
        let (error, _) = single_refusal(&header, &[0; 8]);
        assert!(matches!(error, LlamaError::Overlap { .. }), "{error}");
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
        assert!(matches!(error, LlamaError::Gap { .. }));
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
    assert!(matches!(error, LlamaError::DuplicateTensor { .. }));
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
        assert!(matches!(error, LlamaError::TensorBytes { .. }));
        let expected = format!(
            "DIR/model.safetensors: tensor b is said to fill bytes {}, which is not the size of {} in \
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
    assert!(matches!(error, LlamaError::ShapeOverflow { .. }));
    assert_eq!(
        message,
        "DIR/model.safetensors: tensor b of shape [4294967296, 4294967296] has more bytes than can be \
         counted; download the file again"
    );
}

#[test]
fn place_near_the_end_of_numbers() {
    let header = TWO.replace("[8,12]", "[18446744073709551611,18446744073709551615]");
    let (error, _) = single_refusal(&header, &[0; 12]);
    assert!(matches!(
        error,
        LlamaError::Truncated {
            promised: u64::MAX,
            ..
        }
    ));
}

// Asking for a tensor.

#[test]
fn missing_tensor() {
    let dir = folder(&[(SINGLE, &vector_file(&[1.0]))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = checkpoint.tensor("lm_head.weight", &[1]).unwrap_err();
    assert!(matches!(error, LlamaError::MissingTensor { .. }));
    assert_eq!(
        message(&error, dir.path()),
        "DIR has no tensor lm_head.weight: its files are incomplete, or do not belong to its \
         config.json"
    );
}

/// Such a tensor may be in the file, even if this version has never heard of its type.
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

// Files that change while they are open.

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

/// Each byte of a file is damaged in several ways. Nothing may panic, and what still opens here and with
/// the `safetensors` crate has to be the same tensors.
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
                let unknown = |(_, info): (_, selfie_llama::TensorInfo)| {
                    !["F32", "BF16", "F16"].contains(&info.dtype)
                };
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
