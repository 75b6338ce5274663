//! Which files of a folder are read.

use std::fs;

use selfie_llama::{
    Checkpoint, GenerationConfig, LlamaConfig, LlamaError, Note, ShardError, Tokenizer,
};

use crate::{INDEX, SINGLE, folder, message, open, refusal, vector_file};

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

const ADAPTER: (&str, &[u8]) = (
    "adapter_config.json",
    br#"{"base_model_name_or_path": "org/base", "peft_type": "LORA", "lora_alpha": NaN}"#,
);

#[test]
fn an_adapter_is_named() {
    let lora = vector_file(&[1.0]);
    for files in [
        &[ADAPTER, ("adapter_model.safetensors", &lora)][..],
        &[ADAPTER, ("adapter_model.bin", b"")],
        &[ADAPTER],
    ] {
        let (error, said) = refusal(files);
        assert!(matches!(error, LlamaError::OnlyAdapter { .. }));
        assert_eq!(
            said,
            "DIR holds only an adapter of org/base: give the folder of that model, or write both as one model in \
             Python: peft.AutoPeftModelForCausalLM.from_pretrained(\"DIR\").merge_and_unload()\
             .save_pretrained(new_folder)"
        );
        // config.json is read first, and PEFT writes none.
        let dir = folder(files);
        let error = LlamaConfig::open(dir.path()).unwrap_err();
        assert_eq!(message(&error, dir.path()), said);
    }
    // Beside weights the adapter is ignored, with a note; its own file does not count as weights.
    for weights in [SINGLE, "other.safetensors"] {
        let model = vector_file(&[2.0]);
        let dir = folder(&[
            ADAPTER,
            ("adapter_model.safetensors", &lora),
            (weights, &model),
        ]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(
            checkpoint.tensor("a", &[1]).unwrap().vector().unwrap(),
            [2.0]
        );
        let file = dir.path().join("adapter_config.json");
        assert_eq!(
            checkpoint.notes(),
            [Note::AdapterIgnored { file: file.clone() }]
        );
        let text = checkpoint.notes()[0].to_string();
        assert!(
            text.starts_with(&file.display().to_string()) && text.contains("left out"),
            "{text}"
        );
    }
    assert!(open(&[(SINGLE, &lora)]).notes().is_empty());
}

/// The cache of the Hugging Face hub, in the layout of `huggingface_hub`.
#[test]
fn a_folder_of_the_cache_is_its_main_snapshot() {
    let (one, two) = (vector_file(&[1.0]), vector_file(&[2.0]));
    let snapshots = [
        ("snapshots/abc/model.safetensors", &one[..]),
        ("snapshots/def/model.safetensors", &two),
    ];
    let value = |files: &[(&str, &[u8])]| {
        let dir = folder(files);
        let checkpoint = Checkpoint::open(dir.path())?;
        checkpoint
            .tensor("a", &[1])?
            .vector()
            .map(|values| values[0])
    };
    let with = |file| [&snapshots[..], &[file]].concat();
    assert_eq!(value(&with(("refs/main", b"def"))).unwrap(), 2.0);
    assert_eq!(value(&with(("refs/main", b"abc\n"))).unwrap(), 1.0);
    assert_eq!(value(&snapshots[..1]).unwrap(), 1.0);
    // A folder that is itself a model stays one.
    let model = vector_file(&[3.0]);
    let files = [
        &with((SINGLE, &model))[..],
        &[("config.json", b"{}"), ("refs/main", b"abc")],
    ]
    .concat();
    assert_eq!(value(&files).unwrap(), 3.0);
}

#[test]
fn a_folder_of_the_cache_that_does_not_say_which_lists_its_snapshots() {
    let file = vector_file(&[1.0]);
    let snapshots = [
        ("snapshots/abc/model.safetensors", &file[..]),
        ("snapshots/def/model.safetensors", &file),
    ];
    let says = |files: &[(&str, &[u8])], expected: &str| {
        let dir = folder(files);
        let config = LlamaConfig::open(dir.path()).unwrap_err();
        assert!(matches!(config, LlamaError::NoSnapshot { .. }));
        let tokenizer = Tokenizer::open(dir.path()).err().unwrap();
        let generation = GenerationConfig::open(dir.path()).unwrap_err();
        for error in [&refusal(files).0, &config, &tokenizer, &generation] {
            assert!(matches!(error, LlamaError::NoSnapshot { .. }));
        }
        assert_eq!(message(&config, dir.path()), expected);
    };
    says(
        &snapshots,
        "DIR is a folder of the Hugging Face cache, and has no refs/main; give one of DIR/snapshots/abc, \
         DIR/snapshots/def",
    );
    for main in ["xyz", "../snapshots/abc"] {
        let expected = format!(
            "DIR is a folder of the Hugging Face cache, and its refs/main names \"{main}\", which is not in \
             snapshots/; give one of DIR/snapshots/abc, DIR/snapshots/def"
        );
        says(
            &[&snapshots[..], &[("refs/main", main.as_bytes())]].concat(),
            &expected,
        );
    }
    let dir = folder(&[("refs/main", b"abc")]);
    std::fs::create_dir(dir.path().join("snapshots")).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    assert!(
        message(&error, dir.path()).ends_with("give one of DIR/snapshots/ once it is downloaded")
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
            "give the path of this file itself, instead of its folder's",
        ),
    ];
    for (name, advice) in cases {
        let (error, message) = refusal(&[("config.json", b"{}"), (name, b"x")]);
        assert!(matches!(error, LlamaError::WeightFormat { .. }));
        let expected = format!("DIR/{name} is not a safetensors file; {advice}");
        assert_eq!(message, expected);
        // Of two formats, the one that can be converted is named.
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
    assert!(matches!(
        error,
        LlamaError::Shard(ShardError::Truncated { .. })
    ));
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
