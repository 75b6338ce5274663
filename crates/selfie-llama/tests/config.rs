//! What config.json means, what is refused, and with which message.

use std::fs;
use std::path::{Path, PathBuf};

use selfie_kernels::{AttnShape, DType};
use selfie_llama::{LlamaConfig, LlamaError, ModelType, Result, Rope, RopeScaling, Spec};
use serde_json::{Value, json};

/// Only the fields without a default.
fn minimal() -> Value {
    json!({
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 500,
    })
}

/// The minimal configuration with some fields replaced or added.
fn patched(patch: &Value) -> Value {
    let mut config = minimal();
    for (name, value) in patch.as_object().unwrap() {
        config[name] = value.clone();
    }
    config
}

fn parse(config: &Value) -> Result<LlamaConfig> {
    LlamaConfig::parse(&config.to_string(), Path::new("model/config.json"))
}

#[track_caller]
fn read(patch: Value) -> LlamaConfig {
    parse(&patched(&patch)).unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn attn(heads: usize, kv_heads: usize, head_dim: usize) -> AttnShape {
    AttnShape {
        heads,
        kv_heads,
        head_dim,
    }
}

#[test]
fn defaults() {
    let expected = LlamaConfig {
        model_type: ModelType::Llama,
        vocab_size: 500,
        d_model: 64,
        ffn: 172,
        n_layers: 3,
        attn: AttnShape {
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
        },
        rms_norm_eps: 1e-6,
        rope: Rope {
            theta: 10000.0,
            scaling: RopeScaling::None,
        },
        spec: Spec::llama(&attn(4, 4, 16), 3),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        max_positions: 2048,
        bos: vec![],
        eos: vec![],
        dtype: None,
    };
    assert_eq!(read(json!({})), expected);
    let nulls = json!({
        "num_key_value_heads": null, "head_dim": null, "rms_norm_eps": null, "hidden_act": null,
        "rope_theta": null, "rope_scaling": null, "rope_parameters": null,
        "max_position_embeddings": null, "attention_bias": null, "mlp_bias": null,
        "tie_word_embeddings": null, "bos_token_id": null, "eos_token_id": null,
        "torch_dtype": null, "dtype": null, "quantization_config": null, "architectures": null,
        "partial_rotary_factor": null,
    });
    assert_eq!(read(nulls), expected);
    // Neither field changes what is computed.
    assert_eq!(
        read(json!({"pretraining_tp": 2, "use_cache": false})),
        expected
    );
}

#[test]
fn golden_configs() {
    let mha = LlamaConfig::open(&golden("llama2-mha")).unwrap();
    let expected = LlamaConfig {
        model_type: ModelType::Llama,
        vocab_size: 560,
        d_model: 64,
        ffn: 172,
        n_layers: 4,
        attn: AttnShape {
            heads: 4,
            kv_heads: 4,
            head_dim: 16,
        },
        rms_norm_eps: 1e-5,
        rope: Rope {
            theta: 10000.0,
            scaling: RopeScaling::None,
        },
        spec: Spec::llama(&attn(4, 4, 16), 4),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        max_positions: 512,
        bos: vec![1],
        eos: vec![2],
        dtype: Some(DType::F32),
    };
    assert_eq!(mha, expected);

    let gqa = LlamaConfig::open(&golden("llama3-gqa")).unwrap();
    let expected = LlamaConfig {
        vocab_size: 573,
        d_model: 128,
        ffn: 344,
        n_layers: 5,
        attn: AttnShape {
            heads: 8,
            kv_heads: 2,
            head_dim: 16,
        },
        rope: Rope {
            theta: 500000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 64,
            },
        },
        spec: Spec::llama(&attn(8, 2, 16), 5),
        tie_word_embeddings: true,
        bos: vec![568],
        eos: vec![572],
        dtype: Some(DType::Bf16),
        ..expected
    };
    assert_eq!(gqa, expected);
}

#[test]
fn heads() {
    let heads = |patch| read(patch).attn;
    let grouped = heads(json!({"num_key_value_heads": 2}));
    assert_eq!((grouped.heads, grouped.kv_heads), (4, 2));
    assert_eq!(heads(json!({"num_key_value_heads": 1})).kv_heads, 1);
    // An explicit head_dim is accepted even if hidden_size is not divisible.
    assert_eq!(heads(json!({"head_dim": 32})).head_dim, 32);
    let odd = heads(json!({"hidden_size": 70, "head_dim": 16}));
    assert_eq!((odd.heads, odd.head_dim), (4, 16));
}

#[test]
fn families_and_biases() {
    let cases = [
        // model_type, attention_bias, mlp_bias -> qkv, o, mlp
        ("llama", false, false, [false, false, false]),
        ("llama", true, false, [true, true, false]),
        ("llama", false, true, [false, false, true]),
        ("mistral", false, false, [false, false, false]),
        ("mistral", true, true, [false, false, false]),
        ("qwen2", false, false, [true, false, false]),
        ("qwen2", true, true, [true, false, false]),
    ];
    for (model_type, attention_bias, mlp_bias, expected) in cases {
        let config = read(json!({
            "model_type": model_type,
            "attention_bias": attention_bias,
            "mlp_bias": mlp_bias,
        }));
        let found = [config.qkv_bias, config.o_bias, config.mlp_bias];
        assert_eq!(found, expected, "{model_type} {attention_bias} {mlp_bias}");
        assert_eq!(config.model_type.name(), model_type);
    }
    for (architecture, expected) in [
        ("LlamaForCausalLM", ModelType::Llama),
        ("MistralForCausalLM", ModelType::Mistral),
        ("Qwen2ForCausalLM", ModelType::Qwen2),
    ] {
        let alone = read(json!({"model_type": null, "architectures": [architecture]}));
        assert_eq!(alone.model_type, expected);
        let both = read(json!({"model_type": expected.name(), "architectures": [architecture]}));
        assert_eq!(both.model_type, expected);
    }
    // The spelling of the first checkpoints.
    for model_type in [json!("llama"), Value::Null] {
        let old = read(json!({"model_type": model_type, "architectures": ["LLaMAForCausalLM"]}));
        assert_eq!(old.model_type, ModelType::Llama);
    }
    assert_eq!(
        read(json!({"architectures": []})).model_type,
        ModelType::Llama
    );
}

#[test]
fn small_fields() {
    let ids = |value| read(json!({"eos_token_id": value, "bos_token_id": value}));
    assert_eq!(ids(json!(7)).eos, [7]);
    assert_eq!(ids(json!([7, 0])).bos, [7, 0]);
    // -1 means none, as the first checkpoints write it.
    assert!(ids(json!(-1)).eos.is_empty() && ids(json!(-1)).bos.is_empty());
    assert_eq!(ids(json!([-1, 7])).eos, [7]);
    assert!(ids(json!([])).eos.is_empty());

    let dtype = |patch| read(patch).dtype;
    assert_eq!(dtype(json!({"torch_dtype": "float16"})), Some(DType::F16));
    assert_eq!(dtype(json!({"dtype": "torch.bfloat16"})), Some(DType::Bf16));
    assert_eq!(
        dtype(json!({"dtype": "float32", "torch_dtype": "float16"})),
        Some(DType::F32)
    );
    assert_eq!(dtype(json!({"dtype": "float64"})), None);
    assert_eq!(dtype(json!({"dtype": {"text": "float32"}})), None);

    assert_eq!(read(json!({"hidden_act": "silu"})), read(json!({})));
    assert_eq!(read(json!({"hidden_act": "swish"})), read(json!({})));
    assert!(read(json!({"tie_word_embeddings": true})).tie_word_embeddings);
    assert_eq!(read(json!({"rms_norm_eps": 1e-5})).rms_norm_eps, 1e-5);
    assert_eq!(
        read(json!({"max_position_embeddings": 131072})).max_positions,
        131072
    );
}

#[test]
fn windows_that_never_bite() {
    for patch in [
        json!({"model_type": "llama", "sliding_window": 16}),
        json!({"model_type": "mistral", "sliding_window": null, "max_position_embeddings": 32768}),
        json!({"model_type": "mistral", "sliding_window": 4096, "max_position_embeddings": 4096}),
        json!({"model_type": "mistral", "max_position_embeddings": 4096}),
        json!({"model_type": "qwen2", "sliding_window": 16}),
        json!({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": false}),
        json!({"model_type": "qwen2", "sliding_window": 2048, "use_sliding_window": true}),
        // No layer of the three has a window.
        json!({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": true}),
        json!({"model_type": "qwen2", "sliding_window": 16, "use_sliding_window": true, "max_window_layers": 3}),
        json!({
            "model_type": "qwen2", "sliding_window": 16, "use_sliding_window": true, "max_window_layers": 0,
            "layer_types": ["full_attention", "full_attention", "full_attention"],
        }),
    ] {
        assert!(parse(&patched(&patch)).is_ok(), "{patch}");
    }
}

#[test]
fn rope_fields() {
    let linear = |factor| RopeScaling::Linear { factor };
    let yarn = RopeScaling::Yarn {
        factor: 4.0,
        original_max_positions: 2048,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: None,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    };
    let cases = [
        (json!({"rope_theta": 1000000}), 1e6, RopeScaling::None),
        (
            json!({"rope_scaling": {"type": "default"}}),
            1e4,
            RopeScaling::None,
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2}}),
            1e4,
            linear(2.0),
        ),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            1e4,
            RopeScaling::None,
        ),
        (
            json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.5}}),
            5e5,
            linear(2.5),
        ),
        (
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
            5e5,
            RopeScaling::None,
        ),
        (
            json!({
                "rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 3.0,
                "partial_rotary_factor": 1.0},
            }),
            5e5,
            linear(3.0),
        ),
        (
            json!({"rope_parameters": {"rope_type": "default"}, "rope_theta": 2e4, "partial_rotary_factor": 1}),
            2e4,
            RopeScaling::None,
        ),
        (
            json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
            1e4,
            yarn,
        ),
        (
            json!({"rope_scaling": {
                "rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5, "mscale": 0.707,
                "mscale_all_dim": 0, "truncate": false,
            }}),
            1e4,
            RopeScaling::Yarn {
                factor: 40.0,
                original_max_positions: 4096,
                beta_fast: 16.0,
                beta_slow: 2.0,
                attention_factor: Some(1.5),
                mscale: Some(0.707),
                mscale_all_dim: Some(0.0),
                truncate: false,
            },
        ),
    ];
    for (patch, theta, scaling) in cases {
        let found = parse(&patched(&patch)).unwrap().rope;
        assert_eq!(found, Rope { theta, scaling }, "{patch}");
    }
}

/// One case a line: the fields given, the field in the error, its value, a part of the advice.
const REFUSED: &str = r#"
{"model_type": "gemma"} | model_type | "gemma" | supported: llama, mistral, ministral, qwen2, qwen3, gemma2, gemma3_text, smollm3, olmo2, olmo3, phi3, granite
{"model_type": "mixtral"} | model_type | "mixtral" | supported: llama
{"model_type": "qwen3_moe"} | model_type | "qwen3_moe" | supported: llama
{"model_type": 1} | model_type | 1 | string
{"model_type": null, "architectures": ["GPT2LMHeadModel"]} | architectures | ["GPT2LMHeadModel"] | Qwen2ForCausalLM
{"architectures": ["LlamaForTokenClassification"]} | architectures | ["LlamaForTokenClassification"] | LlamaForCausalLM
{"architectures": ["MistralForCausalLM"]} | architectures | ["MistralForCausalLM"] | LlamaForCausalLM
{"architectures": "LlamaForCausalLM"} | architectures | "LlamaForCausalLM" | list of strings
{"quantization_config": {"quant_method": "gptq", "bits": 4}} | quantization_config.quant_method | "gptq" | unquantized
{"quantization_config": {"bits": 4}} | quantization_config | {"bits":4} | unquantized
{"hidden_act": "gelu"} | hidden_act | "gelu" | supported: silu
{"hidden_size": 0} | hidden_size | 0 | integer from 1 to
{"hidden_size": -64} | hidden_size | -64 | integer from 1 to
{"hidden_size": 64.0} | hidden_size | 64.0 | integer from 1 to
{"hidden_size": "64"} | hidden_size | "64" | integer from 1 to
{"intermediate_size": 18446744073709551615} | intermediate_size | 18446744073709551615 | integer from 1 to
{"vocab_size": [500]} | vocab_size | [500] | integer from 1 to
{"num_hidden_layers": 1000000} | num_hidden_layers | 1000000 | integer from 1 to
{"num_attention_heads": 5} | num_attention_heads | 5 | divisor of hidden_size, 64
{"num_key_value_heads": 3} | num_key_value_heads | 3 | divisor of num_attention_heads, 4
{"num_key_value_heads": 8} | num_key_value_heads | 8 | divisor of num_attention_heads, 4
{"num_key_value_heads": 0} | num_key_value_heads | 0 | integer from 1 to
{"head_dim": 15} | head_dim | 15 | even
{"hidden_size": 60} | head_dim | 15 | even
{"hidden_size": 1048576} | head_dim | 262144 | up to 4096
{"rms_norm_eps": 0} | rms_norm_eps | 0 | above 0
{"rms_norm_eps": -0.5} | rms_norm_eps | -0.5 | above 0
{"rms_norm_eps": 1e300} | rms_norm_eps | 1e+300 | finite
{"max_position_embeddings": 0} | max_position_embeddings | 0 | integer from 1 to
{"attention_bias": "no"} | attention_bias | "no" | true or false
{"mlp_bias": 1} | mlp_bias | 1 | true or false
{"tie_word_embeddings": 1} | tie_word_embeddings | 1 | true or false
{"bos_token_id": -2} | bos_token_id | -2 | token id
{"eos_token_id": [2, "x"]} | eos_token_id | [2,"x"] | token id
{"eos_token_id": 4294967296} | eos_token_id | 4294967296 | token id
{"rope_theta": 0} | rope_theta | 0 | above 1
{"rope_theta": 1e39} | rope_theta | 1e+39 | above 1
{"rope_theta": "10000"} | rope_theta | "10000" | number
{"rope_parameters": {"rope_type": "default", "rope_theta": -1}} | rope_parameters.rope_theta | -1 | above 1
{"partial_rotary_factor": 0.5} | partial_rotary_factor | 0.5 | expected 1
{"rope_parameters": {"partial_rotary_factor": 0.25}} | rope_parameters.partial_rotary_factor | 0.25 | expected 1
{"rope_scaling": "linear"} | rope_scaling | "linear" | object
{"rope_scaling": {"rope_type": "longrope"}} | rope_scaling.rope_type | "longrope" | supported: default, linear, dynamic, llama3, yarn
{"rope_scaling": {"type": "su"}} | rope_scaling.type | "su" | supported: default, linear, dynamic, llama3, yarn
{"rope_scaling": {"type": "linear", "rope_type": "yarn"}} | rope_scaling.type | "linear" | rope_type is "yarn"
{"rope_scaling": {"type": "linear", "factor": 0}} | rope_scaling.factor | 0 | above 0
{"rope_scaling": {"type": "linear", "factor": "2"}} | rope_scaling.factor | "2" | number
{"rope_scaling": {"type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4}} | rope_scaling.high_freq_factor | 4 | above low_freq_factor, 4
{"rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 0}} | rope_scaling.original_max_position_embeddings | 0 | integer from 1 to
{"rope_scaling": {"type": "yarn", "factor": 4, "mscale": -1}} | rope_scaling.mscale | -1 | at least 0
{"rope_scaling": {"type": "yarn", "factor": 4, "truncate": 0}} | rope_scaling.truncate | 0 | true or false
{"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": -1} | max_window_layers | -1 | integer from 0 to
{"model_type": "mistral", "sliding_window": 0} | sliding_window | 0 | integer from 1 to
{"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]} | layer_types | ["full_attention","sliding_attention"] | expected 3 of them
{"model_type": "qwen2", "layer_types": ["full_attention", "linear_attention", "full_attention"]} | layer_types | ["full_attention","linear_attention","full_attention"] | full_attention, sliding_attention
{"model_type": "gemma2", "hidden_activation": "gelu"} | hidden_activation | "gelu" | gelu_pytorch_tanh
{"model_type": "gemma2", "attn_logit_softcapping": 0} | attn_logit_softcapping | 0 | above 0
{"model_type": "gemma3_text", "final_logit_softcapping": 30.0} | final_logit_softcapping | 30.0 | null
{"model_type": "gemma3_text", "use_bidirectional_attention": true} | use_bidirectional_attention | true | false
{"model_type": "gemma3_text", "query_pre_attn_scalar": 0} | query_pre_attn_scalar | 0 | above 0
{"model_type": "smollm3", "no_rope_layers": [1, 0]} | no_rope_layers | [1,0] | list of 3 times 0 or 1
{"model_type": "smollm3", "no_rope_layers": [1, 0, 2]} | no_rope_layers | [1,0,2] | list of 3 times 0 or 1
{"model_type": "phi3", "partial_rotary_factor": 1.5} | partial_rotary_factor | 1.5 | at most 1
{"model_type": "phi3", "partial_rotary_factor": 0.2} | partial_rotary_factor | 0.2 | even
{"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}} | rope_scaling.type | "longrope" | supported: default
{"model_type": "granite", "residual_multiplier": 0} | residual_multiplier | 0 | above 0
"#;

#[test]
fn refused_fields() {
    for case in REFUSED.trim().lines() {
        let [patch, field, value, advice] = case.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("not four columns: {case}");
        };
        let patch = serde_json::from_str(patch).unwrap();
        let error = parse(&patched(&patch)).expect_err(case);
        let message = error.to_string();
        let start = format!("model/config.json: field \"{field}\" is {value}; ");
        let end = message.strip_prefix(&start);
        assert!(
            end.is_some_and(|end| end.contains(advice)),
            "{case}: {message}"
        );
        assert!(matches!(error, LlamaError::ConfigField { .. }));
    }
}

#[test]
fn missing_fields() {
    for name in [
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
    ] {
        let mut config = minimal();
        config.as_object_mut().unwrap().remove(name);
        assert_missing(&config, name);
        config[name] = Value::Null;
        assert_missing(&config, name);
    }
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    for (name, _) in llama3.as_object().unwrap() {
        let mut scaling = llama3.clone();
        scaling.as_object_mut().unwrap().remove(name);
        let config = patched(&json!({"rope_scaling": scaling}));
        assert_missing(&config, &format!("rope_scaling.{name}"));
    }
    for kind in ["linear", "yarn"] {
        let config = patched(&json!({"rope_parameters": {"rope_type": kind}}));
        assert_missing(&config, "rope_parameters.factor");
    }
}

fn assert_missing(config: &Value, field: &str) {
    let error = parse(config).expect_err(field);
    let expected = format!("model/config.json: field \"{field}\" is missing");
    assert_eq!(error.to_string(), expected);
    assert!(matches!(error, LlamaError::ConfigMissing { .. }));
}

#[test]
fn long_values_are_cut() {
    let name = "ß".repeat(500);
    let message = parse(&patched(&json!({"hidden_act": name})))
        .unwrap_err()
        .to_string();
    assert!(message.contains("ßß...; supported: silu"), "{message}");
    assert!(message.len() < 300, "{message}");
}

#[test]
fn broken_files() {
    let path = Path::new("model/config.json");
    for text in ["", "{", "[]", "3", "{\"hidden_size\": nan}"] {
        let error = LlamaConfig::parse(text, path).expect_err(text);
        assert!(matches!(error, LlamaError::Json { .. }), "{text}: {error}");
        assert!(error.to_string().contains("model/config.json"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let error = LlamaConfig::open(dir.path()).unwrap_err();
    assert!(matches!(error, LlamaError::Read { .. }), "{error}");
    assert!(error.to_string().contains("config.json"), "{error}");
    fs::write(dir.path().join("config.json"), [0xff, 0xfe]).unwrap();
    let error = LlamaConfig::open(dir.path()).unwrap_err();
    assert!(matches!(error, LlamaError::Read { .. }), "{error}");
}

#[test]
fn parameter_counts_of_known_models() {
    let cases = [
        // Llama 2 7B
        (
            json!({
                "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
                "vocab_size": 32000,
            }),
            6_738_415_616,
        ),
        // Llama 3 8B
        (
            json!({
                "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 8, "vocab_size": 128256,
            }),
            8_030_261_248,
        ),
        // Llama 3.2 1B
        (
            json!({
                "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": true,
            }),
            1_235_814_400,
        ),
        // Mistral 7B v0.1
        (
            json!({
                "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
            }),
            7_241_732_096,
        ),
        // Qwen2 0.5B
        (
            json!({
                "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings":
                true,
            }),
            494_032_768,
        ),
        // One layer, counted by hand: 2 tables; q, k, v, o with their biases; the MLP with its biases; 3 norms.
        (
            json!({
                "hidden_size": 6, "intermediate_size": 5, "num_hidden_layers": 1, "num_attention_heads": 2,
                "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 7, "attention_bias": true, "mlp_bias": true,
            }),
            2 * 42 + (48 + 24 + 24 + 48) + (8 + 4 + 4 + 6) + 3 * 30 + (5 + 5 + 6) + 3 * 6,
        ),
    ];
    for (patch, expected) in cases {
        assert_eq!(read(patch.clone()).n_parameters(), expected, "{patch}");
    }
}

#[test]
fn parameter_counts_of_the_golden_checkpoints() {
    for name in ["llama2-mha", "llama3-gqa"] {
        let dir = golden(name);
        let stored: u64 = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let file = path.file_name().unwrap().to_str().unwrap();
                file.starts_with("model") && file.ends_with(".safetensors")
            })
            .map(|path| values_in(&path))
            .sum();
        let config = LlamaConfig::open(&dir).unwrap();
        assert_eq!(config.n_parameters(), stored, "{name}");
    }
}

/// How many numbers a safetensors file holds, according to its header.
fn values_in(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let shapes = header.as_object().unwrap().values();
    shapes
        .filter_map(|tensor| tensor["shape"].as_array())
        .map(|shape| shape.iter().map(|n| n.as_u64().unwrap()).product::<u64>())
        .sum()
}

#[test]
fn the_largest_shape_does_not_overflow() {
    let largest = read(json!({
        "hidden_size": 1 << 24, "intermediate_size": 1 << 24, "num_hidden_layers": 1 << 10,
        "num_attention_heads": 1 << 12, "head_dim": 1 << 12, "vocab_size": 1 << 24,
        "attention_bias": true, "mlp_bias": true,
    }));
    assert!(largest.n_parameters().checked_mul(4).is_some());
}

/// What Python's `json.dump` writes for numbers that are not finite.
#[test]
fn unused_numbers_may_be_not_finite() {
    let with = |fields: &str| {
        let text = minimal().to_string();
        let text = format!("{},{fields}}}", text.strip_suffix('}').unwrap());
        LlamaConfig::parse(&text, Path::new("model/config.json"))
    };
    let odd = r#""x": NaN, "y": [Infinity, {"z": -Infinity}], "NaN": "NaN, \" Infinity", "é": "-Infinity""#;
    assert_eq!(with(odd).unwrap(), read(json!({})));
    for (value, shown) in [
        ("NaN", "\"NaN\""),
        ("Infinity", "\"Infinity\""),
        ("-Infinity", "\"-Infinity\""),
    ] {
        let error = with(&format!("\"rms_norm_eps\": {value}"))
            .unwrap_err()
            .to_string();
        let expected = format!("field \"rms_norm_eps\" is {shown}; expected a finite number");
        assert!(error.contains(&expected), "{error}");
    }
    // Other slips stay errors, reported at the columns of the file.
    let error = with(r#""x": NaN, "y": nan"#).unwrap_err().to_string();
    assert!(error.contains("is not valid JSON"), "{error}");
}

/// The context is as long as the model was made for, even if its rope could stretch further.
#[test]
fn a_dynamic_rope_stays_within_the_context() {
    let config = read(
        json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}, "max_position_embeddings": 64}),
    );
    assert!(config.check_context(64).is_ok());
    let error = config.check_context(65);
    assert!(matches!(
        error,
        Err(LlamaError::ContextLength {
            positions: 65,
            max: 64
        })
    ));
}
