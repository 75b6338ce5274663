//! Whole models: the golden checkpoints against PyTorch, 16-bit types against their roundings, batches against each
//! other.

use selfie_kernels::DType;

use crate::llama::{FAMILIES, GOLDEN};
use crate::{Check, Opening, interp, llama, models};

pub(crate) fn checks() -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for name in GOLDEN.into_iter().chain(FAMILIES) {
        checks.push((
            format!("model {name}: states and logits agree with PyTorch"),
            Box::new(move |opening| {
                let model = llama::load_on(opening.fast(), name, Some(DType::F32));
                llama::agree::states(&model, name);
            }),
        ));
        checks.push((
            format!("model {name}: greedy text agrees with PyTorch"),
            Box::new(move |opening| {
                let model = llama::load_on(opening.fast(), name, Some(DType::F32));
                llama::agree::greedy(&model, name);
            }),
        ));
        checks.push((
            format!("model {name}: interpretations and relevancies agree with PyTorch"),
            Box::new(move |opening| interpretations(opening, name)),
        ));
    }
    checks.push((
        "model of 16 bits is off by its roundings".into(),
        Box::new(|opening| models::sixteen_bits_are_off_by_their_roundings(|| opening.fast())),
    ));
    checks.push((
        "model gives a cell the same bits in any batch (deterministic)".into(),
        Box::new(|opening| {
            models::a_cell_does_not_depend_on_the_batch(|| opening.deterministic());
        }),
    ));
    checks
}

fn interpretations(opening: Opening, name: &str) {
    for cuda in [opening.fast(), opening.deterministic()] {
        let (model, tokenizer) = interp::load_on(cuda, &interp::dir(name), Some(DType::F32));
        interp::agree::interpretations(&model, &tokenizer, name);
    }
}
