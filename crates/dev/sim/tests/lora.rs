//! A low-rank adapter on the simulated GPU, against what peft computes.

use selfie_kernels::DType;
use selfie_llama::{Checkpoint, Llama, LlamaConfig, Lora};
use selfie_testkit::llama::{assert_close, floats, ids};
use selfie_testkit::readers::{Built, reference};

#[test]
fn an_oracle_answers_as_with_peft() {
    let reference = reference();
    for built in Built::all(&reference) {
        let dir = built.model_dir();
        let (config, checkpoint) = (
            LlamaConfig::open(&dir).unwrap(),
            Checkpoint::open(&dir).unwrap(),
        );
        let sim = selfie_sim::sim().unwrap();
        let model = Llama::load(sim, config, &checkpoint, Some(DType::F32), |_| {}).unwrap();
        let oracle = built.write_oracle();
        let reader = model.with_lora(&Lora::open(&oracle).unwrap()).unwrap();
        let case = &built.case["oracle"];
        for (reader, case) in [(&reader, case), (&model, &case["without"])] {
            let row = built.ask_oracle(&oracle, reader);
            assert_eq!(row.new_ids, ids(&case["new_ids"]), "{}", built.name);
            assert_close(&built.name, &row.logprobs, &floats(&case["logprobs"]));
        }
    }
}
