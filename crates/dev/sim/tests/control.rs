//! Control of one layer's MLP on the simulated GPU: supervised steps against PyTorch.

use selfie_kernels::DType;
use selfie_llama::{Checkpoint, Llama, LlamaConfig, Tokenizer};
use selfie_testkit::control::{
    GOLDEN, assert_close, assert_says, dir, doubles, golden, keep_on, supervised_case,
};

#[test]
fn supervised_control_agrees_with_pytorch() {
    for name in GOLDEN {
        let dir = dir(name);
        let config = LlamaConfig::open(&dir).unwrap();
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let tokenizer = Tokenizer::open(&dir).unwrap();
        for case in golden(name)["supervised"].as_array().unwrap() {
            let sim = selfie_sim::sim().unwrap();
            let dtype = Some(DType::F32);
            let mut model = Llama::load(sim, config.clone(), &checkpoint, dtype, |_| {}).unwrap();
            let control = supervised_case(case);
            let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
            let losses: Vec<f64> = outcome.steps.iter().map(|s| s.loss).collect();
            assert_close("losses", &losses, &doubles(&case["losses"]), 0.0, 1e-4);

            assert_says(name, &model, &tokenizer, &control, case);
        }
    }
}
