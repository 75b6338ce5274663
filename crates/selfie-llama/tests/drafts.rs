//! Drafts change neither tokens nor bits, whatever they guess.

use std::ops::ControlFlow;

use selfie_kernels::{Cpu, DType};
use selfie_llama::{
    Ask, Capture, Decoding, Draw, Feed, Generated, Llama, Pass, Sampling, Sequence, Session,
    SessionSize, Site, generate,
};
use selfie_testkit::llama::{FAMILIES, GOLDEN, golden, ids, load};

const NEW: usize = 9;

fn greedy() -> Decoding {
    Decoding {
        max_new_tokens: NEW,
        eos: vec![],
        sampling: None,
    }
}

fn prompt(name: &str) -> Vec<u32> {
    ids(&golden(name)["forward"][0]["input_ids"])
}

/// The text step by step.
fn text(model: &Llama<Cpu>, prompt: &[u32]) -> Generated {
    generate(model, prompt, greedy(), |_| ControlFlow::Continue(())).unwrap()
}

/// A session with just the room that a text of [`NEW`] tokens needs, and the text after its first token.
fn begun(model: &Llama<Cpu>, prompt: &[u32], rows: usize) -> (Session<Cpu>, Sequence) {
    let size = SessionSize {
        rows,
        ..SessionSize::new(model, 1, prompt.len() + NEW - 1)
    };
    let mut session = Session::new(model, &size).unwrap();
    let slot = session.open().unwrap();
    let mut sequence = Sequence::new(0, slot, prompt.to_vec());
    let decoding = greedy();
    let feeds = [Feed {
        tokens: prompt,
        ..sequence.feed(&decoding)
    }];
    let answers = session.run(&Pass::new(model, &feeds), &mut ()).unwrap();
    sequence.push(&answers[0]).unwrap();
    (session, sequence)
}

fn step(session: &mut Session<Cpu>, sequence: &mut Sequence, decoding: &Decoding) {
    let model = session.model().clone();
    let feeds = [sequence.feed(decoding)];
    let answers = session.run(&Pass::new(&model, &feeds), &mut ()).unwrap();
    sequence.push(&answers[0]).unwrap();
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Drafts of every length, wrong from every token on, in passes that cut them in pieces or not.
fn check(model: &Llama<Cpu>, prompt: &[u32]) {
    let want = text(model, prompt);
    let decoding = greedy();
    let other = |id: u32| (id + 1) % model.config().vocab_size as u32;
    for length in 1..NEW - 1 {
        for wrong in 0..=length {
            let mut guess = want.new_ids[1..=length].to_vec();
            guess[wrong..].iter_mut().for_each(|id| *id = other(*id));
            for rows in [3, 64] {
                let (mut session, mut sequence) = begun(model, prompt, rows);
                assert_eq!(sequence.draft(&guess, &decoding), length);
                step(&mut session, &mut sequence, &decoding);
                assert_eq!(sequence.new_ids(), &want.new_ids[..wrong + 2]);
                let position = session.position(sequence.slot).unwrap();
                assert_eq!(position, prompt.len() + wrong + 1);
                while !sequence.is_done(&decoding) {
                    step(&mut session, &mut sequence, &decoding);
                }
                let (new_ids, logprobs) = sequence.into_new();
                assert_eq!(new_ids, want.new_ids);
                assert_eq!(bits(&logprobs), bits(&want.logprobs));
            }
        }
    }
}

#[test]
fn drafts_change_neither_tokens_nor_bits() {
    for name in GOLDEN.into_iter().chain(FAMILIES) {
        check(&load(name, None, 2), &prompt(name));
    }
}

#[test]
fn nor_with_keys_and_values_in_16_bits() {
    for kv in [DType::Bf16, DType::F16] {
        let name = GOLDEN[1];
        check(&load(name, None, 2).with_kv(kv).unwrap(), &prompt(name));
    }
}

#[test]
fn a_draft_ends_where_its_text_would() {
    let name = GOLDEN[0];
    let (model, prompt) = (load(name, None, 2), prompt(name));
    let want = text(&model, &prompt).new_ids;
    let rest = &want[1..];
    // The last of the new tokens is chosen after the draft.
    let taken = |guess: &[u32], decoding: &Decoding| {
        let (mut session, mut sequence) = begun(&model, &prompt, 64);
        let taken = sequence.draft(guess, decoding);
        step(&mut session, &mut sequence, decoding);
        (taken, sequence)
    };
    let long = [rest, &[1; 100]].concat();
    let (all, sequence) = taken(&long, &greedy());
    assert_eq!((all, sequence.new_ids()), (NEW - 2, &want[..]));
    for max_new_tokens in 2..NEW {
        let decoding = Decoding {
            max_new_tokens,
            ..greedy()
        };
        let (some, sequence) = taken(rest, &decoding);
        assert_eq!(some, max_new_tokens - 2);
        assert_eq!(sequence.new_ids(), &want[..max_new_tokens]);
        assert!(sequence.is_done(&decoding));
    }
    for eos in 1..NEW {
        let decoding = Decoding {
            eos: vec![want[eos]],
            ..greedy()
        };
        let ends = want.iter().skip(1).position(|id| *id == want[eos]).unwrap() + 1;
        let (some, sequence) = taken(rest, &decoding);
        assert_eq!(some, (ends - 1).min(NEW - 2));
        assert_eq!(sequence.new_ids(), &want[..=ends]);
        assert!(sequence.is_done(&decoding));
    }
    let sampled = Decoding {
        sampling: Some(Sampling::default()),
        ..greedy()
    };
    assert_eq!(taken(rest, &sampled).0, 0);
}

#[test]
fn a_draft_needs_a_row_before_each_token() {
    let name = GOLDEN[0];
    let (model, prompt) = (load(name, None, 1), prompt(name));
    let (mut session, sequence) = begun(&model, &prompt, 64);
    let ask = Ask {
        next: Some(Draw::Verify { draft: 2 }),
        score: &[],
    };
    let feeds = [Feed {
        ask,
        ..Feed::new(sequence.slot, &[5, 6])
    }];
    let error = session.run(&Pass::new(&model, &feeds), &mut ());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("2 tokens with 2 rows"), "{error}");
    let last = (Site::Output, sequence.slot, prompt.len() as u32);
    let mut kept = Capture::new(model.backend(), &[last], model.config().d_model).unwrap();
    let feeds = [Feed::new(sequence.slot, &[5])];
    session.run(&Pass::new(&model, &feeds), &mut kept).unwrap();
    let error = session.answer(kept.rows(), &[(0, ask)]).unwrap_err();
    assert!(error.to_string().contains("2 tokens with 1 row"), "{error}");
}
