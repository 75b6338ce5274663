//! Interpretations of the golden checkpoints against the Python package of SelfIE (llama2-mha) and forward hooks in
//! PyTorch (llama3-gqa).

mod common;

use common::{GOLDEN, agree, load};
use selfie_kernels::DType;

#[test]
fn interpretations_agree_with_python() {
    for name in GOLDEN {
        let (model, tokenizer) = load(name, Some(DType::F32), 2);
        agree::interpretations(&model, &tokenizer, name);
    }
}
