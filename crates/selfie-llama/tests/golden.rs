//! States, logits and greedy text of the golden checkpoints, against PyTorch in f32.

mod common;

use common::{GOLDEN, agree, load};
use selfie_kernels::DType;

#[test]
fn states_and_logits_agree_with_pytorch() {
    for name in GOLDEN {
        agree::states(&load(name, Some(DType::F32), 2), name);
    }
}

#[test]
fn greedy_text_agrees_with_pytorch() {
    for name in GOLDEN {
        agree::greedy(&load(name, Some(DType::F32), 2), name);
    }
}
