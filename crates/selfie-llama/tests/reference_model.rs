//! Compares the model with a naive one, on checkpoints of random weights: f16, bf16 and f32, biases, odd sizes,
//! families.
//!
//! The naive model consists of the ops in `selfie_kernels::reference` (plain loops, sums in f64, no cache), and is
//! itself checked against PyTorch here. With bf16 weights it rounds GEMM operands to bf16, as the kernels do.

use std::fs;
use std::path::Path;

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Activation, Attend, AttnShape, DType, MatrixSource, reference};
use selfie_llama::{Checkpoint, Llama, LlamaConfig, Trace};
use selfie_testkit::llama::{Tensors, assert_close, cpu, cpus, dir, golden, ids};
use serde_json::{Value, json};

const IDS: [u32; 9] = [1, 17, 200, 3, 3, 31, 8, 150, 99];

struct Naive {
    config: LlamaConfig,
    checkpoint: Checkpoint,
    dtype: DType,
    /// The dtype that keys and values are rounded to.
    kv: DType,
}

/// `hidden_states`, `pre_mlp`, `residual` and logits, in the layout of [`Trace`].
struct States {
    hidden_states: Vec<f32>,
    pre_mlp: Vec<f32>,
    residual: Vec<f32>,
    logits: Vec<f32>,
}

impl Naive {
    fn open(dir: &Path, dtype: DType) -> Self {
        Self {
            config: LlamaConfig::open(dir).unwrap(),
            checkpoint: Checkpoint::open(dir).unwrap(),
            dtype,
            kv: DType::F32,
        }
    }

    fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        self.checkpoint
            .tensor(name, shape)
            .unwrap()
            .vector()
            .unwrap()
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> reference::Matrix {
        let values = self.values(&format!("{name}.weight"), &[rows, columns]);
        reference::Matrix::new(self.dtype, columns, &values)
    }

    /// `x · wᵀ (+ bias) (+ residual)`.
    fn linear(
        &self,
        x: &[f32],
        name: &str,
        (rows, columns): (usize, usize),
        bias: bool,
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        let x: Vec<f32> = x
            .iter()
            .map(|&x| reference::operand(self.dtype, x))
            .collect();
        let bias = bias.then(|| self.values(&format!("{name}.bias"), &[rows]));
        let w = self.matrix(name, rows, columns);
        reference::linear(&x, &w, bias.as_deref(), residual)
    }

    fn run(&self, ids: &[u32]) -> States {
        let c = &self.config;
        let (d, ffn, attn) = (c.d_model, c.ffn, c.attn);
        let norm = |x: &[f32], name: &str| {
            reference::rms_norm(
                x,
                &self.values(&format!("{name}.weight"), &[d]),
                c.rms_norm_eps,
            )
        };
        let table = c.rope.table(attn.head_dim, ids.len());
        let embedding = self.matrix("model.embed_tokens", c.vocab_size, d);
        let mut x = reference::embed(&embedding, ids, 1.0);
        let mut states = States {
            hidden_states: vec![],
            pre_mlp: vec![],
            residual: vec![],
            logits: vec![],
        };
        for l in 0..c.n_layers {
            states.hidden_states.extend(&x);
            let name = |part: &str| format!("model.layers.{l}.{part}");
            let normed = norm(&x, &name("input_layernorm"));
            let project = |part: &str, rows: usize| {
                let mut out = self.linear(&normed, &name(part), (rows, d), c.qkv_bias, None);
                if part != "self_attn.v_proj" {
                    for (position, row) in out.chunks_exact_mut(rows).enumerate() {
                        let table = &table[position * attn.head_dim..][..attn.head_dim];
                        for head in row.chunks_exact_mut(attn.head_dim) {
                            reference::rope(head, table);
                        }
                    }
                }
                out
            };
            let q = project("self_attn.q_proj", attn.q_dim());
            let kept = |part: &str| {
                let values = project(part, attn.kv_dim()).into_iter();
                values
                    .map(|x| reference::round(self.kv, x))
                    .collect::<Vec<f32>>()
            };
            let k = kept("self_attn.k_proj");
            let v = kept("self_attn.v_proj");
            let keys: Vec<&[f32]> = k.chunks_exact(attn.kv_dim()).collect();
            let values: Vec<&[f32]> = v.chunks_exact(attn.kv_dim()).collect();
            let attended: Vec<f32> = q
                .chunks_exact(attn.q_dim())
                .enumerate()
                .flat_map(|(i, q)| {
                    reference::attend(&Attend::new(attn), q, &keys[..=i], &values[..=i])
                })
                .collect();
            let o = (d, attn.q_dim());
            x = self.linear(&attended, &name("self_attn.o_proj"), o, c.o_bias, Some(&x));
            states.residual.extend(&x);
            let normed = norm(&x, &name("post_attention_layernorm"));
            states.pre_mlp.extend(&normed);
            let up = |part: &str| self.linear(&normed, &name(part), (ffn, d), c.mlp_bias, None);
            let (gate, up) = (up("mlp.gate_proj"), up("mlp.up_proj"));
            let rows = gate.chunks_exact(ffn).zip(up.chunks_exact(ffn));
            let gate_up: Vec<f32> = rows.flat_map(|(gate, up)| [gate, up].concat()).collect();
            let hidden = reference::glu(Activation::Silu, &gate_up, ffn);
            x = self.linear(
                &hidden,
                &name("mlp.down_proj"),
                (d, ffn),
                c.mlp_bias,
                Some(&x),
            );
        }
        let last = norm(&x, "model.norm");
        states.hidden_states.extend(&last);
        let head = if c.tie_word_embeddings {
            "model.embed_tokens"
        } else {
            "lm_head"
        };
        states.logits = self.linear(&last, head, (c.vocab_size, d), false, None);
        states
    }
}

#[test]
fn the_naive_model_agrees_with_pytorch() {
    for name in selfie_testkit::llama::GOLDEN {
        let case = &golden(name)["forward"][1];
        let states = Naive::open(&dir(name), DType::F32).run(&ids(&case["input_ids"]));
        let tensors = Tensors::open(name);
        let prefix = case["tensors"].as_str().unwrap();
        let want = |tensor: &str| tensors.get(&format!("{prefix}{tensor}"));
        assert_close(
            "hidden_states",
            &states.hidden_states,
            &want("hidden_states"),
        );
        assert_close("pre_mlp", &states.pre_mlp, &want("pre_mlp"));
        assert_close("residual", &states.residual, &want("residual"));
        assert_close("logits", &states.logits, &want("logits"));
    }
}

/// Writes a checkpoint with a changed configuration, and compares the two models on it.
fn compare(checkpoint: &RandomCheckpoint, changes: Value) {
    let folder = tempfile::tempdir().unwrap();
    checkpoint.write(folder.path(), &dir("llama2-mha")).unwrap();
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    fs::write(&path, config.to_string()).unwrap();

    let want = Naive::open(folder.path(), checkpoint.dtype).run(&IDS);
    for cpu in cpus(2) {
        let on = format!("on {} of {checkpoint:?} with {changes}", cpu.path());
        let config = LlamaConfig::open(folder.path()).unwrap();
        let files = Checkpoint::open(folder.path()).unwrap();
        let model = Llama::load(cpu, config, &files, None, |_| {}).unwrap();
        assert_eq!(model.dtype(), checkpoint.dtype);
        agree(
            &Trace::new(&model, &IDS).unwrap(),
            &want,
            checkpoint.dtype,
            &on,
        );
    }
}

/// `on` names the case for messages.
fn agree(got: &Trace, want: &States, dtype: DType, on: &str) {
    for (what, got, want) in [
        ("hidden_states", &got.hidden_states, &want.hidden_states),
        ("pre_mlp", &got.pre_mlp, &want.pre_mlp),
        ("residual", &got.residual, &want.residual),
        ("logits", &got.logits, &want.logits),
    ] {
        let what = format!("{what} {on}");
        if dtype == DType::Bf16 {
            assert_close_bf16(&what, got, want);
        } else {
            assert_close(&what, got, want);
        }
    }
}

/// An operand that lies between two bf16 values may be rounded to one here and to the other there, when the f32 values
/// before the rounding differ in their last bit. Such a flip is 2^-8 of the operand, and a few of them meet in a sum.
#[track_caller]
fn assert_close_bf16(what: &str, got: &[f32], want: &[f32]) {
    let scale = (want.iter().map(|x| x * x).sum::<f32>() / want.len() as f32).sqrt();
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        let allowed = scale / 128.0;
        assert!(
            (a - b).abs() <= allowed,
            "{what}: value {i} is {a}, expected {b} to {allowed}"
        );
    }
}

fn tiny(dtype: DType) -> RandomCheckpoint {
    RandomCheckpoint {
        dtype,
        norm_spread: 0.3,
        ..RandomCheckpoint::tiny()
    }
}

#[test]
fn every_dtype() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        compare(&tiny(dtype), json!({}));
    }
}

#[test]
fn biases() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let both = RandomCheckpoint {
            attention_bias: true,
            mlp_bias: true,
            ..tiny(dtype)
        };
        compare(&both, json!({}));
    }
}

#[test]
fn odd_sizes_and_heads() {
    for (d_model, ffn, heads, kv_heads, head_dim) in [
        (72, 100, 6, 2, 24),
        (40, 55, 5, 5, 10),
        (33, 17, 4, 1, 2),
        (64, 172, 8, 4, 64),
    ] {
        for tie_word_embeddings in [false, true] {
            let odd = RandomCheckpoint {
                d_model,
                ffn,
                n_layers: 2,
                attn: AttnShape {
                    heads,
                    kv_heads,
                    head_dim,
                },
                vocab_size: 333,
                tie_word_embeddings,
                ..tiny(DType::F16)
            };
            compare(&odd, json!({}));
        }
    }
}

#[test]
fn rope_scaling() {
    for scaling in [
        json!({"type": "linear", "factor": 4.0}),
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 16}),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
    ] {
        compare(&tiny(DType::F32), json!({ "rope_scaling": scaling }));
    }
}

#[test]
fn mistral() {
    let changes = json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": null});
    compare(&tiny(DType::F32), changes);
}

/// With biases on q, k and v only: the checkpoint's o and MLP biases are not there.
#[test]
fn qwen2() {
    let written = RandomCheckpoint {
        attention_bias: true,
        ..tiny(DType::F32)
    };
    let changes = json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]});
    compare(&written, changes);
}

#[test]
fn matrices_of_several_types_are_computed_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    tiny(DType::F16)
        .write(folder.path(), &dir("llama2-mha"))
        .unwrap();
    let config = LlamaConfig::open(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    // Relabelling one f16 matrix as bf16 keeps its size.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(bytes[8..8 + header].to_vec()).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["model.layers.1.mlp.down_proj.weight"]["dtype"] = json!("BF16");
    let mut changed = json.to_string();
    changed.push_str(&" ".repeat((changed.len().div_ceil(8) * 8) - changed.len()));
    let length = (changed.len() as u64).to_le_bytes();
    fs::write(
        &path,
        [&length, changed.as_bytes(), &bytes[8 + header..]].concat(),
    )
    .unwrap();

    let files = Checkpoint::open(folder.path()).unwrap();
    let tensor = files.tensor(
        "model.layers.1.mlp.down_proj.weight",
        &[config.d_model, config.ffn],
    );
    assert_eq!(tensor.unwrap().dtype(), DType::Bf16);
    let model = Llama::load(cpu(1), config, &files, None, |_| {}).unwrap();
    assert_eq!(model.dtype(), DType::F32);
    let got = Trace::new(&model, &IDS).unwrap();
    let want = Naive::open(folder.path(), DType::F32).run(&IDS);
    assert_close("logits", &got.logits, &want.logits);
}

/// The mean square of the differences.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>() / a.len() as f64
}

/// A key that lies between two 16-bit values may be rounded to one here and to the other there, so the models do not
/// agree to the last digits. But the error that is left is small beside what the rounding itself does.
#[test]
fn keys_and_values_are_rounded_as_in_the_naive_model() {
    let folder = tempfile::tempdir().unwrap();
    tiny(DType::F32)
        .write(folder.path(), &dir("llama2-mha"))
        .unwrap();
    let exact = Naive::open(folder.path(), DType::F32).run(&IDS);
    for kv in [DType::Bf16, DType::F16] {
        let naive = Naive {
            kv,
            ..Naive::open(folder.path(), DType::F32)
        };
        let want = naive.run(&IDS);
        for cpu in cpus(2) {
            let on = format!("on {} with keys in {kv}", cpu.path());
            let model = Llama::open(cpu, folder.path()).unwrap();
            assert_eq!(model.kv_dtype(), DType::F32);
            let model = model.with_kv(kv).unwrap();
            assert_eq!(model.kv_dtype(), kv);
            let got = Trace::new(&model, &IDS).unwrap();
            for (what, got, want, exact) in [
                (
                    "hidden_states",
                    &got.hidden_states,
                    &want.hidden_states,
                    &exact.hidden_states,
                ),
                ("residual", &got.residual, &want.residual, &exact.residual),
                ("logits", &got.logits, &want.logits, &exact.logits),
            ] {
                let (left, rounding) = (distance(got, want), distance(exact, want));
                assert!(
                    left < rounding / 16.0,
                    "{what} {on}: {left:e} is left of {rounding:e}"
                );
            }
        }
    }
}
