//! The checkpoint reader: which files it finds in a folder, which bytes it reads, and what it refuses and how.

mod files;
mod header;
mod reading;
mod tensor;

use std::fs;
use std::ops::Range;
use std::path::Path;

use selfie_kernels::MatrixSource;
use selfie_llama::{Checkpoint, LlamaError, Tensor};
use tempfile::TempDir;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A safetensors file: the header's length, the header, the data.
fn weights(header: &str, data: &[u8]) -> Vec<u8> {
    let length = header.len() as u64;
    [&length.to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The header of an f32 vector `a` and a bf16 matrix `b`, with 12 bytes of data.
const TWO: &str = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}}"#;

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

/// The error of opening a folder with these files, and its message with `DIR` in place of the folder.
#[track_caller]
fn refusal(files: &[(&str, &[u8])]) -> (LlamaError, String) {
    let dir = folder(files);
    let error = Checkpoint::open(dir.path()).unwrap_err();
    let message = message(&error, dir.path());
    (error, message)
}

fn message(error: &LlamaError, dir: &Path) -> String {
    error.to_string().replace(dir.to_str().unwrap(), "DIR")
}

/// The bytes that a tensor returns in one call.
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
