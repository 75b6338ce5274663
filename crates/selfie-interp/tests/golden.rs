//! Interpretations of the golden checkpoints against the Python package of SelfIE (llama2-mha) and forward hooks in
//! PyTorch (llama3-gqa), on every path that this machine has.

mod common;
#[path = "../../selfie-llama/tests/common/mod.rs"]
mod llama;

use common::{GOLDEN, agree, dir, load_on};
use llama::cpus;
use selfie_kernels::DType;

#[test]
fn interpretations_agree_with_python() {
    for name in GOLDEN {
        for cpu in cpus(2) {
            let (model, tokenizer) = load_on(cpu, &dir(name), Some(DType::F32));
            agree::interpretations(&model, &tokenizer, name);
        }
    }
}
