//! Compares a model from a GGUF file with the same weights in a folder.

use std::fs;
use std::path::Path;

use selfie_kernels::{BlockFormat, quantize};
use selfie_llama::{
    Checkpoint, Cpu, CpuOptions, DType, Llama, LlamaConfig, Trace, WeightChoice, stored_dtype,
};

use crate::file::{File, Meta, Tensor};
use crate::order::permuted;

const PARTS: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The file that llama.cpp would make from a folder, in f32.
fn converted(dir: &Path, config: &LlamaConfig) -> File {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let attn = config.attn;
    let mut file = File::default();
    file.set("general.architecture", Meta::Text("llama"));
    for (key, value) in [
        ("context_length", config.max_positions),
        ("embedding_length", config.d_model),
        ("block_count", config.n_layers),
        ("feed_forward_length", config.ffn),
        ("attention.head_count", attn.heads),
        ("attention.head_count_kv", attn.kv_heads),
        ("attention.key_length", attn.head_dim),
    ] {
        file.set(&format!("llama.{key}"), Meta::U32(value as u32));
    }
    file.set(
        "llama.attention.layer_norm_rms_epsilon",
        Meta::F32(config.rms_norm_eps),
    );
    file.set("llama.rope.freq_base", Meta::F32(config.rope.theta as f32));
    let mut names = vec![
        ("token_embd".to_owned(), "model.embed_tokens".to_owned()),
        ("output_norm".to_owned(), "model.norm".to_owned()),
        ("output".to_owned(), "lm_head".to_owned()),
    ];
    for layer in 0..config.n_layers {
        let name = |(stored, name): (&str, &str)| {
            (
                format!("blk.{layer}.{stored}"),
                format!("model.layers.{layer}.{name}"),
            )
        };
        names.extend(PARTS.map(name));
    }
    for (stored, name) in names {
        let name = format!("{name}.weight");
        let shape = checkpoint.find(&name).unwrap().shape.to_owned();
        let mut values = checkpoint.tensor(&name, &shape).unwrap().vector().unwrap();
        let heads = match stored.rsplit('.').next() {
            Some("attn_q") => Some(attn.heads),
            Some("attn_k") => Some(attn.kv_heads),
            _ => None,
        };
        if let Some(heads) = heads {
            let rows: Vec<Vec<f32>> = values.chunks(shape[1]).map(<[f32]>::to_vec).collect();
            values = permuted(&rows, heads);
        }
        let dims: Vec<u64> = shape.iter().rev().map(|&size| size as u64).collect();
        file = file.tensor(&format!("{stored}.weight"), Tensor::f32(&dims, &values));
    }
    file
}

#[test]
fn every_state_is_that_of_the_folder() {
    let dir = Path::new("tests/golden/llama2-mha");
    let config = LlamaConfig::open(dir).unwrap();
    assert!(!config.tie_word_embeddings);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, converted(dir, &config).bytes()).unwrap();

    let ids = [1, 7, 42, 3, 9];
    let states = |path: &Path| {
        let (config, checkpoint) = (
            LlamaConfig::open(path).unwrap(),
            Checkpoint::open(path).unwrap(),
        );
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        let model = Llama::load(cpu, config, &checkpoint, Some(DType::F32), |_| {}).unwrap();
        Trace::new(&model, &ids).unwrap()
    };
    assert!(states(&path) == states(dir));
}

#[test]
fn a_quantized_file_is_bf16_where_blocks_are_not_kept_and_others_are_as_they_are_stored() {
    let dir = Path::new("tests/golden/llama2-mha");
    let config = LlamaConfig::open(dir).unwrap();
    let mut file = converted(dir, &config);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let stored = |file: &File| {
        fs::write(&path, file.bytes()).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let quantized = checkpoint.quantized().into_iter();
        let quantized: Vec<(String, usize)> =
            quantized.map(|(name, n)| (name.to_owned(), n)).collect();
        (stored_dtype(&config, &checkpoint).unwrap(), quantized)
    };
    assert_eq!(stored(&file), (DType::F32, Vec::new()));
    let place = file
        .tensors
        .iter()
        .position(|(name, _)| name == "blk.0.ffn_up.weight")
        .unwrap();
    let up = &mut file.tensors[place].1;
    let blocks = up.dims.iter().product::<u64>() as usize / 32;
    (up.kind, up.data) = (8, vec![0; blocks * 34]);
    assert_eq!(stored(&file), (DType::Bf16, vec![("Q8_0".to_owned(), 1)]));
}

/// Quantizes every matrix whose rows are whole blocks to Q8_0, by ggml's rules.
fn in_blocks(dir: &Path, config: &LlamaConfig) -> File {
    let mut file = converted(dir, config);
    for (_, tensor) in &mut file.tensors {
        let columns = tensor.dims[0] as usize;
        if tensor.dims.len() == 2 && columns.is_multiple_of(32) {
            let values = DType::F32.to_f32(&tensor.data);
            let mut blocks = Vec::new();
            for row in values.chunks_exact(columns) {
                quantize(BlockFormat::Q8_0, row, &mut blocks);
            }
            (tensor.kind, tensor.data) = (8, blocks);
        }
    }
    file
}

/// The CPU keeps a file's blocks, and quantizing its f32 weights on loading gives the same model. Both are close to the
/// dequantized model: products round their operands to 8 bits, with an error of at most 1/254 of the largest value of
/// each block.
#[test]
fn blocks_are_kept_or_made_and_a_choice_dequantizes_them() {
    let dir = Path::new("tests/golden/llama2-mha");
    let config = LlamaConfig::open(dir).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, in_blocks(dir, &config).bytes()).unwrap();
    let load = |path: &Path, choice| {
        let (config, checkpoint) = (
            LlamaConfig::open(path).unwrap(),
            Checkpoint::open(path).unwrap(),
        );
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        Llama::load_as(cpu, config, &checkpoint, choice, |_| {}).unwrap()
    };
    let ids = [1, 7, 42, 3, 9];
    let states = |model: &Llama<Cpu>| Trace::new(model, &ids).unwrap();

    let kept = load(&path, WeightChoice::Stored);
    let made = load(dir, WeightChoice::Blocks(BlockFormat::Q8_0));
    let plain = load(&path, WeightChoice::Plain(DType::F32));
    assert!(kept.weights().has_blocks() && !plain.weights().has_blocks());
    assert_eq!(kept.weights(), made.weights());
    assert_eq!((kept.dtype(), plain.dtype()), (DType::F32, DType::F32));
    assert!(kept.weights().bytes() * 2 < plain.weights().bytes());
    assert!(states(&kept) == states(&made));
    let (kept_logits, plain_logits) = (states(&kept).logits, states(&plain).logits);
    assert!(kept_logits != plain_logits);
    let most = |x: &[f32]| x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let off: Vec<f32> = kept_logits
        .iter()
        .zip(&plain_logits)
        .map(|(x, y)| x - y)
        .collect();
    assert!(most(&off) < 0.05 * most(&plain_logits), "{}", most(&off));

    // The MLP as values: those it was packed from, and edited ones.
    let mut edited = kept.clone();
    let mlp = edited.mlp(0).unwrap();
    assert_eq!(mlp, plain.mlp(0).unwrap());
    let mut other = mlp.clone();
    other.tensors[0].bytes[0] ^= 1;
    edited.set_mlp(&other).unwrap();
    assert_eq!(edited.mlp(0).unwrap(), other);
    assert!(states(&edited) != states(&kept));
    edited.set_mlp(&mlp).unwrap();
    assert!(states(&edited) == states(&kept));
}
