//! Sampled texts on a GPU: tokens are drawn on the device, and are those that the host would draw.

use selfie_demo::open;
use selfie_kernels::{Backend, Cpu, CpuOptions};
use selfie_llama::{Decoding, Sampling, generate_all};

/// The new tokens of two texts, with a log-probability each.
fn sampled<B: Backend>(backend: B, sampling: Sampling) -> Vec<(Vec<u32>, Vec<f32>)> {
    let (model, tokenizer) = open(backend).unwrap();
    let prompts = ["The capital of", "[INST] Where is the Colosseum? [/INST]"];
    let prompts = prompts.map(|prompt| tokenizer.encode(prompt).unwrap());
    let decoding = Decoding {
        max_new_tokens: 8,
        eos: Vec::new(),
        sampling: Some(sampling),
    };
    let texts = generate_all(&model, &prompts, &decoding, |_| {}).unwrap();
    let texts = texts.into_iter();
    texts.map(|text| (text.new_ids, text.logprobs)).collect()
}

#[test]
fn texts_are_those_of_the_cpu() {
    let hot = Sampling {
        temperature: 1.5,
        top_p: 0.95,
        seed: 1,
        ..Sampling::default()
    };
    let penalized = Sampling {
        repetition_penalty: 1.3,
        ..hot
    };
    for (sampling, on_device) in [(hot, true), (penalized, false)] {
        let sim = selfie_sim::sim().unwrap();
        let got = sampled(sim.clone(), sampling);
        let ran = sim.driver().take_ran();
        assert_eq!(ran.contains_key("draw"), on_device);
        let cpu = Cpu::new(CpuOptions::default()).unwrap();
        for ((ids, logprobs), (want_ids, want)) in got.iter().zip(sampled(cpu, sampling)) {
            assert_eq!(*ids, want_ids);
            for (got, want) in logprobs.iter().zip(want) {
                assert!(
                    (got - want).abs() <= 1e-4 + 1e-4 * want.abs(),
                    "{got}, not {want}"
                );
            }
        }
    }
}
