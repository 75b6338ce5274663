//! The same rows give the same bits, however they are cut, batched, shared, copied or threaded.

use std::ops::ControlFlow;

use selfie_kernels::{Cpu, DType, Slot};
use selfie_llama::{
    Ask, Capture, Decoding, Feed, Llama, Pass, Sampling, Sequence, Session, SessionSize, Site,
    generate,
};
use selfie_testkit::llama::{GOLDEN, golden, ids, load};

/// The dtypes of the weights (`None` is the one in which they are stored), and of keys and values.
const DTYPES: [(Option<DType>, DType); 4] = [
    (Some(DType::F32), DType::F32),
    (None, DType::F32),
    (None, DType::Bf16),
    (None, DType::F16),
];

/// A session for sequences of up to 64 tokens, with passes of up to `rows` rows.
fn session(model: &Llama<Cpu>, prefixes: &[usize], slots: usize, rows: usize) -> Session<Cpu> {
    let size = SessionSize {
        prefixes: prefixes.to_vec(),
        rows,
        ..SessionSize::new(model, slots, 64)
    };
    Session::new(model, &size).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Runs feeds and returns the bits of the logits of every row.
fn logits(session: &mut Session<Cpu>, feeds: &[(Slot, &[u32])]) -> Vec<Vec<u32>> {
    let model = session.model().clone();
    let feeds: Vec<_> = feeds
        .iter()
        .map(|&(slot, ids)| Feed::new(slot, ids))
        .collect();
    run(session, &Pass::new(&model, &feeds))
}

/// Runs a pass that ends at the last layer, and returns the bits of the logits of every row.
fn run(session: &mut Session<Cpu>, pass: &Pass<'_, Cpu>) -> Vec<Vec<u32>> {
    let model = session.model().clone();
    let mut wants = vec![];
    for feed in pass.feeds {
        let first = session.position(feed.slot).unwrap();
        let positions = first..first + feed.tokens.len();
        wants.extend(positions.map(|p| (Site::Output, feed.slot, p as u32)));
    }
    let mut capture = Capture::new(model.backend(), &wants, model.config().d_model).unwrap();
    session.run(pass, &mut capture).unwrap();
    let rows: Vec<usize> = wants.iter().map(|&w| capture.index(w).unwrap()).collect();
    let mut all = vec![];
    session
        .logits(capture.rows(), &rows, |_, logits| {
            all.push(bits(logits));
            Ok(())
        })
        .unwrap();
    all
}

fn whole(model: &Llama<Cpu>, prompt: &[u32]) -> Vec<Vec<u32>> {
    let mut session = session(model, &[], 1, 64);
    let slot = session.open().unwrap();
    logits(&mut session, &[(slot, prompt)])
}

fn prompts(name: &str) -> Vec<Vec<u32>> {
    let golden = golden(name);
    let cases = golden["forward"].as_array().unwrap().iter();
    cases.map(|case| ids(&case["input_ids"])).collect()
}

/// Calls `check` with each golden model in each pair of dtypes.
fn each_model(check: impl Fn(&Llama<Cpu>, &[Vec<u32>])) {
    for name in GOLDEN {
        for (dtype, kv) in DTYPES {
            let model = load(name, dtype, 2).with_kv(kv).unwrap();
            check(&model, &prompts(name));
        }
    }
}

#[test]
fn chunked_is_whole() {
    each_model(|model, prompts| {
        let want = whole(model, &prompts[0]);
        for rows in [1, 2, 3, 7] {
            let mut session = session(model, &[], 1, rows);
            let slot = session.open().unwrap();
            assert_eq!(logits(&mut session, &[(slot, &prompts[0])]), want);
        }
        // Two calls; the second continues where the first stopped.
        let mut session = session(model, &[], 1, 3);
        let slot = session.open().unwrap();
        let (first, second) = prompts[0].split_at(4);
        let got = [
            logits(&mut session, &[(slot, first)]),
            logits(&mut session, &[(slot, second)]),
        ];
        assert_eq!(got.concat(), want);
    });
}

/// The states at the input of a layer, for every token of a prompt in `slot`. The slot does not advance.
fn states_at(session: &mut Session<Cpu>, slot: Slot, ids: &[u32], layer: usize) -> Capture<Cpu> {
    let model = session.model().clone();
    let wants: Vec<_> = (0..ids.len() as u32)
        .map(|p| (Site::HiddenStates(layer), slot, p))
        .collect();
    let mut capture = Capture::new(model.backend(), &wants, model.config().d_model).unwrap();
    let feeds = [Feed::new(slot, ids)];
    let pass = Pass {
        layers: 0..layer,
        ..Pass::new(&model, &feeds)
    };
    session.run(&pass, &mut capture).unwrap();
    capture
}

#[test]
fn a_pass_cut_into_layers_is_whole() {
    each_model(|model, prompts| {
        let want = whole(model, &prompts[0]);
        for cut in 1..model.config().n_layers {
            for rows in [4, 64] {
                let mut session = session(model, &[], 1, rows);
                let slot = session.open().unwrap();
                let states = states_at(&mut session, slot, &prompts[0], cut);
                assert_eq!(session.position(slot).unwrap(), 0);
                let index: Vec<usize> = (0..prompts[0].len()).collect();
                let feeds = [Feed::new(slot, &prompts[0])];
                let pass = Pass {
                    layers: cut..model.config().n_layers,
                    states: Some((states.rows(), &index)),
                    ..Pass::new(model, &feeds)
                };
                assert_eq!(run(&mut session, &pass), want);
            }
        }
    });
}

#[test]
fn batched_is_single() {
    each_model(|model, prompts| {
        for rows in [5, 64] {
            let mut session = session(model, &[], prompts.len(), rows);
            let (mut feeds, mut want) = (vec![], vec![]);
            for prompt in prompts {
                feeds.push((session.open().unwrap(), &prompt[..]));
                want.extend(whole(model, prompt));
            }
            assert_eq!(logits(&mut session, &feeds), want);
        }
    });
}

#[test]
fn a_slot_on_a_prefix_is_one_of_its_own() {
    each_model(|model, prompts| {
        let prompt = &prompts[0];
        let want = whole(model, prompt);
        for shared in [1, 4, prompt.len() - 1] {
            let mut session = session(model, &[prompt.len()], 2, 64);
            let prefix = session.open_prefix().unwrap();
            assert_eq!(logits(&mut session, &[(prefix, prompt)]), want);
            // Two slots see the first positions; the rest of the prefix is not visible to them.
            for _ in 0..2 {
                let slot = session.open_on(prefix, shared).unwrap();
                let got = logits(&mut session, &[(slot, &prompt[shared..])]);
                assert_eq!(got, want[shared..]);
            }
        }
    });
}

#[test]
fn slots_on_several_prefixes_share_a_pass() {
    each_model(|model, prompts| {
        let (a, b) = (&prompts[0], &prompts[1]);
        let mut session = session(model, &[a.len(), b.len() + 3], 3, 64);
        let prefixes = [a, b].map(|prompt| {
            let prefix = session.open_prefix().unwrap();
            logits(&mut session, &[(prefix, prompt)]);
            prefix
        });
        let slots = [
            (session.open_on(prefixes[1], 2).unwrap(), &b[2..]),
            (session.open_on(prefixes[0], 4).unwrap(), &a[4..]),
            (session.open().unwrap(), &b[..]),
        ];
        let want = [
            &whole(model, b)[2..],
            &whole(model, a)[4..],
            &whole(model, b),
        ]
        .concat();
        assert_eq!(logits(&mut session, &slots), want);
    });
}

#[test]
fn shared_lengths_may_differ_by_layer() {
    each_model(|model, prompts| {
        let (prompt, n) = (&prompts[0], model.config().n_layers);
        let (want, half, m) = (whole(model, prompt), n / 2, prompt.len());
        let mut session = session(model, &[m], 1, 64);
        let prefix = session.open_prefix().unwrap();
        let states = states_at(&mut session, prefix, prompt, half);
        logits(&mut session, &[(prefix, prompt)]);
        // Below `half` the slot sees all m positions. From there on it computes those from position 4 on itself.
        let slot = session.open_from(prefix, half, m, 4).unwrap();
        let index: Vec<usize> = (4..m).collect();
        let feeds = [Feed::new(slot, &prompt[4..])];
        let pass = Pass {
            layers: half..n,
            states: Some((states.rows(), &index)),
            ..Pass::new(model, &feeds)
        };
        assert_eq!(run(&mut session, &pass), want[4..]);
    });
}

#[test]
fn a_fork_goes_on_as_its_origin_would() {
    each_model(|model, prompts| {
        let (prompt, m) = (&prompts[0], prompts[0].len());
        let want = whole(model, prompt);
        let other: Vec<u32> = prompt.iter().rev().copied().collect();
        for shared in [0, 3] {
            let mut session = session(model, &[m], 2, 64);
            let prefix = session.open_prefix().unwrap();
            logits(&mut session, &[(prefix, prompt)]);
            let from = session.open_on(prefix, shared).unwrap();
            logits(&mut session, &[(from, &prompt[shared..])]);
            // What the other slot held and shared is gone.
            let to = session.open_on(prefix, 2).unwrap();
            logits(&mut session, &[(to, &other)]);
            for positions in [shared, shared + 1, m - 1] {
                session.fork(from, to, positions).unwrap();
                assert_eq!(session.position(to).unwrap(), positions);
                let got = logits(&mut session, &[(to, &prompt[positions..])]);
                assert_eq!(got, want[positions..]);
            }
        }
    });
}

#[test]
fn a_slot_that_goes_back_takes_another_way() {
    each_model(|model, prompts| {
        let (a, b) = (&prompts[0], &prompts[1]);
        let mut session = session(model, &[], 1, 64);
        let slot = session.open().unwrap();
        logits(&mut session, &[(slot, a)]);
        session.rewind(slot, 2).unwrap();
        let text = [&a[..2], b].concat();
        let got = logits(&mut session, &[(slot, b)]);
        assert_eq!(got, whole(model, &text)[2..]);
    });
}

#[test]
fn threads_change_nothing() {
    for name in GOLDEN {
        for (dtype, kv) in DTYPES {
            let load = |threads| load(name, dtype, threads).with_kv(kv).unwrap();
            let prompt = &prompts(name)[0];
            let want = whole(&load(1), prompt);
            for threads in [2, 3, 5] {
                assert_eq!(whole(&load(threads), prompt), want);
            }
        }
    }
}

#[test]
fn a_slot_that_is_used_again_is_as_new() {
    each_model(|model, prompts| {
        let mut session = session(model, &[], 1, 64);
        for prompt in prompts {
            let slot = session.open().unwrap();
            assert_eq!(session.free_slots(), 0);
            let got = logits(&mut session, &[(slot, prompt)]);
            assert_eq!(got, whole(model, prompt));
            session.close(slot).unwrap();
        }
    });
}

#[test]
fn decoding_with_a_cache_is_a_pass_of_everything() {
    each_model(|model, prompts| {
        let decoding = Decoding {
            max_new_tokens: 8,
            eos: vec![],
            sampling: None,
        };
        let got = generate(model, &prompts[0], decoding, |_| ControlFlow::Continue(())).unwrap();
        let text = [&prompts[0][..], &got.new_ids].concat();
        let mut session = session(model, &[], 2, 64);
        let slot = session.open().unwrap();
        // A token's score equals the log-probability of the best token, and the last one is found again.
        let feed = Feed {
            ask: Ask {
                next: None,
                score: &got.new_ids,
            },
            ..Feed::new(slot, &text[..text.len() - 1])
        };
        let answers = session.run(&Pass::new(model, &[feed]), &mut ()).unwrap();
        assert_eq!(bits(&answers[0].scores), bits(&got.logprobs));
        let slot = session.open().unwrap();
        let before = text.len() - 1;
        let best = session.prefill(&[(slot, &text[..before])]).unwrap()[0];
        assert_eq!(best.token, got.new_ids[7]);
        assert_eq!(best.logprob.to_bits(), got.logprobs[7].to_bits());
        session.rewind(slot, 0).unwrap();
        let scores = session.score(&[(slot, &text)]).unwrap();
        let first = prompts[0].len() - 1;
        assert_eq!(bits(&scores[0][first..]), bits(&got.logprobs));
        assert_eq!(scores[0].len(), text.len() - 1);
    });
}

/// Decodes all prompts together in `slots` slots; sequences wait for a free slot.
fn pooled(
    model: &Llama<Cpu>,
    prompts: &[Vec<u32>],
    slots: usize,
    decoding: &Decoding,
) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut session = session(model, &[], slots, 64);
    let mut done: Vec<Sequence> = vec![];
    let mut active: Vec<Sequence> = vec![];
    let mut waiting: Vec<usize> = (0..prompts.len()).rev().collect();
    while done.len() < prompts.len() {
        let mut feeds = vec![];
        let mut joining = vec![];
        while session.free_slots() > 0
            && let Some(index) = waiting.pop()
        {
            let slot = session.open().unwrap();
            joining.push(Sequence::new(index as u64, slot, prompts[index].clone()));
        }
        for sequence in &active {
            feeds.push(sequence.feed(decoding));
        }
        for sequence in &joining {
            feeds.push(Feed {
                tokens: &prompts[sequence.key as usize],
                ..sequence.feed(decoding)
            });
        }
        let answers = session.run(&Pass::new(model, &feeds), &mut ()).unwrap();
        drop(feeds);
        active.append(&mut joining);
        for (sequence, answer) in active.iter_mut().zip(&answers) {
            sequence.push(answer).unwrap();
        }
        for sequence in active.extract_if(.., |sequence| sequence.is_done(decoding)) {
            session.close(sequence.slot).unwrap();
            done.push(sequence);
        }
    }
    done.sort_by_key(|sequence| sequence.key);
    let text = |sequence: Sequence| {
        let (ids, logprobs) = sequence.into_new();
        (ids, bits(&logprobs))
    };
    done.into_iter().map(text).collect()
}

#[test]
fn sequences_that_join_and_leave_are_those_alone() {
    each_model(|model, prompts| {
        let greedy = |eos| Decoding {
            max_new_tokens: 9,
            eos,
            sampling: None,
        };
        // Ids that occur in some of the texts, so that texts end at different lengths.
        let texts = pooled(model, prompts, 1, &greedy(vec![]));
        assert!(texts.iter().all(|(ids, _)| ids.len() == 9));
        let eos = vec![texts[0].0[3], texts[2].0[6]];
        let mut lengths = vec![];
        for slots in [1, 2, 3, 8] {
            let got = pooled(model, prompts, slots, &greedy(eos.clone()));
            for ((ids, logprobs), prompt) in got.iter().zip(prompts) {
                let mut streamed = vec![];
                let alone = generate(model, prompt, greedy(eos.clone()), |id| {
                    streamed.push(id);
                    ControlFlow::Continue(())
                })
                .unwrap();
                assert_eq!(ids, &alone.new_ids);
                assert_eq!(logprobs, &bits(&alone.logprobs));
                assert_eq!(streamed, alone.new_ids);
                lengths.push(ids.len());
            }
            for ((ids, _), (whole, _)) in got.iter().zip(&texts) {
                let end = whole.iter().position(|id| eos.contains(id));
                assert_eq!(ids[..], whole[..end.map_or(9, |end| end + 1)]);
            }
        }
        assert!(lengths.iter().any(|&length| length < 9));
    });
}

#[test]
fn samples_do_not_depend_on_their_batch() {
    each_model(|model, prompts| {
        let decoding = Decoding {
            max_new_tokens: 9,
            eos: vec![],
            sampling: Some(Sampling {
                temperature: 1.3,
                top_k: 50,
                top_p: 0.95,
                seed: 7,
                ..Sampling::default()
            }),
        };
        let want = pooled(model, prompts, 1, &decoding);
        assert_eq!(pooled(model, prompts, 3, &decoding), want);
        assert_eq!(pooled(model, prompts, 8, &decoding), want);
        // Two sequences with the same prompt draw differently.
        let twice = [prompts[0].clone(), prompts[0].clone()];
        let twice = pooled(model, &twice, 2, &decoding);
        assert_eq!(twice[0], want[0]);
        assert_ne!(twice[0].0, twice[1].0);
    });
}

#[test]
fn logits_of_some_rows_are_those_of_all() {
    each_model(|model, prompts| {
        let want = whole(model, &prompts[0]);
        let mut session = session(model, &[], 1, 64);
        let slot = session.open().unwrap();
        let wants: Vec<_> = (0..prompts[0].len() as u32)
            .map(|p| (Site::Output, slot, p))
            .collect();
        let d_model = model.config().d_model;
        let mut capture = Capture::new(model.backend(), &wants, d_model).unwrap();
        let feeds = [Feed::new(slot, &prompts[0])];
        session
            .run(&Pass::new(model, &feeds), &mut capture)
            .unwrap();
        let mut seen = vec![];
        session
            .logits(capture.rows(), &[5, 0, 5], |i, logits| {
                seen.push((i, bits(logits)));
                Ok(())
            })
            .unwrap();
        let want = [
            (0, want[5].clone()),
            (1, want[0].clone()),
            (2, want[5].clone()),
        ];
        assert_eq!(seen, want);
    });
}

#[test]
fn keys_in_16_bits_take_half_the_room() {
    let exact = load("llama2-mha", None, 2);
    let prompt = &prompts("llama2-mha")[0];
    let score = |model: &Llama<Cpu>, size: &SessionSize| {
        let mut session = Session::new(model, size).unwrap();
        let slot = session.open().unwrap();
        session.score(&[(slot, prompt)]).unwrap().remove(0)
    };
    let in_f32 = SessionSize::new(&exact, 2, 64);
    let want = score(&exact, &in_f32);
    // Keys and values are off by up to half a unit: 2^-9 of their size, or 2^-12. The model is 4 layers deep.
    for (kv, error) in [(DType::Bf16, 0.05), (DType::F16, 0.05 / 8.0)] {
        let model = exact.clone().with_kv(kv).unwrap();
        let size = SessionSize::new(&model, 2, 64);
        assert_eq!(in_f32.kv_bytes(&exact), 2 * size.kv_bytes(&model));
        let scores = score(&model, &size);
        assert_ne!(scores, want);
        for (got, want) in scores.iter().zip(&want) {
            assert!(
                (got - want).abs() < error,
                "{got} in {kv}, {want} with keys in f32"
            );
        }
        // A session may choose for itself.
        let own = SessionSize {
            kv,
            ..in_f32.clone()
        };
        assert_eq!(score(&exact, &own), scores);
        assert_eq!(score(&model, &in_f32), want);
    }
}
