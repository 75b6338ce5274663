//! Interpretations of the golden checkpoints against the Python package of SelfIE (llama2-mha) and forward hooks in
//! PyTorch (llama3-gqa and the other families), on every path that this machine has.

use llama::cpus;
use selfie_kernels::DType;
use selfie_testkit::interp::{FAMILIES, GOLDEN, agree, dir, load_on};
use selfie_testkit::llama;

#[test]
fn interpretations_agree_with_python() {
    for name in GOLDEN.into_iter().chain(FAMILIES) {
        for cpu in cpus(2) {
            let (model, tokenizer) = load_on(cpu, &dir(name), Some(DType::F32));
            agree::interpretations(&model, &tokenizer, name);
        }
    }
}
