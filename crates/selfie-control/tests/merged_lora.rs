//! A checkpoint with a low-rank adapter in it reads as peft's model with the adapter beside it does.

use std::fs;
use std::path::Path;

use selfie_control::export;
use selfie_llama::{Checkpoint, Llama, Lora};
use selfie_testkit::llama::{assert_close, cpu, floats, ids};
use selfie_testkit::readers::{Built, Tensors, reference};

/// The folder with its weights in f32, so that the sums are not rounded.
fn in_f32(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let checkpoint = Checkpoint::open(from).unwrap();
    let mut tensors = Tensors::default();
    for (name, info) in checkpoint.tensors() {
        let values = checkpoint.tensor(name, info.shape).unwrap().vector();
        tensors.add(name, info.shape, values.unwrap());
    }
    tensors.write(&to.join("model.safetensors"), None);
}

#[test]
fn a_merged_oracle_reads_as_the_one_with_its_adapter() {
    let reference = reference();
    for built in Built::all(&reference) {
        let case = &built.case["oracle"];
        let dir = built.write_oracle();
        let folder = tempfile::tempdir().unwrap();
        let (plain, merged) = (folder.path().join("f32"), folder.path().join("merged"));
        in_f32(&built.model_dir(), &plain);
        let lora = Lora::open(&dir).unwrap();
        let exported = export(&plain, &[], Some(&lora), &merged).unwrap();
        assert_eq!(exported.rewritten, ["model.safetensors"]);
        assert!(!exported.other_dtype);

        let reader = Llama::open(cpu(2), &merged).unwrap();
        let row = built.ask_oracle(&dir, &reader);
        assert_eq!(row.new_ids, ids(&case["new_ids"]), "{}", built.name);
        assert_close(&built.name, &row.logprobs, &floats(&case["logprobs"]));
        assert_ne!(
            row.new_ids,
            ids(&case["without"]["new_ids"]),
            "{}",
            built.name
        );
    }
}
