//! Interpretations of the golden checkpoints against the Python package of SelfIE (llama2-mha) and forward hooks in
//! PyTorch (llama3-gqa), on every path that this machine has.

mod common;

use common::{GOLDEN, agree, dir, load_on};
use selfie_kernels::{Cpu, CpuOptions, CpuPath, DType};

#[test]
fn interpretations_agree_with_python() {
    for name in GOLDEN {
        for path in CpuPath::available() {
            let options = CpuOptions {
                threads: Some(2),
                path: Some(path),
            };
            let cpu = Cpu::new(options).unwrap();
            let (model, tokenizer) = load_on(cpu, &dir(name), Some(DType::F32));
            agree::interpretations(&model, &tokenizer, name);
        }
    }
}
