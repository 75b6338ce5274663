//! The same rows give the same bits, however a pass is cut, batched, cached or threaded.

use std::ops::ControlFlow;

use selfie_kernels::{BatchRow, Cpu, DType, KvLayout, Slot};
use selfie_llama::{
    Decoder, Decoding, KvCache, Llama, Sampling, Sequence, Workspace, branch_rows, generate,
    shared_rows,
};
use selfie_testkit::llama::{GOLDEN, golden, ids, load};

/// f32, and the type that the weights are stored in.
const DTYPES: [Option<DType>; 2] = [Some(DType::F32), None];

fn layout(model: &Llama<Cpu>, shared: usize, own: usize, slots: usize) -> KvLayout {
    let config = model.config();
    config.kv_layout(shared, vec![own; config.n_layers], slots)
}

fn cache(model: &Llama<Cpu>, shared: usize, own: usize, slots: usize) -> KvCache<Cpu> {
    KvCache::new(model.backend(), layout(model, shared, own, slots)).unwrap()
}

fn take(model: &Llama<Cpu>, cache: &mut KvCache<Cpu>, shared: usize) -> u32 {
    let shared = vec![shared; model.config().n_layers];
    cache.take(model.backend(), &shared).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Runs rows in passes of at most `at_a_time`, each cut at some layers, and returns the bits of the logits of
/// every row.
fn logits(
    model: &Llama<Cpu>,
    cache: &mut KvCache<Cpu>,
    rows: &[BatchRow],
    at_a_time: usize,
    cuts: &[usize],
) -> Vec<Vec<u32>> {
    let mut ws = Workspace::new(model, at_a_time, 64).unwrap();
    let mut all = vec![];
    let bounds = [&[0], cuts, &[model.config().n_layers]].concat();
    for rows in rows.chunks(at_a_time) {
        for layers in bounds.windows(2).map(|bounds| bounds[0]..bounds[1]) {
            model
                .forward(&mut ws, cache, rows, layers, &mut ())
                .unwrap();
        }
        let index: Vec<usize> = (0..rows.len()).collect();
        model
            .logits(&mut ws, &index, |_, logits| {
                all.push(bits(logits));
                Ok(())
            })
            .unwrap();
    }
    all
}

fn whole(model: &Llama<Cpu>, prompt: &[u32]) -> Vec<Vec<u32>> {
    let mut cache = cache(model, 0, 64, 1);
    let slot = take(model, &mut cache, 0);
    let rows: Vec<_> = branch_rows(slot, 0, prompt).collect();
    logits(model, &mut cache, &rows, rows.len(), &[])
}

fn prompts(name: &str) -> Vec<Vec<u32>> {
    let golden = golden(name);
    let cases = golden["forward"].as_array().unwrap().iter();
    cases.map(|case| ids(&case["input_ids"])).collect()
}

/// Calls `check` with each golden model in each type.
fn each_model(check: impl Fn(&Llama<Cpu>, &[Vec<u32>])) {
    for name in GOLDEN {
        for dtype in DTYPES {
            check(&load(name, dtype, 2), &prompts(name));
        }
    }
}

#[test]
fn chunked_is_whole() {
    each_model(|model, prompts| {
        let want = whole(model, &prompts[0]);
        for at_a_time in [1, 2, 3, 7] {
            let mut cache = cache(model, 0, 64, 1);
            let slot = take(model, &mut cache, 0);
            let rows: Vec<_> = branch_rows(slot, 0, &prompts[0]).collect();
            assert_eq!(logits(model, &mut cache, &rows, at_a_time, &[]), want);
        }
    });
}

#[test]
fn a_pass_cut_into_layers_is_whole() {
    each_model(|model, prompts| {
        let want = whole(model, &prompts[0]);
        let n = model.config().n_layers;
        for cut in 0..=n {
            let mut cache = cache(model, 0, 64, 1);
            let slot = take(model, &mut cache, 0);
            let rows: Vec<_> = branch_rows(slot, 0, &prompts[0]).collect();
            assert_eq!(logits(model, &mut cache, &rows, rows.len(), &[cut]), want);
        }
    });
}

#[test]
fn batched_is_single() {
    each_model(|model, prompts| {
        let mut cache = cache(model, 0, 64, prompts.len());
        let (mut rows, mut want) = (vec![], vec![]);
        for prompt in prompts {
            let slot = take(model, &mut cache, 0);
            rows.extend(branch_rows(slot, 0, prompt));
            want.extend(whole(model, prompt));
        }
        assert_eq!(logits(model, &mut cache, &rows, rows.len(), &[]), want);
    });
}

#[test]
fn a_shared_segment_is_a_branch_of_its_own() {
    each_model(|model, prompts| {
        let prompt = &prompts[0];
        let want = whole(model, prompt);
        for shared in [1, 4, prompt.len() - 1] {
            let mut cache = cache(model, prompt.len(), 64, 2);
            let rows: Vec<_> = shared_rows(0, prompt).collect();
            logits(model, &mut cache, &rows, rows.len(), &[]);
            // Two slots see the first positions; what else is in the segment is not theirs.
            for _ in 0..2 {
                let slot = take(model, &mut cache, shared);
                let rows: Vec<_> = branch_rows(slot, shared, &prompt[shared..]).collect();
                let got = logits(model, &mut cache, &rows, rows.len(), &[]);
                assert_eq!(got, want[shared..]);
            }
        }
    });
}

#[test]
fn shared_lengths_may_differ_by_layer() {
    each_model(|model, prompts| {
        let (prompt, n) = (&prompts[0], model.config().n_layers);
        let (want, half, m) = (whole(model, prompt), n / 2, prompt.len());
        let mut cache = cache(model, m, 64, 1);
        let mut ws = Workspace::new(model, m, 64).unwrap();
        let rows: Vec<_> = shared_rows(0, prompt).collect();
        model
            .forward(&mut ws, &mut cache, &rows, 0..half, &mut ())
            .unwrap();
        // Below `half` the branch sees all m positions; from there on it computes those from 4 on itself.
        let kept = model.backend();
        let mut tail = selfie_kernels::Backend::rows(kept, m, model.config().d_model).unwrap();
        let index: Vec<usize> = (4..m).collect();
        selfie_kernels::Backend::gather(kept, ws.residual(), &index, &mut tail).unwrap();
        model
            .forward(&mut ws, &mut cache, &rows, half..n, &mut ())
            .unwrap();
        let seen: Vec<usize> = (0..n).map(|l| if l < half { m } else { 4 }).collect();
        let slot = cache.take(kept, &seen).unwrap();
        let rows: Vec<_> = branch_rows(slot, 4, &prompt[4..]).collect();
        *ws.residual_mut() = tail;
        model
            .forward(&mut ws, &mut cache, &rows, half..n, &mut ())
            .unwrap();
        let all: Vec<usize> = (0..rows.len()).collect();
        let mut got = vec![];
        model
            .logits(&mut ws, &all, |_, logits| {
                got.push(bits(logits));
                Ok(())
            })
            .unwrap();
        assert_eq!(got, want[4..]);
    });
}

#[test]
fn threads_change_nothing() {
    for name in GOLDEN {
        for dtype in DTYPES {
            let prompt = &prompts(name)[0];
            let want = whole(&load(name, dtype, 1), prompt);
            for threads in [2, 3, 5] {
                assert_eq!(whole(&load(name, dtype, threads), prompt), want);
            }
        }
    }
}

#[test]
fn a_slot_that_is_used_again_is_as_new() {
    each_model(|model, prompts| {
        let mut cache = cache(model, 0, 64, 1);
        for prompt in prompts {
            let slot = take(model, &mut cache, 0);
            assert_eq!(cache.free_slots(), 0);
            let rows: Vec<_> = branch_rows(slot, 0, prompt).collect();
            let got = logits(model, &mut cache, &rows, rows.len(), &[]);
            assert_eq!(got, whole(model, prompt));
            cache.release(slot);
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
        let mut cache = cache(model, 0, 64, 1);
        let slot = take(model, &mut cache, 0);
        let rows: Vec<BatchRow> = branch_rows(slot, 0, &text).collect();
        let mut ws = Workspace::new(model, rows.len(), 64).unwrap();
        let layers = 0..model.config().n_layers;
        model
            .forward(&mut ws, &mut cache, &rows, layers, &mut ())
            .unwrap();
        let first = prompts[0].len() - 1;
        let last: Vec<usize> = (first..first + 8).collect();
        let best = model.best(&mut ws, &last).unwrap();
        let tokens: Vec<u32> = best.iter().map(|best| best.token).collect();
        let logprobs: Vec<f32> = best.iter().map(|best| best.logprob).collect();
        assert_eq!(tokens, got.new_ids);
        assert_eq!(bits(&logprobs), bits(&got.logprobs));
        // A token's score is what the best one was told.
        let scores = model.score(&mut ws, &last, &tokens).unwrap();
        assert_eq!(bits(&scores), bits(&logprobs));
    });
}

/// Decodes all prompts together in `slots` slots; sequences wait for a free one.
fn pooled(
    model: &Llama<Cpu>,
    prompts: &[Vec<u32>],
    slots: usize,
    decoding: &Decoding,
) -> Vec<(Vec<u32>, Vec<u32>)> {
    let mut cache = cache(model, 0, 64, slots);
    let mut ws = Workspace::new(model, 64, 64).unwrap();
    let mut decoder = Decoder::new(decoding.clone()).unwrap();
    let mut done = vec![];
    let mut waiting: Vec<usize> = (0..prompts.len()).rev().collect();
    while done.len() < prompts.len() {
        let mut ended = vec![];
        while let Some(&index) = waiting.last().filter(|_| cache.free_slots() > 0) {
            waiting.pop();
            let slot = take(model, &mut cache, 0);
            let rows: Vec<_> = branch_rows(slot, 0, &prompts[index]).collect();
            let layers = 0..model.config().n_layers;
            model
                .forward(&mut ws, &mut cache, &rows, layers, &mut ())
                .unwrap();
            let sequence = Sequence::new(index as u64, slot, prompts[index].len());
            ended.extend(
                decoder
                    .join(model, &mut ws, vec![sequence], &[rows.len() - 1])
                    .unwrap(),
            );
        }
        if decoder.active() > 0 {
            ended.extend(decoder.step(model, &mut ws, &mut cache, &[]).unwrap());
        }
        for sequence in ended {
            cache.release(sequence.slot);
            done.push(sequence);
        }
    }
    done.sort_by_key(|sequence| sequence.id);
    done.into_iter()
        .map(|s| (s.new_ids, bits(&s.logprobs)))
        .collect()
}

#[test]
fn sequences_that_join_and_leave_are_those_alone() {
    each_model(|model, prompts| {
        let greedy = |eos| Decoding {
            max_new_tokens: 9,
            eos,
            sampling: None,
        };
        // Ids that some of the texts contain, so that they end at different lengths.
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
        // Two sequences of one prompt draw apart.
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
        let mut cache = cache(model, 0, 64, 1);
        let slot = take(model, &mut cache, 0);
        let rows: Vec<_> = branch_rows(slot, 0, &prompts[0]).collect();
        let mut ws = Workspace::new(model, rows.len(), 64).unwrap();
        let layers = 0..model.config().n_layers;
        model
            .forward(&mut ws, &mut cache, &rows, layers, &mut ())
            .unwrap();
        assert!(rows.iter().all(|row| row.slot == Slot::Branch(slot)));
        let mut seen = vec![];
        model
            .logits(&mut ws, &[5, 0, 5], |i, logits| {
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
