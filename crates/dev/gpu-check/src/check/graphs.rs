//! Compares steps replayed as graphs with the same steps launched one by one.

use selfie_demo::RandomCheckpoint;
use selfie_kernels::gpu::Cuda;
use selfie_kernels::{AttnShape, DType};
use selfie_llama::{Decoding, Generated, Llama, generate_all};

use crate::{Check, Opening, llama};

/// Sequences: more than the size of a filled-up step, so that both full steps and filled-up ones occur.
const SEQUENCES: usize = 19;
const NEW_TOKENS: usize = 40;

pub(crate) fn checks() -> Vec<Check> {
    vec![("graph replays give the same bits".into(), Box::new(replays))]
}

fn replays(opening: Opening) {
    let shape = RandomCheckpoint {
        d_model: 256,
        ffn: 688,
        attn: AttnShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
        },
        dtype: DType::Bf16,
        ..RandomCheckpoint::tiny()
    };
    let folder = std::env::temp_dir().join(format!("selfie-graphs-{}", std::process::id()));
    shape
        .write(&folder, &llama::dir(llama::GOLDEN[0]))
        .unwrap_or_else(|e| panic!("{e}"));
    for deterministic in [false, true] {
        let text = |graphs| {
            let cuda = opening.open(deterministic, graphs);
            generate(cuda.unwrap_or_else(|e| panic!("{e}")), &folder)
        };
        let (replayed, plain) = (text(true), text(false));
        assert_eq!(replayed.len(), SEQUENCES);
        for (a, b) in replayed.iter().zip(&plain) {
            let bits = |g: &Generated| g.logprobs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(a.new_ids, b.new_ids, "deterministic: {deterministic}");
            assert_eq!(bits(a), bits(b), "deterministic: {deterministic}");
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
}

/// Texts of several lengths, so that sequences end one after the other.
fn generate(cuda: Cuda, folder: &std::path::Path) -> Vec<Generated> {
    let model = Llama::open(cuda, folder).unwrap_or_else(|e| panic!("{e}"));
    let vocab = model.config().vocab_size as u32;
    let prompts: Vec<Vec<u32>> = (0..SEQUENCES as u32)
        .map(|i| (0..=i % 5).map(|j| (7 * i + 13 * j + 3) % vocab).collect())
        .collect();
    let decoding = Decoding {
        max_new_tokens: NEW_TOKENS,
        eos: (0..vocab).filter(|id| id % 29 == 0).collect(),
        sampling: None,
    };
    generate_all(&model, &prompts, &decoding, |_| {}).unwrap_or_else(|e| panic!("{e}"))
}
