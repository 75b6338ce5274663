//! Checkpoints with random weights: shapes, distribution, determinism, files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use selfie_demo::RandomCheckpoint;
use selfie_kernels::{AttnShape, DType};
use selfie_llama::{
    Checkpoint, Llama, LlamaConfig, LlamaError, ModelType, Rope, RopeScaling, Spec, Trace,
};
use tempfile::TempDir;

const DTYPES: [(DType, &str); 3] = [
    (DType::F32, "F32"),
    (DType::Bf16, "BF16"),
    (DType::F16, "F16"),
];

fn tokenizer() -> PathBuf {
    selfie_testkit::llama::dir("llama2-mha")
}

fn written(random: &RandomCheckpoint) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    random.write(dir.path(), &tokenizer()).unwrap();
    dir
}

/// All values of a tensor in the folder.
fn values(dir: &Path, name: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let shape = checkpoint.find(name).unwrap().shape;
    let tensor = checkpoint.tensor(name, shape).unwrap();
    tensor.vector().unwrap()
}

/// The bytes of each file in the folder.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |item: std::io::Result<fs::DirEntry>| {
        let path = item.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    };
    fs::read_dir(dir).unwrap().map(read).collect()
}

/// Mean and standard deviation.
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let square = |&v: &f32| (f64::from(v) - mean).powi(2);
    (mean, (values.iter().map(square).sum::<f64>() / n).sqrt())
}

/// Within five standard errors.
#[track_caller]
fn assert_distribution(values: &[f32], mean: f64, std: f64) {
    let found = moments(values);
    let n = values.len() as f64;
    let fits = (found.0 - mean).abs() < 5.0 * std / n.sqrt()
        && (found.1 - std).abs() < 5.0 * std / (2.0 * n).sqrt();
    assert!(fits, "{found:?}, expected {mean} and {std}");
}

/// Parameter counts from the models' cards and the files' indices.
#[test]
fn named_shapes() {
    let parameters = |c: &RandomCheckpoint| {
        let attention = 2 * c.d_model * c.attn.head_dim * (c.attn.heads + c.attn.kv_heads);
        let layer = attention + 3 * c.d_model * c.ffn + 2 * c.d_model;
        let tables = if c.tie_word_embeddings { 1 } else { 2 };
        tables * c.vocab_size * c.d_model + c.n_layers * layer + c.d_model
    };
    let expected = [
        ("smollm2-135m", 134_515_008, 9, 3, 100000.0),
        ("tinyllama-1.1b", 1_100_048_384, 32, 4, 10000.0),
        ("llama-3.2-1b", 1_235_814_400, 32, 8, 500000.0),
        ("llama-2-7b", 6_738_415_616, 32, 32, 10000.0),
        ("llama-3.1-8b", 8_030_261_248, 32, 8, 500000.0),
        ("llama-2-13b", 13_015_864_320, 40, 40, 10000.0),
    ];
    assert_eq!(expected.map(|shape| shape.0), RandomCheckpoint::SHAPES);
    for (name, count, heads, kv_heads, theta) in expected {
        let shape = RandomCheckpoint::shape(name).unwrap();
        assert_eq!(parameters(&shape), count, "{name}");
        let AttnShape {
            heads: h,
            kv_heads: kv,
            head_dim,
        } = shape.attn;
        assert_eq!((h, kv, h * head_dim), (heads, kv_heads, shape.d_model));
        assert_eq!(shape.rope_theta, theta);
        assert_eq!((shape.dtype, shape.norm_spread), (DType::Bf16, 0.0));
    }
    assert_eq!(RandomCheckpoint::shape("llama-2-70b"), None);
}

#[test]
fn config_is_read_back() {
    let random = RandomCheckpoint {
        d_model: 32,
        ffn: 48,
        n_layers: 2,
        attn: AttnShape {
            heads: 6,
            kv_heads: 3,
            head_dim: 10,
        },
        vocab_size: 700,
        rope_theta: 123456.0,
        max_positions: 99,
        rms_norm_eps: 3e-6,
        tie_word_embeddings: true,
        attention_bias: true,
        mlp_bias: true,
        dtype: DType::F16,
        ..RandomCheckpoint::tiny()
    };
    let expected = LlamaConfig {
        model_type: ModelType::Llama,
        vocab_size: 700,
        d_model: 32,
        ffn: 48,
        n_layers: 2,
        attn: random.attn,
        rms_norm_eps: 3e-6,
        rope: Rope {
            theta: 123456.0,
            scaling: RopeScaling::None,
        },
        spec: Spec::llama(&random.attn, 2),
        qkv_bias: true,
        o_bias: true,
        mlp_bias: true,
        tie_word_embeddings: true,
        max_positions: 99,
        bos: vec![1],
        eos: vec![2],
        dtype: Some(DType::F16),
    };
    let dir = written(&random);
    assert_eq!(LlamaConfig::open(dir.path()).unwrap(), expected);

    let plain = LlamaConfig {
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        tie_word_embeddings: false,
        dtype: Some(DType::Bf16),
        ..expected
    };
    let dir = written(&RandomCheckpoint {
        tie_word_embeddings: false,
        attention_bias: false,
        mlp_bias: false,
        dtype: DType::Bf16,
        ..random
    });
    assert_eq!(LlamaConfig::open(dir.path()).unwrap(), plain);
}

/// The tensors of transformers' LLaMA for the shape.
fn expected_tensors(c: &RandomCheckpoint) -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::from([
        (
            "model.embed_tokens.weight".to_owned(),
            vec![c.vocab_size, c.d_model],
        ),
        ("model.norm.weight".to_owned(), vec![c.d_model]),
    ]);
    if !c.tie_word_embeddings {
        shapes.insert("lm_head.weight".to_owned(), vec![c.vocab_size, c.d_model]);
    }
    let q = c.attn.heads * c.attn.head_dim;
    let kv = c.attn.kv_heads * c.attn.head_dim;
    for layer in 0..c.n_layers {
        let full = |name: &str| format!("model.layers.{layer}.{name}");
        shapes.insert(full("input_layernorm.weight"), vec![c.d_model]);
        shapes.insert(full("post_attention_layernorm.weight"), vec![c.d_model]);
        for (name, out, inputs, has_bias) in [
            ("self_attn.q_proj", q, c.d_model, c.attention_bias),
            ("self_attn.k_proj", kv, c.d_model, c.attention_bias),
            ("self_attn.v_proj", kv, c.d_model, c.attention_bias),
            ("self_attn.o_proj", c.d_model, q, c.attention_bias),
            ("mlp.gate_proj", c.ffn, c.d_model, c.mlp_bias),
            ("mlp.up_proj", c.ffn, c.d_model, c.mlp_bias),
            ("mlp.down_proj", c.d_model, c.ffn, c.mlp_bias),
        ] {
            shapes.insert(full(&format!("{name}.weight")), vec![out, inputs]);
            if has_bias {
                shapes.insert(full(&format!("{name}.bias")), vec![out]);
            }
        }
    }
    shapes
}

#[test]
fn tensors_are_read_back() {
    for (dtype, name) in DTYPES {
        for (sharded, tied, attention_bias, mlp_bias) in [
            (false, false, false, true),
            (true, true, true, false),
            (true, false, false, false),
        ] {
            let random = RandomCheckpoint {
                dtype,
                sharded,
                tie_word_embeddings: tied,
                attention_bias,
                mlp_bias,
                ..RandomCheckpoint::tiny()
            };
            let dir = written(&random);
            let checkpoint = Checkpoint::open(dir.path()).unwrap();
            let mut found = BTreeMap::new();
            for (tensor, info) in checkpoint.tensors() {
                assert_eq!(info.dtype, name);
                found.insert(tensor.to_owned(), info.shape.to_vec());
            }
            assert_eq!(found, expected_tensors(&random));
            let n_parameters = LlamaConfig::open(dir.path()).unwrap().n_parameters();
            assert_eq!(checkpoint.total_bytes(), n_parameters * dtype.size() as u64);

            let mut names = vec!["config.json", "tokenizer.json", "tokenizer_config.json"];
            names.extend(if sharded {
                &[
                    "model-00001-of-00004.safetensors",
                    "model-00002-of-00004.safetensors",
                    "model-00003-of-00004.safetensors",
                    "model-00004-of-00004.safetensors",
                    "model.safetensors.index.json",
                ][..]
            } else {
                &["model.safetensors"]
            });
            names.sort_unstable();
            let files = files(dir.path());
            assert_eq!(files.keys().collect::<Vec<_>>(), names);
            let tokenizer = fs::read(tokenizer().join("tokenizer.json")).unwrap();
            assert!(files["tokenizer.json"] == tokenizer);
        }
    }
}

#[test]
fn spreads() {
    let random = RandomCheckpoint {
        attention_bias: true,
        mlp_bias: true,
        ..RandomCheckpoint::tiny()
    };
    let dir = written(&random);
    for (name, shape) in expected_tensors(&random) {
        let (mean, std) = match shape[..] {
            _ if name == "model.embed_tokens.weight" => (0.0, 1.0),
            [_, inputs] => (0.0, (inputs as f64).powf(-0.5)),
            _ if name.ends_with("norm.weight") => (1.0, 0.1),
            _ => (0.0, 0.5),
        };
        assert_distribution(&values(dir.path(), &name), mean, std);
    }

    let ones = written(&RandomCheckpoint {
        norm_spread: 0.0,
        ..random
    });
    for name in ["model.norm", "model.layers.2.post_attention_layernorm"] {
        let values = values(ones.path(), &format!("{name}.weight"));
        assert_eq!(values, vec![1.0; 64]);
    }
}

/// The distribution function of a sum of eight uniform numbers in 0..1 (Irwin, Hall, 1927).
fn irwin_hall(x: f64) -> f64 {
    let binomials = [1.0, 8.0, 28.0, 56.0, 70.0, 56.0, 28.0, 8.0, 1.0];
    let terms = binomials.iter().enumerate().map(|(k, binomial)| {
        let sign = if k % 2 == 0 { 1.0 } else { -1.0 };
        sign * binomial * (x - k as f64).max(0.0).powi(8)
    });
    terms.sum::<f64>() / 40320.0
}

/// Half a million values of standard deviation 1, and each against its neighbours.
#[test]
fn values_are_as_documented_and_independent() {
    let dir = written(&RandomCheckpoint {
        vocab_size: 8192,
        tie_word_embeddings: true,
        ..RandomCheckpoint::tiny()
    });
    let values = values(dir.path(), "model.embed_tokens.weight");
    let n = values.len() as f64;
    for tenth in -40..=40 {
        let limit = f64::from(tenth) / 10.0;
        let expected = irwin_hall(4.0 + limit * (8.0f64 / 12.0).sqrt());
        let below = values.iter().filter(|&&v| f64::from(v) < limit).count() as f64 / n;
        let error = (expected * (1.0 - expected) / n).sqrt();
        assert!(
            (below - expected).abs() < 5.0 * error + 1.0 / n,
            "{below} below {limit}, expected {expected}"
        );
    }
    for lag in (0..18).map(|power| 1 << power) {
        let pairs = values.iter().zip(&values[lag..]);
        let correlation = pairs.map(|(&a, &b)| f64::from(a * b)).sum::<f64>() / n;
        assert!(correlation.abs() < 5.0 / n.sqrt(), "{correlation} at {lag}");
    }
}

#[test]
fn tensors_differ() {
    let dir = written(&RandomCheckpoint::tiny());
    let gate = values(dir.path(), "model.layers.0.mlp.gate_proj.weight");
    for other in ["0.mlp.up_proj", "1.mlp.gate_proj"] {
        let other = values(dir.path(), &format!("model.layers.{other}.weight"));
        let products = gate.iter().zip(&other).map(|(&a, &b)| f64::from(a * b));
        // The values have standard deviation 1/8.
        let correlation = products.sum::<f64>() * 64.0 / gate.len() as f64;
        assert!(correlation.abs() < 5.0 / (gate.len() as f64).sqrt());
    }
}

#[test]
fn seed_decides() {
    let random = RandomCheckpoint {
        sharded: true,
        mlp_bias: true,
        dtype: DType::Bf16,
        ..RandomCheckpoint::tiny()
    };
    let first = files(written(&random).path());
    assert!(first == files(written(&random).path()));

    let other = files(written(&RandomCheckpoint { seed: 1, ..random }).path());
    assert!(first.keys().eq(other.keys()));
    for (name, bytes) in &first {
        let same = bytes == &other[name];
        assert_eq!(same, name.ends_with(".json"), "{name}");
    }
}

/// Large enough to generate a tensor in several pieces.
#[test]
fn thread_count_does_not_matter() {
    let random = RandomCheckpoint {
        vocab_size: 5000,
        ..RandomCheckpoint::tiny()
    };
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| files(written(&random).path()))
    };
    let one = with_threads(1);
    for threads in [2, 3, 7] {
        assert!(one == with_threads(threads), "{threads} threads");
    }
}

/// A value does not depend on the dtype, up to rounding, or on the file that holds it.
#[test]
fn same_values_in_any_files() {
    let random = RandomCheckpoint {
        attention_bias: true,
        ..RandomCheckpoint::tiny()
    };
    let exact = written(&random);
    for (dtype, _) in DTYPES {
        let dir = written(&RandomCheckpoint {
            dtype,
            sharded: true,
            ..random.clone()
        });
        for name in expected_tensors(&random).keys() {
            let mut expected = values(exact.path(), name);
            for value in &mut expected {
                *value = match dtype {
                    DType::F32 => *value,
                    DType::Bf16 => bf16::from_f32(*value).to_f32(),
                    DType::F16 => f16::from_f32(*value).to_f32(),
                };
            }
            assert!(values(dir.path(), name) == expected, "{name} in {dtype}");
        }
    }
}

#[test]
fn folder_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("made/on/the/way");
    for (seed, sharded) in [(0, false), (1, true), (2, false), (3, true)] {
        let random = RandomCheckpoint {
            seed,
            sharded,
            ..RandomCheckpoint::tiny()
        };
        random.write(&model, &tokenizer()).unwrap();
        let fresh = written(&random);
        for name in ["lm_head.weight", "model.layers.0.mlp.up_proj.weight"] {
            assert!(values(&model, name) == values(fresh.path(), name));
        }
    }
}

// Failures.

#[test]
fn refused_shape_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let random = RandomCheckpoint {
        attn: AttnShape {
            heads: 4,
            kv_heads: 3,
            head_dim: 16,
        },
        ..RandomCheckpoint::tiny()
    };
    let error = random.write(&model, &tokenizer()).unwrap_err();
    assert!(
        matches!(&error, LlamaError::ConfigField { field, .. } if field == "num_key_value_heads")
    );
    assert!(!model.exists());
}

#[test]
fn no_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let error = RandomCheckpoint::tiny().write(&model, dir.path());
    let expected = dir.path().join("tokenizer.json");
    assert!(matches!(error, Err(LlamaError::Read { path, .. }) if path == expected));
    assert!(!model.join("config.json").exists());
}

#[test]
fn tokenizer_without_its_config() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let model = dir.path().join("model");
    RandomCheckpoint::tiny().write(&model, dir.path()).unwrap();
    let names: Vec<_> = files(&model).into_keys().collect();
    assert_eq!(
        names,
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
}

#[test]
fn unwritable() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir_all(dir.path().join("model/model.safetensors/x")).unwrap();
    for (model, file) in [
        ("file", "file"),
        ("file/model", "file/model"),
        ("model", "model/model.safetensors"),
    ] {
        let result = RandomCheckpoint::tiny().write(&dir.path().join(model), &tokenizer());
        let error = result.unwrap_err();
        let file = dir.path().join(file);
        assert!(
            matches!(&error, LlamaError::Write { path, .. } if *path == file),
            "{error}"
        );
        let start = format!("cannot write {}: ", file.display());
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}

/// A checkpoint of each family loads, and computes numbers.
#[test]
fn families() {
    for family in ModelType::ALL {
        let random = RandomCheckpoint {
            family,
            // A period of the longest pattern of layers.
            n_layers: 6,
            ..RandomCheckpoint::tiny()
        };
        let dir = written(&random);
        let config = LlamaConfig::open(dir.path()).unwrap();
        assert_eq!(config.model_type, family);
        let model = Llama::open(selfie_testkit::llama::cpu(2), dir.path()).unwrap();
        let trace = Trace::new(&model, &[1, 17, 230, 4]).unwrap();
        let name = family.name();
        let logits = &trace.logits;
        assert_eq!(logits.len(), 4 * random.vocab_size, "{name}");
        let (mean, std) = moments(logits);
        assert!(mean.is_finite() && std > 0.01, "{name}: {mean}, {std}");
        let norm = values(dir.path(), "model.norm.weight");
        let around = if config.spec.one_plus_weight {
            0.0
        } else {
            1.0
        };
        assert_distribution(&norm, around, 0.1);
    }
}
