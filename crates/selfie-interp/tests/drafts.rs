//! Texts do not depend on drafts; only their speed does.

use selfie_kernels::DType;
use selfie_testkit::interp::drafts::texts_are_the_same;
use selfie_testkit::interp::{FAMILIES, GOLDEN, dir, load, load_on};
use selfie_testkit::llama::cpus;

#[test]
fn texts_of_every_family_are_the_same() {
    for name in GOLDEN.into_iter().chain(FAMILIES) {
        let (model, tokenizer) = load(name, None, 2);
        texts_are_the_same(&model, &tokenizer, name);
    }
}

#[test]
fn texts_of_every_path_and_with_keys_in_16_bits_are_the_same() {
    let name = GOLDEN[1];
    for cpu in cpus(2) {
        for kv in [DType::F32, DType::Bf16, DType::F16] {
            let (model, tokenizer) = load_on(cpu.clone(), &dir(name), None);
            texts_are_the_same(&model.with_kv(kv).unwrap(), &tokenizer, name);
        }
    }
}
