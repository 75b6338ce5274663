//! Compares blocks with ggml's, bit for bit: their values (blocks.py made the cases), as read and as packed for
//! products, and the blocks quantized from f32 values (quantize.py).

use std::collections::BTreeMap;
use std::fs;

use selfie_kernels::{Backend, BlockFormat, Cpu, CpuOptions, Format, MatrixSource, quantize};
use selfie_llama::Checkpoint;
use serde::Deserialize;

use crate::file::{File, Tensor};

const CASES: &str = include_str!("blocks.json");

#[derive(Deserialize)]
struct Case {
    #[serde(rename = "type")]
    kind: String,
    id: u32,
    blocks: String,
    f32: String,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}

fn words(hex: &str) -> Vec<u32> {
    let digits = hex.as_bytes().chunks(8);
    let word = |eight: &[u8]| u32::from_str_radix(std::str::from_utf8(eight).unwrap(), 16).unwrap();
    digits.map(word).collect()
}

#[test]
fn every_bit_is_that_of_ggml() {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let (data, expected) = (bytes(&case.blocks), words(&case.f32));
        // Two rows, so that the second row is tested too.
        let columns = expected.len() / 2;
        let table = Tensor {
            kind: case.id,
            dims: vec![columns as u64, 2],
            data,
        };
        let mut file = File::model("llama", &[]);
        file.tensors.clear();
        let file = file.tensor("token_embd.weight", table);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, file.bytes()).unwrap();

        let checkpoint = Checkpoint::open(&path).unwrap();
        let tensor = checkpoint
            .tensor("model.embed_tokens.weight", &[2, columns])
            .unwrap();
        assert_eq!(
            checkpoint.find("model.embed_tokens.weight").unwrap().dtype,
            case.kind
        );
        for rows in [0..2, 1..2] {
            let expected = &expected[rows.start * columns..];
            let mut found = Vec::new();
            let read = &mut |bytes: &[u8]| found = tensor.dtype().to_f32(bytes);
            tensor.with_rows(rows, read).unwrap();
            let found: Vec<u32> = found.iter().map(|value| value.to_bits()).collect();
            assert!(found == expected, "{}: values differ", case.kind);
        }
        let known = case.kind.parse::<BlockFormat>().ok();
        assert_eq!(tensor.blocks(), known, "{}", case.kind);
        if let Some(format) = known {
            let cpu = Cpu::new(CpuOptions::default()).unwrap();
            let packed = cpu.stack(&[(&tensor, Format::Blocks(format))]).unwrap();
            let found = cpu.read_matrix(&packed, 0..2).unwrap();
            let found: Vec<u32> = found.iter().map(|value| value.to_bits()).collect();
            assert!(found == expected, "{}: packed values differ", case.kind);
        }
    }
}

const QUANTIZED: &str = include_str!("quantize.json");

#[derive(Deserialize)]
struct Quantized {
    columns: usize,
    values: String,
    blocks: BTreeMap<String, String>,
}

#[test]
fn blocks_are_those_that_ggml_makes() {
    let cases: Quantized = serde_json::from_str(QUANTIZED).unwrap();
    let values = bytes(&cases.values);
    let values: Vec<f32> = values
        .chunks_exact(4)
        .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
        .collect();
    assert_eq!(cases.blocks.len(), BlockFormat::ALL.len());
    for format in BlockFormat::ALL {
        let expected = bytes(&cases.blocks[format.name()]);
        let mut found = Vec::new();
        for row in values.chunks_exact(cases.columns) {
            quantize(format, row, &mut found);
        }
        // Beside a scale of 0, codes matter only for the sign of that 0, and ggml leaves there whatever its search had.
        let stand_for = |blocks: &[u8]| {
            let mut values = Vec::new();
            format.dequantize(blocks, &mut values);
            values
        };
        let (got, want) = (stand_for(&found), stand_for(&expected));
        assert_eq!(got.len(), values.len());
        let differ = got.iter().zip(&want).filter(|(x, y)| x != y).count();
        assert_eq!(differ, 0, "{format}: of {} values", values.len());
    }
}
