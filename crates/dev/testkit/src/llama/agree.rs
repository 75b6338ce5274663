//! Checks that a model agrees with PyTorch's results on the same checkpoint in f32.

use std::ops::ControlFlow;

use selfie_kernels::Backend;
use selfie_llama::{Decoding, Llama, Trace, generate};

use super::{Tensors, assert_close, floats, golden, ids};

/// All states and logits of the golden prompts.
pub fn states<B: Backend>(model: &Llama<B>, name: &str) {
    let tensors = Tensors::open(name);
    let forward = &golden(name)["forward"];
    for case in forward.as_array().unwrap() {
        let trace = Trace::new(model, &ids(&case["input_ids"])).unwrap();
        let prefix = case["tensors"].as_str().unwrap();
        for (tensor, got) in [
            ("hidden_states", &trace.hidden_states),
            ("pre_mlp", &trace.pre_mlp),
            ("residual", &trace.residual),
            ("logits", &trace.logits),
        ] {
            let at = format!("{prefix}{tensor}");
            let family = name.starts_with("families/");
            if family && ["pre_mlp", "residual"].contains(&tensor) {
                continue;
            }
            assert_close(&format!("{name}: {at}"), got, &tensors.get(&at));
        }
    }
}

/// Greedy text and its log-probabilities.
pub fn greedy<B: Backend>(model: &Llama<B>, name: &str) {
    let golden = golden(name);
    let prompts = golden["forward"].as_array().unwrap();
    for case in golden["generate"].as_array().unwrap() {
        let prompt = prompts.iter().find(|p| p["prompt"] == case["prompt"]);
        let decoding = Decoding {
            max_new_tokens: case["max_new_tokens"].as_u64().unwrap() as usize,
            eos: eos(model, name),
            sampling: None,
        };
        let prompt = ids(&prompt.unwrap()["input_ids"]);
        let mut streamed = vec![];
        let got = generate(model, &prompt, decoding, |id| {
            streamed.push(id);
            ControlFlow::Continue(())
        })
        .unwrap();
        let want = ids(&case["new_ids"]);
        assert_eq!(got.new_ids, want, "{name}: {}", case["prompt"]);
        assert_eq!(streamed, want);
        assert_close("logprobs", &got.logprobs, &floats(&case["logprobs"]));
    }
}

/// The ids that end the texts of other families are those of the model. The oldest golden data was recorded without
/// any.
pub fn eos<B: Backend>(model: &Llama<B>, name: &str) -> Vec<u32> {
    if name.starts_with("families/") {
        model.config().eos.clone()
    } else {
        Vec::new()
    }
}
