//! Whole models through our PTX: the golden checkpoints on the simulated GPU.

use selfie_kernels::DType;
use selfie_kernels::gpu::plan::Splits;
use selfie_sim::{Sim, SimDriver};
use selfie_testkit::llama::{FAMILIES, GOLDEN};
use selfie_testkit::{interp, llama, models};

fn all() -> impl Iterator<Item = &'static str> {
    GOLDEN.into_iter().chain(FAMILIES)
}

fn sim() -> Sim {
    selfie_sim::sim().unwrap()
}

#[test]
fn states_and_logits_agree_with_pytorch() {
    for name in all() {
        llama::agree::states(&llama::load_on(sim(), name, Some(DType::F32)), name);
    }
}

#[test]
fn greedy_text_agrees_with_pytorch() {
    for name in all() {
        llama::agree::greedy(&llama::load_on(sim(), name, Some(DType::F32)), name);
    }
}

#[test]
fn interpretations_agree_with_python() {
    for name in all() {
        let (model, tokenizer) = interp::load_on(sim(), &interp::dir(name), Some(DType::F32));
        interp::agree::interpretations(&model, &tokenizer, name);
    }
}

#[test]
fn sixteen_bits_are_off_by_their_roundings() {
    models::sixteen_bits_are_off_by_their_roundings(sim);
    // Decoding with our own products.
    models::sixteen_bits_are_off_by_their_roundings(|| {
        let splits = Splits::Fill { multiprocessors: 1 };
        Sim::new(SimDriver::new(), splits).unwrap()
    });
}

#[test]
fn a_cell_does_not_depend_on_the_batch() {
    models::a_cell_does_not_depend_on_the_batch(sim);
}

#[test]
fn texts_do_not_depend_on_drafts() {
    let name = GOLDEN[1];
    let (model, tokenizer) = interp::load_on(sim(), &interp::dir(name), Some(DType::Bf16));
    interp::drafts::texts_are_the_same(&model, &tokenizer, name);
}
