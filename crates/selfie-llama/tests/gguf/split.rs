//! Split GGUF files.

use std::fs;
use std::path::PathBuf;

use selfie_llama::{Checkpoint, Gguf};
use tempfile::TempDir;

use crate::file::{File, Meta, Tensor, refusal};

fn part(number: u16, count: u16, file: File) -> File {
    let mut file = file;
    file.set("split.no", Meta::Raw(2, number.to_le_bytes().to_vec()));
    file.set("split.count", Meta::Raw(2, count.to_le_bytes().to_vec()));
    file.set(
        "split.tensors.count",
        Meta::Raw(5, 2i32.to_le_bytes().to_vec()),
    );
    file
}

/// A folder with two parts; the second one holds the head.
fn parts() -> (TempDir, File, File) {
    let first = part(0, 2, File::model("llama", &[]));
    let second = part(
        1,
        2,
        File::default().tensor("output.weight", Tensor::zeros(&[8, 4])),
    );
    (tempfile::tempdir().unwrap(), first, second)
}

fn write(folder: &TempDir, number: usize, file: &File) -> PathBuf {
    let path = folder
        .path()
        .join(format!("model-{number:05}-of-00002.gguf"));
    fs::write(&path, file.bytes()).unwrap();
    path
}

#[test]
fn all_parts_are_read() {
    let (folder, first, second) = parts();
    let path = write(&folder, 1, &first);
    write(&folder, 2, &second);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let names: Vec<&str> = checkpoint.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, ["lm_head.weight", "model.embed_tokens.weight"]);
    // The head is in the second part.
    assert_eq!(
        Gguf::open(&path).unwrap().config().unwrap()["tie_word_embeddings"],
        false
    );
}

#[test]
fn a_missing_part_is_named() {
    let (folder, first, _) = parts();
    let path = write(&folder, 1, &first);
    let said = refusal(Checkpoint::open(&path));
    assert!(said.contains("it is the first of 2 parts, and"), "{said}");
    assert!(
        said.ends_with("model-00002-of-00002.gguf is not there: download it too"),
        "{said}"
    );
}

#[test]
fn the_first_part_is_asked_for() {
    let (folder, first, second) = parts();
    write(&folder, 1, &first);
    let path = write(&folder, 2, &second);
    let said = refusal(Checkpoint::open(&path));
    assert!(
        said.contains("it is part 2 of 2; give the first part, "),
        "{said}"
    );
    assert!(said.ends_with("model-00001-of-00002.gguf"), "{said}");
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let (folder, first, second) = parts();
    let path = write(&folder, 1, &first);

    write(&folder, 2, &part(1, 3, second.clone()));
    assert!(refusal(Gguf::open(&path)).contains("\"split.count\" is 3; expected 2"));

    write(&folder, 2, &part(0, 2, second.clone()));
    assert!(refusal(Gguf::open(&path)).contains("\"split.no\" is 0; expected 1"));

    write(&folder, 2, &part(1, 2, File::default()));
    let said = refusal(Gguf::open(&path));
    assert!(
        said.contains("\"split.tensors.count\" is 2; but the 2 parts have 1 tensors"),
        "{said}"
    );

    let twice = File::default().tensor("token_embd.weight", Tensor::zeros(&[8, 4]));
    write(&folder, 2, &part(1, 2, twice));
    assert!(refusal(Gguf::open(&path)).contains("lists the tensor token_embd.weight twice"));
}

#[test]
fn a_first_part_of_another_name_is_refused() {
    let (folder, first, _) = parts();
    let path = folder.path().join("renamed.gguf");
    fs::write(&path, first.bytes()).unwrap();
    let said = refusal(Gguf::open(&path));
    assert!(
        said.ends_with("whose names have to end with -00001-of-00002.gguf and so on: rename it"),
        "{said}"
    );
}
