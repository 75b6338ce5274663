//! What `config.json` says about a family, and checkpoints with other parts beside the language model.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use selfie_kernels::{Activation, DType, LogitMap};
use selfie_llama::{
    Checkpoint, EmbedScale, LayerRope, Llama, LlamaConfig, Norms, Note, QkNorm, Rope, RopeScaling,
};
use selfie_testkit::llama::{agree, cpu, dir};
use serde_json::{Value, json};

fn read(config: Value) -> LlamaConfig {
    LlamaConfig::parse(&config.to_string(), Path::new("config.json")).unwrap()
}

fn windows(config: &LlamaConfig) -> Vec<Option<usize>> {
    config.spec.layers.iter().map(|l| l.window).collect()
}

fn ropes(config: &LlamaConfig) -> Vec<LayerRope> {
    config.spec.layers.iter().map(|l| l.rope).collect()
}

/// The fields in `text_config` of google/gemma-3-4b-it; the other fields come from transformers' defaults.
fn gemma3_4b() -> Value {
    json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "eos_token_id": [1, 106], "torch_dtype": "bfloat16",
        "text_config": {
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
    })
}

#[test]
fn the_text_of_a_multimodal_model() {
    let config = read(gemma3_4b());
    let attn = config.attn;
    assert_eq!((attn.heads, attn.kv_heads, attn.head_dim), (8, 4, 256));
    assert_eq!(
        (config.vocab_size, config.max_positions),
        (262_208, 131_072)
    );
    assert_eq!(
        (config.n_layers, config.eos.as_slice()),
        (34, &[1, 106][..])
    );
    assert_eq!(config.dtype, Some(DType::Bf16));
    assert!(config.tie_word_embeddings);
    let spec = &config.spec;
    assert_eq!(
        (spec.norms, spec.qk_norm),
        (Norms::Around, Some(QkNorm::Heads))
    );
    assert_eq!(spec.activation, Activation::GeluTanh);
    assert_eq!(spec.embed_scale, EmbedScale::RootOfWidth);
    assert_eq!(spec.attn_scale, 1.0 / 16.0);
    assert!(spec.one_plus_weight);
    let global = Rope {
        theta: 1e6,
        scaling: RopeScaling::Linear { factor: 8.0 },
    };
    let local = Rope {
        theta: 1e4,
        scaling: RopeScaling::None,
    };
    assert_eq!((&config.rope, &spec.local_rope), (&global, &Some(local)));
    // Five layers of six slide, and rotate with the local frequencies.
    for (l, layer) in spec.layers.iter().enumerate() {
        let slides = l % 6 != 5;
        assert_eq!(layer.window, slides.then_some(1024), "layer {l}");
        assert_eq!(layer.rope == LayerRope::Local, slides, "layer {l}");
    }
}

/// transformers 5 writes the rotations of both types of layers into `rope_parameters`.
#[test]
fn nested_rope_parameters() {
    let old = read(gemma3_4b());
    let mut new = gemma3_4b();
    let text = new["text_config"].as_object_mut().unwrap();
    text.remove("rope_scaling");
    text.insert(
        "rope_parameters".into(),
        json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }),
    );
    assert_eq!(read(new), old);
}

#[test]
fn defaults_of_layers() {
    let small = |patch: Value| {
        let mut config = json!({
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5,
            "num_attention_heads": 4, "vocab_size": 100,
        });
        let fields = config.as_object_mut().unwrap();
        fields.extend(patch.as_object().unwrap().clone());
        read(config)
    };
    let none = [None; 5];
    let w = Some(4096);
    assert_eq!(windows(&small(json!({"model_type": "mistral"}))), [w; 5]);
    assert_eq!(windows(&small(json!({"model_type": "ministral"}))), [w; 5]);
    assert_eq!(windows(&small(json!({"model_type": "qwen3"}))), none);
    assert_eq!(windows(&small(json!({"model_type": "olmo2"}))), none);
    assert_eq!(windows(&small(json!({"model_type": "phi3"}))), none);
    assert_eq!(windows(&small(json!({"model_type": "granite"}))), none);
    let qwen = json!({"model_type": "qwen2", "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows(&small(qwen)), [None, None, None, w, w]);
    let gemma2 = small(json!({"model_type": "gemma2"}));
    assert_eq!(windows(&gemma2), [w, None, w, None, w]);
    assert_eq!(gemma2.spec.attn_softcap, Some(50.0));
    let cap = LogitMap {
        scale: 1.0,
        softcap: Some(30.0),
    };
    assert_eq!(gemma2.spec.logits, cap);
    let uncapped = json!({"model_type": "gemma2", "attn_logit_softcapping": null, "final_logit_softcapping": null});
    let uncapped = small(uncapped).spec;
    assert_eq!(
        (uncapped.attn_softcap, uncapped.logits),
        (None, LogitMap::PLAIN)
    );

    let smollm = small(json!({"model_type": "smollm3"}));
    let (on, off) = (LayerRope::Global, LayerRope::Off);
    assert_eq!(ropes(&smollm), [on, on, on, off, on]);
    assert_eq!(windows(&smollm), none);
    let olmo3 = small(json!({"model_type": "olmo3"}));
    assert_eq!(windows(&olmo3), [w, w, w, None, w]);
    let (global, local) = (LayerRope::Global, LayerRope::Local);
    assert_eq!(ropes(&olmo3), [local, local, local, global, local]);
    assert_eq!(olmo3.rms_norm_eps, 1e-5);

    let phi = small(json!({"model_type": "phi3", "head_dim": 128, "partial_rotary_factor": 0.75}));
    assert_eq!(phi.spec.rotated, 96);
    let granite = small(json!({"model_type": "granite", "logits_scaling": 8.0}));
    assert_eq!(granite.spec.logits.scale, 0.125);
    assert_eq!(granite.spec.attn_scale, 1.0);
}

/// A golden Gemma 3 as part of a multimodal checkpoint, in both layouts that transformers has used.
#[test]
fn tensors_of_a_multimodal_model() {
    let golden = dir("families/gemma3");
    for prefix in ["language_model.model.", "model.language_model."] {
        let folder = tempfile::tempdir().unwrap();
        let text: Value =
            serde_json::from_slice(&fs::read(golden.join("config.json")).unwrap()).unwrap();
        let config = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": text,
        });
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        rename_tensors(
            &golden.join("model.safetensors"),
            &folder.path().join("model.safetensors"),
            prefix,
        );
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert!(
            matches!(checkpoint.notes(), [Note::TextOnly { .. }]),
            "{:?}",
            checkpoint.notes()
        );
        let config = LlamaConfig::open(folder.path()).unwrap();
        let model = Llama::load(cpu(2), config, &checkpoint, Some(DType::F32), |_| {}).unwrap();
        agree::states(&model, "families/gemma3");
        let mlp = model.mlp(0).unwrap();
        let name = format!("{prefix}layers.0.mlp.gate_proj.weight");
        assert_eq!(mlp.tensors[0].name, name);
    }
}

/// Copies a safetensors file, replacing the prefix `model.` in its header.
fn rename_tensors(from: &Path, to: &Path, prefix: &str) {
    let bytes = fs::read(from).unwrap();
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&rest[..length]).unwrap();
    let renamed = header.as_object().unwrap().iter().map(|(name, info)| {
        let name = match name.strip_prefix("model.") {
            Some(rest) => format!("{prefix}{rest}"),
            None => name.clone(),
        };
        (name, info.clone())
    });
    let header = Value::Object(renamed.collect()).to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&rest[length..]);
    fs::write(to, out).unwrap();
}

/// The MLP of fused projections is read and restored bit for bit, under the names of its checkpoint.
#[test]
fn a_fused_mlp() {
    let mut model = Llama::open(cpu(2), &dir("families/phi3")).unwrap();
    let before = model.mlp(1).unwrap();
    let names: Vec<&str> = before.tensors.iter().map(|t| t.name.as_str()).collect();
    let layer = "model.layers.1.mlp";
    assert_eq!(
        names,
        [
            format!("{layer}.gate_up_proj.weight"),
            format!("{layer}.down_proj.weight")
        ]
    );
    assert_eq!(before.tensors[0].shape, [2 * 184, 64]);
    let mut values = before.to_f32();
    values.gate_up.iter_mut().for_each(|w| *w += 1.0);
    let edited = before.with_values(&values);
    model.set_mlp(&edited).unwrap();
    assert_eq!(model.mlp(1).unwrap(), edited);
    assert_ne!(edited, before);
    model.set_mlp(&before).unwrap();
    assert_eq!(model.mlp(1).unwrap(), before);
}

/// The tensors of a configuration are those that transformers saved for it: names and shapes.
#[test]
fn tensors_of_a_configuration() {
    let mut families = fs::read_dir(dir("families"))
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.is_dir())
        .collect::<Vec<_>>();
    families.push(dir("llama2-mha"));
    families.push(dir("llama3-gqa"));
    assert!(families.len() > 10, "{families:?}");
    for path in families {
        let config = LlamaConfig::open(&path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let saved = checkpoint.tensors();
        let saved: BTreeMap<_, _> = saved
            .map(|(name, info)| (name.to_owned(), info.shape.to_vec()))
            .collect();
        let expected = config.tensors().into_iter();
        let expected: BTreeMap<_, _> = expected.map(|t| (t.name, t.shape)).collect();
        assert_eq!(expected, saved, "{}", path.display());
    }
}
