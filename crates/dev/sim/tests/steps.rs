//! Decode steps that are filled up with rows which nobody reads.

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Backend, Cpu, CpuOptions, DType, KvLayout};
use selfie_llama::{
    Decoder, Decoding, KvCache, Llama, LlamaConfig, Sequence, Workspace, branch_rows,
};
use selfie_testkit::llama;

/// A step of so many sequences has ten rows on a GPU.
const SEQUENCES: usize = 9;
const STEPS: usize = 4;

/// The tokens and log-probabilities of texts that are decoded together, in a cache of `slots` slots.
fn decode<B: Backend>(model: &Llama<B>, slots: usize) -> Vec<(Vec<u32>, Vec<f32>)> {
    let config: &LlamaConfig = model.config();
    let layout = KvLayout {
        slots,
        ..config.kv_layout(0, vec![STEPS + 1; config.n_layers], 0)
    };
    let mut cache = KvCache::new(model.backend(), layout).unwrap();
    let mut ws = Workspace::new(model, 2 * SEQUENCES, STEPS + 1).unwrap();
    let nothing = vec![0; config.n_layers];
    let (mut rows, mut sequences) = (Vec::new(), Vec::new());
    for id in 0..SEQUENCES as u64 {
        let slot = cache.take(model.backend(), &nothing).unwrap();
        rows.extend(branch_rows(slot, 0, &[5 + 7 * id as u32]));
        sequences.push(Sequence::new(id, slot, 1));
    }
    let layers = 0..config.n_layers;
    model
        .forward(&mut ws, &mut cache, &rows, layers, &mut ())
        .unwrap();
    let decoding = Decoding {
        max_new_tokens: STEPS,
        eos: Vec::new(),
        sampling: None,
    };
    let mut decoder = Decoder::new(decoding).unwrap();
    let last: Vec<usize> = (0..SEQUENCES).collect();
    let mut done = decoder.join(model, &mut ws, sequences, &last).unwrap();
    while decoder.active() > 0 {
        done.extend(decoder.step(model, &mut ws, &mut cache, &[]).unwrap());
    }
    done.sort_by_key(|sequence| sequence.id);
    let text = |sequence: Sequence| (sequence.new_ids, sequence.logprobs);
    done.into_iter().map(text).collect()
}

#[test]
fn filled_steps_write_the_same_texts() {
    let folder = std::env::temp_dir().join(format!("selfie-steps-{}", std::process::id()));
    let shape = RandomCheckpoint {
        dtype: DType::F32,
        ..RandomCheckpoint::tiny()
    };
    shape.write(&folder, &llama::dir(llama::GOLDEN[0])).unwrap();
    let sim = Llama::open(selfie_sim::sim().unwrap(), &folder).unwrap();
    let cpu = Llama::open(Cpu::new(CpuOptions::default()).unwrap(), &folder).unwrap();
    assert_eq!(sim.backend().step_rows(SEQUENCES), 10);
    assert_eq!(cpu.backend().step_rows(SEQUENCES), SEQUENCES);
    let filled = decode(&sim, 12);
    assert_eq!(filled.len(), SEQUENCES);
    // Without free slots there is nothing to fill a step with.
    assert_eq!(filled, decode(&sim, SEQUENCES));
    for ((ids, logprobs), (want_ids, want)) in filled.iter().zip(decode(&cpu, 12)) {
        assert_eq!(*ids, want_ids);
        llama::assert_close("log-probabilities", logprobs, &want);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
