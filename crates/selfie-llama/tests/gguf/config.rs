//! Metadata as `config.json`: the fields of transformers for each architecture.

use selfie_llama::{LlamaConfig, ModelType, RopeScaling};
use serde_json::{Value, json};

use crate::file::{File, Meta, Tensor, refusal};

/// The configuration of a file with these metadata. `ARCH` stands for the architecture.
fn config(name: &str, more: &[(&str, Meta)]) -> Value {
    file(name, more)
        .parse()
        .map(|gguf| Value::Object(gguf.config().unwrap()))
        .unwrap()
}

fn file(name: &str, more: &[(&str, Meta)]) -> File {
    let mut file = File::model(name, &[]);
    for (key, value) in more {
        file.set(&key.replace("ARCH", name), value.clone());
    }
    file
}

/// The fields that all architectures share, for [`File::model`].
fn common(model_type: &str, more: Value) -> Value {
    let mut all = json!({
        "model_type": model_type,
        "vocab_size": 4,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
    });
    for (field, value) in more.as_object().unwrap() {
        all[field] = value.clone();
    }
    all
}

#[test]
fn llama() {
    let no_bias = json!({"attention_bias": false, "mlp_bias": false});
    assert_eq!(config("llama", &[]), common("llama", no_bias));
    let found = file(
        "llama",
        &[
            ("ARCH.rope.freq_base", Meta::F32(500_000.0)),
            ("ARCH.attention.key_length", Meta::U32(6)),
            ("ARCH.attention.value_length", Meta::U32(6)),
            ("ARCH.rope.scaling.type", Meta::Text("linear")),
            ("ARCH.rope.scaling.factor", Meta::F32(4.0)),
            ("tokenizer.ggml.bos_token_id", Meta::U32(1)),
            ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
            ("tokenizer.ggml.eot_token_id", Meta::U32(3)),
        ],
    )
    .tensor("output.weight", Tensor::zeros(&[8, 4]))
    .tensor("blk.0.attn_q.bias", Tensor::zeros(&[12]));
    let found = found.parse().unwrap();
    let expected = json!({
        "attention_bias": true,
        "mlp_bias": false,
        "head_dim": 6,
        "rope_theta": 500_000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
    });
    assert_eq!(
        Value::Object(found.config().unwrap()),
        common("llama", expected)
    );
    let generation = found.generation_config().unwrap();
    assert_eq!(generation, Some(json!({"eos_token_id": [2, 3]})));
}

#[test]
fn a_window_of_llama_is_that_of_mistral() {
    let found = config("llama", &[("ARCH.attention.sliding_window", Meta::U32(64))]);
    assert_eq!(found["model_type"], "mistral");
    assert_eq!(found["sliding_window"], 64);
}

#[test]
fn qwen() {
    assert_eq!(config("qwen2", &[]), common("qwen2", json!({})));
    let found = config("qwen3", &[("ARCH.attention.key_length", Meta::U32(128))]);
    assert_eq!(
        found,
        common("qwen3", json!({"head_dim": 128, "attention_bias": false}))
    );
    let said = refusal(
        file("qwen2", &[("ARCH.attention.sliding_window", Meta::U32(64))])
            .parse()
            .unwrap()
            .config(),
    );
    assert!(
        said.contains(
            "\"qwen2.attention.sliding_window\" is 64; a window is not supported in qwen2"
        ),
        "{said}"
    );
}

#[test]
fn gemma() {
    let layers = ("ARCH.block_count", Meta::U32(7));
    let window = ("ARCH.attention.sliding_window", Meta::U32(512));
    let (sliding, full) = ("sliding_attention", "full_attention");
    let found = config(
        "gemma2",
        &[
            layers.clone(),
            window.clone(),
            ("ARCH.attention.key_length", Meta::U32(256)),
            ("ARCH.attn_logit_softcapping", Meta::F32(50.0)),
            ("ARCH.final_logit_softcapping", Meta::F32(30.0)),
        ],
    );
    let expected = json!({
        "num_hidden_layers": 7,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
        "layer_types": [sliding, full, sliding, full, sliding, full, sliding],
    });
    assert_eq!(found, common("gemma2", expected));

    let found = config(
        "gemma3",
        &[
            layers,
            window,
            ("ARCH.rope.freq_base", Meta::F32(1e6)),
            ("ARCH.rope.scaling.type", Meta::Text("linear")),
            ("ARCH.rope.scaling.factor", Meta::F32(8.0)),
        ],
    );
    let expected = json!({
        "num_hidden_layers": 7,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": null,
        "final_logit_softcapping": null,
        "query_pre_attn_scalar": 4,
        "sliding_window": 512,
        "layer_types": [sliding, sliding, sliding, sliding, sliding, full, sliding],
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    });
    assert_eq!(found, common("gemma3_text", expected));
}

/// From config.json of google/gemma-2-27b and gemma-3-27b-it: hidden_size, num_attention_heads, num_hidden_layers and
/// query_pre_attn_scalar.
#[test]
fn the_largest_gemmas_have_a_scale_of_their_own() {
    for (name, width, heads, layers, scalar) in
        [("gemma2", 4608, 32, 46, 144), ("gemma3", 5376, 32, 62, 168)]
    {
        let found = config(
            name,
            &[
                ("ARCH.embedding_length", Meta::U32(width)),
                ("ARCH.attention.head_count", Meta::U32(heads)),
                ("ARCH.block_count", Meta::U32(layers)),
                ("ARCH.attention.key_length", Meta::U32(128)),
                ("ARCH.attention.sliding_window", Meta::U32(1024)),
            ],
        );
        assert_eq!(found["query_pre_attn_scalar"], scalar);
    }
}

#[test]
fn phi3() {
    let found = config(
        "phi3",
        &[
            ("ARCH.rope.dimension_count", Meta::U32(3)),
            ("ARCH.attention.sliding_window", Meta::U32(100)),
        ],
    );
    let expected = json!({"partial_rotary_factor": 0.75, "sliding_window": 100});
    assert_eq!(found, common("phi3", expected));
    let none = config("phi3", &[("ARCH.attention.sliding_window", Meta::U32(0))]);
    assert_eq!(none, common("phi3", json!({"sliding_window": null})));
}

#[test]
fn olmo() {
    assert_eq!(
        config("olmo2", &[]),
        common("olmo2", json!({"attention_bias": false}))
    );
    let found = config(
        "olmo2",
        &[
            ("ARCH.block_count", Meta::U32(5)),
            ("ARCH.attention.sliding_window", Meta::U32(64)),
            ("ARCH.rope.scaling.type", Meta::Text("yarn")),
            ("ARCH.rope.scaling.factor", Meta::F32(8.0)),
            ("ARCH.rope.scaling.original_context_length", Meta::U32(16)),
        ],
    );
    let (sliding, full) = ("sliding_attention", "full_attention");
    let expected = json!({
        "num_hidden_layers": 5,
        "attention_bias": false,
        "sliding_window": 64,
        "layer_types": [sliding, sliding, sliding, full, sliding],
        "rope_scaling": {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16,
            "beta_fast": null, "beta_slow": null,
        },
    });
    assert_eq!(found, common("olmo3", expected));
    let pattern = (
        "ARCH.attention.sliding_window_pattern",
        Meta::Bools(vec![false, true]),
    );
    let window = ("ARCH.attention.sliding_window", Meta::U32(64));
    let found = config(
        "olmo2",
        &[("ARCH.block_count", Meta::U32(2)), window, pattern],
    );
    assert_eq!(found["layer_types"], json!([full, sliding]));
}

#[test]
fn smollm3() {
    let found = config("smollm3", &[("ARCH.block_count", Meta::U32(5))]);
    let expected = json!({
        "num_hidden_layers": 5,
        "attention_bias": false,
        "mlp_bias": false,
        "no_rope_layers": [1, 1, 1, 0, 1],
    });
    assert_eq!(found, common("smollm3", expected));
}

#[test]
fn granite() {
    let found = config(
        "granite",
        &[
            ("ARCH.embedding_scale", Meta::F32(12.0)),
            ("ARCH.residual_scale", Meta::F32(0.22)),
            ("ARCH.attention.scale", Meta::F32(0.015_625)),
            ("ARCH.logit_scale", Meta::F32(8.0)),
        ],
    );
    // 0.22 as in config.json, not the nearest f32.
    let expected = json!({
        "attention_bias": false,
        "mlp_bias": false,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.015_625,
        "logits_scaling": 8.0,
    });
    assert_eq!(found, common("granite", expected));
}

/// The divisors in `rope_freqs.weight`, computed in the f32 steps of llama.cpp's `generate_extra_tensors`.
fn llama3_factors(theta: f32, head_dim: usize, factor: f32) -> Vec<f32> {
    let (low, high, original) = (1.0_f32, 4.0_f32, 8192.0_f32);
    let pairs = (0..head_dim).step_by(2);
    let one = |dim: usize| {
        let frequency = 1.0 / theta.powf(dim as f32 / head_dim as f32);
        let wavelength = std::f32::consts::TAU / frequency;
        if wavelength < original / high {
            1.0
        } else if wavelength > original / low {
            factor
        } else {
            let smooth = (original / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    pairs.map(one).collect()
}

#[test]
fn rope_of_llama3_is_told_by_its_factors() {
    for (head_dim, factor) in [(64, 32.0), (128, 8.0)] {
        let more = [
            ("ARCH.rope.freq_base", Meta::F32(500_000.0)),
            ("ARCH.attention.key_length", Meta::U32(head_dim)),
        ];
        let factors = llama3_factors(500_000.0, head_dim as usize, factor);
        let dims = [factors.len() as u64];
        let with = |factors: &[f32]| {
            file("llama", &more).tensor("rope_freqs.weight", Tensor::f32(&dims, factors))
        };
        let json = Value::Object(with(&factors).parse().unwrap().config().unwrap());
        let config = LlamaConfig::parse(&json.to_string(), "model.gguf".as_ref()).unwrap();
        assert_eq!(config.model_type, ModelType::Llama);
        let expected = RopeScaling::Llama3 {
            factor: f64::from(factor),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        assert_eq!(config.rope.scaling, expected);

        let mut wrong = factors.clone();
        wrong[dims[0] as usize / 2] *= 1.001;
        let said = refusal(with(&wrong).parse().unwrap().config());
        assert!(
            said.contains("tensor rope_freqs.weight is not the scaling of LLaMA 3"),
            "{said}"
        );
    }
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    for (key, value, expected) in [
        (
            "general.architecture",
            Meta::Text("mamba"),
            "\"general.architecture\" is \"mamba\"; supported: llama, qwen2",
        ),
        (
            "llama.block_count",
            Meta::Text("many"),
            "\"llama.block_count\" is \"many\"; expected an integer",
        ),
        (
            "llama.attention.head_count",
            Meta::I32s(vec![2, 3]),
            "it must be the same for all layers",
        ),
        (
            "llama.attention.value_length",
            Meta::U32(5),
            "\"llama.attention.value_length\" is 5; expected the size of a key, 4",
        ),
        (
            "llama.rope.scaling.type",
            Meta::Text("longrope"),
            "\"llama.rope.scaling.type\" is \"longrope\"; supported: none, linear, yarn",
        ),
        (
            "llama.rope.scaling.attn_factor",
            Meta::F32(1.2),
            "supported: 1, or no key",
        ),
        (
            "llama.rope.freq_base",
            Meta::F32(f32::NAN),
            "expected a finite number",
        ),
    ] {
        let gguf = file("llama", &[(key, value)]).parse().unwrap();
        let said = refusal(gguf.config());
        assert!(
            said.starts_with("model.gguf: ") && said.contains(expected),
            "{said}"
        );
    }
    for key in [
        "general.architecture",
        "llama.embedding_length",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let mut file = file("llama", &[]);
        file.metadata.retain(|(there, _)| there != key);
        let said = refusal(file.parse().unwrap().config());
        assert_eq!(said, format!("model.gguf: field \"{key}\" is missing"));
    }
}
