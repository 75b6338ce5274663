//! Compares states, logits and greedy text of the golden checkpoints with PyTorch in f32, on every path that this
//! machine has.

use selfie_kernels::DType;
use selfie_testkit::llama::{FAMILIES, GOLDEN, agree, cpus, load_on};

fn all() -> impl Iterator<Item = &'static str> {
    GOLDEN.into_iter().chain(FAMILIES)
}

#[test]
fn states_and_logits_agree_with_pytorch() {
    for name in all() {
        for cpu in cpus(2) {
            agree::states(&load_on(cpu, name, Some(DType::F32)), name);
        }
    }
}

#[test]
fn greedy_text_agrees_with_pytorch() {
    for name in all() {
        for cpu in cpus(2) {
            agree::greedy(&load_on(cpu, name, Some(DType::F32)), name);
        }
    }
}
