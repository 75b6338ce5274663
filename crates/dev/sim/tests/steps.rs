//! Decode steps filled up with rows that nobody reads.

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Backend, Cpu, CpuOptions, DType, Slot};
use selfie_llama::{Llama, Session, SessionSize};
use selfie_testkit::llama;

/// A step of this many sequences has ten rows on a GPU.
const SEQUENCES: usize = 9;
const STEPS: usize = 4;

/// The tokens and log-probabilities of texts decoded together, in a session of `slots` slots.
fn decode<B: Backend>(model: &Llama<B>, slots: usize) -> Vec<(Vec<u32>, Vec<f32>)> {
    let size = SessionSize {
        rows: 2 * SEQUENCES,
        ..SessionSize::new(model, slots, STEPS + 1)
    };
    let mut session = Session::new(model, &size).unwrap();
    let mut last: Vec<(Slot, u32)> = (0..SEQUENCES as u32)
        .map(|id| (session.open().unwrap(), 5 + 7 * id))
        .collect();
    let mut texts = vec![(Vec::new(), Vec::new()); SEQUENCES];
    for _ in 0..STEPS {
        let best = session.step(&last).unwrap();
        for ((text, last), best) in texts.iter_mut().zip(&mut last).zip(best) {
            last.1 = best.token;
            text.0.push(best.token);
            text.1.push(best.logprob);
        }
    }
    texts
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
    // Without free slots there is nothing to fill up a step with.
    assert_eq!(filled, decode(&sim, SEQUENCES));
    for ((ids, logprobs), (want_ids, want)) in filled.iter().zip(decode(&cpu, 12)) {
        assert_eq!(*ids, want_ids);
        llama::assert_close("log-probabilities", logprobs, &want);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
