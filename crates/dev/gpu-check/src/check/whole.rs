//! Whole models: the golden checkpoints against PyTorch, 16 bits against their roundings, batches against each other.

use selfie_kernels::DType;

use crate::llama::GOLDEN;
use crate::{Check, Opening, interp, llama, models};

pub(crate) fn checks() -> Vec<Check> {
    vec![
        (
            "model states and logits agree with PyTorch",
            Box::new(|opening| {
                for name in GOLDEN {
                    let model = llama::load_on(opening.fast(), name, Some(DType::F32));
                    llama::agree::states(&model, name);
                }
            }),
        ),
        (
            "model greedy text agrees with PyTorch",
            Box::new(|opening| {
                for name in GOLDEN {
                    let model = llama::load_on(opening.fast(), name, Some(DType::F32));
                    llama::agree::greedy(&model, name);
                }
            }),
        ),
        (
            "model interpretations and relevancies agree with PyTorch",
            Box::new(interpretations),
        ),
        (
            "model 16 bits are off by their roundings",
            Box::new(|opening| {
                models::sixteen_bits_are_off_by_their_roundings(|| opening.fast());
            }),
        ),
        (
            "model a cell has the same bits in any batch (deterministic)",
            Box::new(|opening| {
                models::a_cell_does_not_depend_on_the_batch(|| opening.deterministic());
            }),
        ),
    ]
}

fn interpretations(opening: Opening) {
    for name in GOLDEN {
        for cuda in [opening.fast(), opening.deterministic()] {
            let (model, tokenizer) = interp::load_on(cuda, &interp::dir(name), Some(DType::F32));
            interp::agree::interpretations(&model, &tokenizer, name);
        }
    }
}
