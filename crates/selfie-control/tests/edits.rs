//! Edits as files: applied, stacked, reverted and exported to the bit.

use std::fs;

use selfie_control::{ControlError, Edit, EditStack, Supervised, export};
use selfie_kernels::{Cpu, DType};
use selfie_llama::{Llama, Tokenizer};
use selfie_testkit::control::{
    GOLDEN, dir, golden, keep_on, load, load_dir, logits, supervised_case,
};

/// An edit of the embeddings at `layer`, made on the current model, which stays as it was.
fn edit(model: &mut Llama<Cpu>, tokenizer: &Tokenizer, name: &str, layer: usize) -> Edit {
    let case = &golden(name)["supervised"][0];
    let control = Supervised {
        layer,
        ..supervised_case(case)
    };
    let before = model.mlp(layer - 1).unwrap();
    let outcome = control.run(model, tokenizer, &mut keep_on).unwrap();
    assert!(model.mlp(layer - 1).unwrap() == outcome.edit.mlp);
    model.set_mlp(&before).unwrap();
    outcome.edit
}

#[test]
fn a_file_brings_an_edit_back_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edit.safetensors");
    for (name, dtype) in [
        ("llama2-mha", None),
        ("llama2-mha", Some(DType::F16)),
        ("llama3-gqa", None),
        ("llama3-gqa", Some(DType::F32)),
        // The checkpoint is in bf16, which has the same size.
        ("llama3-gqa", Some(DType::F16)),
    ] {
        let (mut model, tokenizer) = load(name, dtype);
        let edit = edit(&mut model, &tokenizer, name, 2);
        // Once more over the older file, to replace it.
        edit.save(&path).unwrap();
        let first = fs::read(&path).unwrap();
        let again = Edit::open(&path).unwrap();
        assert_eq!(again.meta, edit.meta);
        assert!(again == edit, "other tensors");
        assert_eq!(again.dtype(), model.dtype());
        again.save(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        assert_eq!(again.meta.method, "supervised");
        assert_eq!((again.meta.layer, again.mlp.layer), (2, 1));
        assert_eq!(again.meta.updates, 5);
        assert!(again.meta.tool.starts_with("selfie-control 0."));
        let rate = &again.meta.options["training"]["lr"];
        assert_eq!(rate, 3e-4);
        let names: Vec<&String> = again.meta.base_sha256.keys().collect();
        let tensors = ["down_proj", "gate_proj", "up_proj"];
        assert_eq!(
            names,
            tensors
                .map(|t| format!("model.layers.1.mlp.{t}.weight"))
                .iter()
                .collect::<Vec<_>>()
        );
    }
}

#[test]
fn a_hash_is_that_of_the_files_tensor() {
    // sha256 of the 172 x 64 f32 values of model.layers.1.mlp.gate_proj.weight, by Python's hashlib:
    // hashlib.sha256(load_file("model.safetensors")[name].numpy().tobytes()).hexdigest()
    let (mut model, tokenizer) = load("llama2-mha", None);
    let edit = edit(&mut model, &tokenizer, "llama2-mha", 2);
    assert_eq!(
        edit.meta.base_sha256["model.layers.1.mlp.gate_proj.weight"],
        "44fd2a95ac36e446d85bda3719ee8966a3c8f5f3efaa2582406390aeeb3d5621"
    );
}

#[test]
fn edits_stack_and_revert() {
    for name in GOLDEN {
        let (mut model, tokenizer) = load(name, None);
        let prompt = tokenizer.encode("a type of drink").unwrap();
        let unedited = logits(&model, &prompt);
        let untouched = [model.mlp(0).unwrap(), model.mlp(1).unwrap()];

        let low = edit(&mut model, &tokenizer, name, 1);
        let mut stack = EditStack::new();
        stack.apply(&mut model, "low", &low).unwrap();
        let with_low = logits(&model, &prompt);
        let high = edit(&mut model, &tokenizer, name, 2);
        stack.apply(&mut model, "high", &high).unwrap();
        let again = edit(&mut model, &tokenizer, name, 1);
        stack.apply(&mut model, "again", &again).unwrap();
        assert_eq!(stack.names().collect::<Vec<_>>(), ["low", "high", "again"]);
        assert!(with_low != unedited);

        // `again` was made on top of `low`, so `low` cannot be reverted yet; `high` is of another layer.
        let refused = stack.revert(&mut model, 0).unwrap_err().to_string();
        assert!(
            refused.contains("low") && refused.contains("again"),
            "{refused}"
        );
        stack.revert(&mut model, 1).unwrap();
        assert!(model.mlp(1).unwrap() == untouched[1]);
        stack.revert(&mut model, 1).unwrap();
        assert!(logits(&model, &prompt) == with_low);
        stack.revert(&mut model, 0).unwrap();
        assert!(model.mlp(0).unwrap() == untouched[0]);
        assert!(logits(&model, &prompt) == unedited);
        let none = stack.revert(&mut model, 0).unwrap_err();
        assert!(matches!(
            none,
            ControlError::NotApplied {
                index: 0,
                applied: 0
            }
        ));

        // An edit made on top of another does not apply to the plain model, and changes nothing.
        let refused = stack.apply(&mut model, "again", &again).unwrap_err();
        let ControlError::BaseHash {
            found,
            expected,
            tensor,
            ..
        } = refused
        else {
            panic!("{refused}");
        };
        assert_eq!(expected, again.meta.base_sha256[&tensor]);
        assert_eq!(found, low.meta.base_sha256[&tensor]);
        assert!(logits(&model, &prompt) == unedited);
    }
}

#[test]
fn foreign_changes_are_not_reverted() {
    let (mut model, tokenizer) = load("llama2-mha", None);
    let edit = edit(&mut model, &tokenizer, "llama2-mha", 2);
    let before = model.mlp(1).unwrap();
    let mut stack = EditStack::new();
    stack.apply(&mut model, "edit", &edit).unwrap();
    model.set_mlp(&before).unwrap();
    let refused = stack.revert(&mut model, 0).unwrap_err();
    assert!(
        matches!(refused, ControlError::ChangedSince { .. }),
        "{refused}"
    );
}

#[test]
fn an_edit_of_another_model_or_dtype_is_refused() {
    let (mut model, tokenizer) = load("llama2-mha", None);
    let edit = edit(&mut model, &tokenizer, "llama2-mha", 2);
    let mut stack = EditStack::new();
    let mut says = |mut model: Llama<Cpu>, parts: &[&str]| {
        let message = stack.apply(&mut model, "E", &edit).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    says(load("llama3-gqa", None).0, &["E", "n_layers 4", "5"]);
    says(
        load("llama2-mha", Some(DType::Bf16)).0,
        &["E", "f32", "bf16", "--dtype f32"],
    );
}

#[test]
fn files_that_are_not_edits_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edit.safetensors");
    let says = |parts: &[&str]| {
        let message = Edit::open(&path).unwrap_err().to_string();
        assert!(message.contains("edit.safetensors"), "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    says(&["cannot read"]);
    fs::write(&path, "not safetensors at all").unwrap();
    says(&["not a Selfie edit"]);
    fs::copy(dir("llama2-mha").join("model.safetensors"), &path).unwrap();
    says(&["not a Selfie edit", "selfie_edit"]);
    let (mut model, tokenizer) = load("llama2-mha", None);
    let mut edit = edit(&mut model, &tokenizer, "llama2-mha", 2);
    edit.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    says(&["not a Selfie edit"]);
    edit.mlp.tensors.pop();
    edit.save(&path).unwrap();
    says(&["2 tensors", "3 base hashes"]);
}

/// An exported checkpoint is the model with the edits.
#[test]
fn an_export_opens_as_the_edited_model() {
    let folder = tempfile::tempdir().unwrap();
    for (name, dtype) in [
        ("llama2-mha", None),
        ("llama3-gqa", None),
        ("llama3-gqa", Some(DType::F32)),
        // The checkpoint is in bf16, which has the same size.
        ("llama3-gqa", Some(DType::F16)),
    ] {
        let (mut model, tokenizer) = load(name, dtype);
        let prompt = tokenizer.encode("a type of drink").unwrap();
        let mut stack = EditStack::new();
        let mut edits = Vec::new();
        for layer in [2, 1, 2] {
            let edit = edit(&mut model, &tokenizer, name, layer);
            stack.apply(&mut model, "edit", &edit).unwrap();
            edits.push((format!("edit of {layer}"), edit));
        }
        let out = folder.path().join(format!("{name}-{dtype:?}"));
        let exported = export(&dir(name), &edits, None, &out).unwrap();
        assert_eq!(exported.other_dtype, dtype.is_some());
        let again = load_dir(&out, dtype, 2);
        assert!(again.mlp(1).unwrap() == model.mlp(1).unwrap());
        assert!(logits(&again, &prompt) == logits(&model, &prompt));

        let count = |dir: &std::path::Path| fs::read_dir(dir).unwrap().count();
        // golden.safetensors is not part of the checkpoint, and its extension is that of weights.
        assert_eq!(count(&out), count(&dir(name)) - 1);
        if name == "llama3-gqa" {
            assert!(
                exported.rewritten.len() < exported.linked.len(),
                "{exported:?}"
            );
            let index = fs::read_to_string(out.join("model.safetensors.index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_str(&index).unwrap();
            let total = selfie_llama::Checkpoint::open(&out).unwrap().total_bytes();
            assert_eq!(index["metadata"]["total_size"], total);
        }
        let refused = export(&dir(name), &edits, None, &out).unwrap_err();
        assert!(matches!(refused, ControlError::FolderExists { .. }));
        let out = folder.path().join("wrong order");
        edits.reverse();
        let refused = export(&dir(name), &edits, None, &out).unwrap_err();
        assert!(
            matches!(refused, ControlError::BaseHash { .. }),
            "{refused}"
        );
        assert!(!out.exists());
    }
    // No temporary folder is left.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}
