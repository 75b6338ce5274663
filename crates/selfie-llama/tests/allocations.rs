//! A decode step makes no buffers: all of them are there before the first one.

use selfie_llama::{Decoder, Decoding, KvCache, Sequence, Workspace, branch_rows};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const SEQUENCES: usize = 16;
const PROMPT: [u32; 3] = [1, 7, 9];
const STEPS: u64 = 32;

#[test]
fn a_decode_step_makes_no_buffers() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let model = selfie_testkit::llama::load("llama2-mha", None, 2);
    let config = model.config();
    let positions = PROMPT.len() + STEPS as usize + 4;
    let layout = config.kv_layout(0, vec![positions; config.n_layers], SEQUENCES);
    let mut cache = KvCache::new(model.backend(), layout).unwrap();
    let mut ws = Workspace::new(&model, SEQUENCES * PROMPT.len(), positions).unwrap();

    let (mut rows, mut sequences, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for id in 0..SEQUENCES as u64 {
        let seen = vec![0; config.n_layers];
        let slot = cache.take(model.backend(), &seen).unwrap();
        rows.extend(branch_rows(slot, 0, &PROMPT));
        last.push(rows.len() - 1);
        sequences.push(Sequence::new(id, slot, PROMPT.len()));
    }
    model
        .forward(&mut ws, &mut cache, &rows, 0..config.n_layers, &mut ())
        .unwrap();
    let mut decoder = Decoder::new(Decoding {
        max_new_tokens: positions,
        eos: Vec::new(),
        sampling: None,
    })
    .unwrap();
    decoder.join(&model, &mut ws, sequences, &last).unwrap();
    let mut steps = |n| {
        for _ in 0..n {
            decoder.step(&model, &mut ws, &mut cache, &[]).unwrap();
        }
        dhat::HeapStats::get().total_bytes
    };

    // Threads make theirs in their first step.
    let before = steps(3);
    let bytes = (steps(STEPS) - before) / STEPS;
    // The chosen tokens are returned, and the thread pool's queue grows a little; the smallest buffer of a pass is
    // larger than both.
    let smallest = (SEQUENCES * config.d_model * 4) as u64;
    assert!(
        bytes < smallest,
        "{bytes} bytes a step; the smallest buffer has {smallest}"
    );
}
