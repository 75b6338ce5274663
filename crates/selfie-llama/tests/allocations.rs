//! A decode step allocates no buffers: all of them exist before the first step.

use selfie_llama::{Decoding, Feed, Pass, Sequence, Session, SessionSize};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const SEQUENCES: usize = 32;
const PROMPT: [u32; 3] = [1, 7, 9];
const STEPS: u64 = 32;

#[test]
fn a_decode_step_makes_no_buffers() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let model = selfie_testkit::llama::load("llama2-mha", None, 2);
    let positions = PROMPT.len() + STEPS as usize + 4;
    let decoding = Decoding {
        max_new_tokens: positions,
        eos: Vec::new(),
        sampling: None,
    };
    let size = SessionSize::new(&model, SEQUENCES, positions);
    let mut session = Session::new(&model, &size).unwrap();
    let mut sequences: Vec<Sequence> = (0..SEQUENCES as u64)
        .map(|key| {
            let mut prompt = Vec::with_capacity(positions);
            prompt.extend(PROMPT);
            Sequence::new(key, session.open().unwrap(), prompt)
        })
        .collect();
    let mut step = |sequences: &mut Vec<Sequence>, tokens: Option<&[u32]>| {
        let feeds: Vec<Feed<'_>> = sequences
            .iter()
            .map(|sequence| {
                let feed = sequence.feed(&decoding);
                Feed {
                    tokens: tokens.unwrap_or(feed.tokens),
                    ..feed
                }
            })
            .collect();
        let answers = session.run(&Pass::new(&model, &feeds), &mut ()).unwrap();
        for (sequence, answer) in sequences.iter_mut().zip(&answers) {
            sequence.push(answer).unwrap();
        }
    };
    step(&mut sequences, Some(&PROMPT));
    let mut steps = |n| {
        for _ in 0..n {
            step(&mut sequences, None);
        }
        dhat::HeapStats::get().total_bytes
    };

    // Threads allocate their buffers in their first step.
    let before = steps(3);
    let bytes = (steps(STEPS) - before) / STEPS;
    // The feeds and the chosen tokens are lists, and the thread pool's queue grows a little. The smallest buffer of a
    // pass is larger than all of them together.
    let smallest = (SEQUENCES * model.config().d_model * 4) as u64;
    assert!(
        bytes < smallest,
        "{bytes} bytes a step; the smallest buffer has {smallest}"
    );
}
