//! Names, orders and norms that llama.cpp changes, converted back to those of transformers.

use std::fs;

use selfie_kernels::MatrixSource;
use selfie_llama::Checkpoint;

use crate::file::{File, Meta, Tensor, refusal};

const HEADS: usize = 2;
const HEAD_DIM: usize = 6;
const WIDTH: usize = 4;

fn open(file: &File) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    Checkpoint::open(&path).unwrap()
}

/// `LlamaModel.permute` of llama.cpp: interleaves the rows of the two halves of each head.
pub(crate) fn permuted(rows: &[Vec<f32>], heads: usize) -> Vec<f32> {
    let head = rows.len() / heads;
    let mut all = Vec::new();
    for start in (0..rows.len()).step_by(head) {
        for pair in 0..head / 2 {
            all.extend(&rows[start + pair]);
            all.extend(&rows[start + head / 2 + pair]);
        }
    }
    all
}

/// Rows of `columns` values, all of them different.
fn rows(n: usize, columns: usize) -> Vec<Vec<f32>> {
    let row = |row: usize| {
        (0..columns)
            .map(|column| (row * 100 + column) as f32)
            .collect()
    };
    (0..n).map(row).collect()
}

#[test]
fn queries_and_keys_of_a_llama_come_back_in_the_order_of_transformers() {
    for name in ["llama", "smollm3", "granite"] {
        let kv = Meta::U32(1);
        let kv_key = format!("{name}.attention.head_count_kv");
        let (q, k) = (rows(HEADS * HEAD_DIM, WIDTH), rows(HEAD_DIM, WIDTH));
        let bias = rows(HEADS * HEAD_DIM, 1);
        let dims = |rows: &[Vec<f32>]| [WIDTH as u64, rows.len() as u64];
        let file = File::model(name, &[(&kv_key, kv)])
            .tensor(
                "blk.0.attn_q.weight",
                Tensor::f32(&dims(&q), &permuted(&q, HEADS)),
            )
            .tensor(
                "blk.0.attn_k.weight",
                Tensor::f32(&dims(&k), &permuted(&k, 1)),
            )
            .tensor("blk.0.attn_v.weight", Tensor::f32(&dims(&k), &k.concat()))
            .tensor(
                "blk.0.attn_q.bias",
                Tensor::f32(&[12], &permuted(&bias, HEADS)),
            );
        let checkpoint = open(&file);
        for (part, expected) in [("q", &q), ("k", &k), ("v", &k)] {
            let name = format!("model.layers.0.self_attn.{part}_proj.weight");
            let tensor = checkpoint.tensor(&name, &[expected.len(), WIDTH]).unwrap();
            // Any range of rows, whether or not it has whole heads.
            for begin in 0..expected.len() {
                for end in begin..=expected.len() {
                    let mut found = Vec::new();
                    let read = &mut |bytes: &[u8]| found = tensor.dtype().to_f32(bytes);
                    tensor.with_rows(begin..end, read).unwrap();
                    assert_eq!(
                        found,
                        expected[begin..end].concat(),
                        "{name} {begin}..{end}"
                    );
                }
            }
        }
        let tensor = checkpoint
            .tensor("model.layers.0.self_attn.q_proj.bias", &[12])
            .unwrap();
        assert_eq!(tensor.vector().unwrap(), bias.concat());
    }
}

#[test]
fn the_other_architectures_keep_their_order() {
    for name in ["qwen2", "qwen3", "gemma2", "gemma3", "olmo2"] {
        let q = rows(HEADS * HEAD_DIM, WIDTH);
        let file = File::model(name, &[])
            .tensor("blk.0.attn_q.weight", Tensor::f32(&[4, 12], &q.concat()));
        let name = "model.layers.0.self_attn.q_proj.weight";
        let tensor = open(&file).tensor(name, &[12, WIDTH]).unwrap();
        assert_eq!(tensor.vector().unwrap(), q.concat());
    }
}

#[test]
fn norms_of_gemma_are_without_the_one() {
    // 1.1 - 1 in f32 is not 0.1, and transformers also subtracts in f32.
    let stored = [1.1_f32, 0.0, 2.5, 1.0];
    let expected = stored.map(|value| value - 1.0);
    for (stored_name, name) in [
        ("output_norm", "model.norm"),
        ("blk.0.attn_norm", "model.layers.0.input_layernorm"),
        (
            "blk.0.post_attention_norm",
            "model.layers.0.post_attention_layernorm",
        ),
        ("blk.0.ffn_norm", "model.layers.0.pre_feedforward_layernorm"),
        (
            "blk.0.post_ffw_norm",
            "model.layers.0.post_feedforward_layernorm",
        ),
        ("blk.0.attn_q_norm", "model.layers.0.self_attn.q_norm"),
        ("blk.0.attn_k_norm", "model.layers.0.self_attn.k_norm"),
    ] {
        let norm = Tensor::f32(&[4], &stored);
        let file = File::model("gemma3", &[]).tensor(&format!("{stored_name}.weight"), norm);
        let tensor = open(&file).tensor(&format!("{name}.weight"), &[4]).unwrap();
        assert_eq!(tensor.vector().unwrap(), expected, "{name}");
    }
    let file =
        File::model("olmo2", &[]).tensor("blk.0.post_ffw_norm.weight", Tensor::f32(&[4], &stored));
    let name = "model.layers.0.post_feedforward_layernorm.weight";
    assert_eq!(
        open(&file).tensor(name, &[4]).unwrap().vector().unwrap(),
        stored
    );
}

#[test]
fn a_tensor_that_the_architecture_does_not_have_is_refused() {
    for name in [
        "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_q_norm.weight",
        "blk.1.attn_q.weight",
        "blk.00.attn_q.weight",
        "blk.0.attn_q.scale",
        "output.bias",
    ] {
        let file = File::model("llama", &[]).tensor(name, Tensor::zeros(&[8, 8]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        fs::write(&path, file.bytes()).unwrap();
        let said = refusal(Checkpoint::open(&path));
        let expected = format!("tensor {name} is not part of the architecture llama");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn heads_that_do_not_divide_the_rows_are_refused() {
    let file = File::model("llama", &[]).tensor("blk.0.attn_q.weight", Tensor::zeros(&[8, 9]));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    let said = refusal(Checkpoint::open(&path));
    assert!(
        said.ends_with(
            "tensor blk.0.attn_q.weight has 9 rows, which do not split into 2 heads of an even size"
        ),
        "{said}"
    );
}
