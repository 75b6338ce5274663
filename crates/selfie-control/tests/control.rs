//! Control beyond the golden numbers: keep loss, drift gate, bounds, seeds, targets, odd models.

use std::ops::ControlFlow;

use selfie_control::{
    ControlError, DriftMeter, End, Probes, Reference, Reinforce, Step, Supervised, Target,
    TargetCell, Training, When, WordReward,
};
use selfie_interp::Options;
use selfie_kernels::{Cpu, DType};
use selfie_llama::{Decoding, Llama, Sampling, Tokenizer, Trace, generate};
use selfie_testkit::control::{
    assert_close, golden, interpretation, keep_on, load, load_dir, logits, odd, supervised_case,
    wide,
};

const PROMPT: &str = "[INST] What's highest mountain in the world? [/INST]";
const OTHERS: [&str; 2] = ["human and alien are equal", "a type of drink"];

fn model() -> (Llama<Cpu>, Tokenizer) {
    load("llama2-mha", None)
}

fn control() -> Supervised {
    supervised_case(&golden("llama2-mha")["supervised"][0])
}

fn reference(max_drift: Option<f64>) -> Option<Reference> {
    Some(Reference {
        prompts: OTHERS.map(str::to_owned).to_vec(),
        beta: 10.0,
        batch: 512,
        max_drift,
    })
}

/// The mean KL divergence and top-1 agreement of two models on texts, from all their logits, in f64.
fn drift_by_hand(before: &Llama<Cpu>, after: &Llama<Cpu>, texts: &[Vec<u32>]) -> (f64, f64) {
    let (mut kl, mut same, mut n) = (0.0, 0, 0);
    for text in texts {
        let of = |model: &Llama<Cpu>| Trace::new(model, text).unwrap().logits;
        let (p, q) = (of(before), of(after));
        let vocab = p.len() / text.len();
        let log_softmax = |x: &[f32]| -> Vec<f64> {
            let sum: f64 = x.iter().map(|&x| f64::from(x).exp()).sum();
            x.iter().map(|&x| f64::from(x) - sum.ln()).collect()
        };
        let best = |x: &[f64]| {
            x.iter()
                .enumerate()
                .max_by(|a, b| a.1.total_cmp(b.1))
                .unwrap()
                .0
        };
        for (p, q) in p.chunks(vocab).zip(q.chunks(vocab)) {
            let (p, q) = (log_softmax(p), log_softmax(q));
            kl += p
                .iter()
                .zip(&q)
                .map(|(p, q)| p.exp() * (p - q))
                .sum::<f64>();
            same += usize::from(best(&p) == best(&q));
            n += 1;
        }
    }
    (kl / n as f64, same as f64 / n as f64)
}

#[test]
fn drift_is_the_divergence_of_the_logits() {
    for name in selfie_testkit::control::GOLDEN {
        let (mut model, tokenizer) = load(name, Some(DType::F32));
        let (unedited, _) = load(name, Some(DType::F32));
        // Enough texts to need more than one pass.
        let texts: Vec<Vec<u32>> = std::iter::repeat_n(OTHERS, 40)
            .flatten()
            .chain([PROMPT])
            .map(|text| tokenizer.encode(text).unwrap())
            .collect();
        let mut meter = DriftMeter::new(&model, &texts, 1).unwrap();
        let none = meter.measure(&model).unwrap();
        assert_eq!((none.kl, none.top1), (0.0, 1.0));
        let mut training = control().training;
        training.reference = reference(None);
        let control = Supervised {
            training,
            ..control()
        };
        let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
        let (kl, top1) = drift_by_hand(&unedited, &model, &texts);
        assert!(kl > 1e-6, "{kl}");
        let drift = meter.measure(&model).unwrap();
        assert_eq!(drift.positions, texts.iter().map(Vec::len).sum::<usize>());
        assert_close("kl", &[drift.kl], &[kl], 1e-7, 1e-3);
        assert_eq!(drift.top1, top1);

        let others = OTHERS.map(|text| tokenizer.encode(text).unwrap());
        let (kl, _) = drift_by_hand(&unedited, &model, &others);
        let last = outcome.edit.meta.final_drift.unwrap();
        assert_close("final drift", &[last], &[kl], 1e-7, 1e-3);
        let drifts = &outcome.edit.meta.drifts;
        assert_eq!(drifts[0], 0.0);
        assert!(drifts.is_sorted() && drifts[4] < last, "{drifts:?}, {last}");
    }
}

#[test]
fn the_gate_takes_the_last_update_back() {
    let (mut model, tokenizer) = model();
    let mut control = control();
    control.training.lr = 3e-3;
    control.training.steps = 6;
    control.training.reference = reference(None);
    let free = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    let drifts = &free.edit.meta.drifts;
    assert!(
        matches!(free.end, End::Steps) && drifts[3] < drifts[4],
        "{drifts:?}"
    );

    // The fourth update exceeds the bound: in the middle of a run, and as its last update.
    let bound = (drifts[3] + drifts[4]) / 2.0;
    assert!(drifts[..4].iter().all(|&drift| drift < bound));
    for (steps, left) in [(6, 3), (4, 3)] {
        control.training.steps = steps;
        let (mut gated, tokenizer) = self::model();
        control.training.reference = reference(Some(bound));
        let outcome = control.run(&mut gated, &tokenizer, &mut keep_on).unwrap();
        let End::Drift { drift, .. } = outcome.end else {
            panic!("{}", outcome.end);
        };
        assert!(drift > bound);
        assert_eq!(outcome.updates(), left);
        assert_eq!(outcome.edit.meta.final_drift, Some(drifts[left]));
        assert!(gated.mlp(1).unwrap() == outcome.edit.mlp);
        // The edit equals that of a shorter run.
        let (mut short, tokenizer) = self::model();
        let mut control = control.clone();
        control.training.steps = left;
        control.training.reference = reference(None);
        let want = control.run(&mut short, &tokenizer, &mut keep_on).unwrap();
        assert!(outcome.edit.mlp == want.edit.mlp);
        assert_eq!(outcome.edit.meta.losses, want.edit.meta.losses);
    }
    // If the first update exceeds the bound, the model stays as it was.
    let (mut gated, tokenizer) = self::model();
    let before = gated.mlp(1).unwrap();
    control.training.reference = reference(Some(1e-9));
    let outcome = control.run(&mut gated, &tokenizer, &mut keep_on).unwrap();
    assert_eq!(outcome.updates(), 0);
    assert!(gated.mlp(1).unwrap() == before);
}

#[test]
fn a_run_ends_below_its_bound_or_on_request() {
    let (mut model, tokenizer) = model();
    let mut control = control();
    control.training.stop_below = Some(40.0);
    let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    // The golden losses are 42.2, 41.2, 40.3, 39.3.
    assert_eq!(outcome.updates(), 3);
    assert_eq!(outcome.steps.len(), 4);
    assert!(matches!(outcome.end, End::LossBelow { bound: 40.0, .. }));
    let last = outcome.edit.meta.final_loss.unwrap();
    assert_eq!(last, outcome.steps[3].loss);

    let (mut model, tokenizer) = self::model();
    control.training.stop_below = None;
    let mut stop = |step: &Step| match step.step {
        2 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let outcome = control.run(&mut model, &tokenizer, &mut stop).unwrap();
    assert_eq!(outcome.updates(), 2);
    assert!(matches!(outcome.end, End::Stopped));
    assert!(model.mlp(1).unwrap() == outcome.edit.mlp);
}

/// The loss is a mean over all cells, and the target a mean over all targets.
#[test]
fn several_sources_and_targets_are_means() {
    let (mut model, tokenizer) = model();
    let ids = |text: &str| tokenizer.encode(text).unwrap();
    let (d, tokens) = (model.config().d_model, ids(PROMPT).len());
    let state = |text: &str, layer: usize, token: usize| {
        let trace = Trace::new(&model, &ids(text)).unwrap();
        let at = (layer * ids(text).len() + token) * d;
        wide(&trace.hidden_states[at..at + d])
    };
    let (a, b) = (state(OTHERS[0], 3, 2), state(OTHERS[1], 4, 1));
    let target: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
    let mean = |cells: &[(&str, usize)]| {
        let sum = |&(text, token): &(&str, usize)| {
            let state = state(text, 2, token);
            let off = state.iter().zip(&target).map(|(a, b)| (a - b) * (a - b));
            off.sum::<f64>()
        };
        cells.iter().map(sum).sum::<f64>() / (cells.len() * d) as f64
    };
    let cells = [(PROMPT, 7), (PROMPT, tokens - 1), (OTHERS[1], 3)];
    let want = mean(&cells);
    let cell = |prompt: &str, layer, token| TargetCell {
        prompt: prompt.to_owned(),
        layer,
        token,
    };
    let vectors = [a, b].map(|v| v.iter().map(|&x| x as f32).collect::<Vec<f32>>());
    let before = model.mlp(1).unwrap();
    let mut edits = Vec::new();
    for target in [
        Target::Cells(vec![cell(OTHERS[0], 3, 2), cell(OTHERS[1], 4, 1)]),
        Target::Vectors {
            name: "two".to_owned(),
            vectors: vectors.to_vec(),
        },
    ] {
        let control = Supervised {
            sources: cells.map(|(text, token)| (text.to_owned(), token)).to_vec(),
            target,
            ..control()
        };
        let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
        assert_close("first loss", &[outcome.steps[0].loss], &[want], 0.0, 1e-5);
        assert!(outcome.edit.meta.losses.is_sorted_by(|a, b| a > b));
        assert!(outcome.edit.meta.final_loss.unwrap() < outcome.steps[4].loss);
        // The embedding in the last step is the edited model's state.
        let last = Trace::new(&model, &ids(OTHERS[1])).unwrap();
        let at = (2 * ids(OTHERS[1]).len() + 3) * d;
        assert!(last.hidden_states[at] != outcome.steps[0].embeddings[2 * d]);
        edits.push(outcome.edit.mlp);
        model.set_mlp(&before).unwrap();
    }
    assert!(edits[0] == edits[1]);
}

/// Embeddings and losses come from the model with the edit, also with biases and in low precision.
#[test]
fn the_embeddings_are_the_edited_models_states() {
    for (bias, dtype) in [(true, DType::F32), (true, DType::Bf16), (false, DType::F16)] {
        let dir = odd(bias, dtype);
        let mut model = load_dir(dir.path(), None, 2);
        let tokenizer = Tokenizer::open(dir.path()).unwrap();
        let mut control = control();
        control.target = Target::Vectors {
            name: "ones".to_owned(),
            vectors: vec![vec![1.0; model.config().d_model]],
        };
        control.layer = 1;
        control.training = Training::published(4, 1e-2);
        control.training.reference = reference(None);
        let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
        assert!(outcome.edit.meta.losses.is_sorted_by(|a, b| a > b));
        assert_eq!(outcome.edit.mlp.tensors.len(), if bias { 6 } else { 3 });
        assert!(model.mlp(0).unwrap() == outcome.edit.mlp);
        let ids = tokenizer.encode(PROMPT).unwrap();
        let d = model.config().d_model;
        let trace = Trace::new(&model, &ids).unwrap();
        let at = (ids.len() + 7) * d;
        let state = wide(&trace.hidden_states[at..at + d]);
        let loss = state.iter().map(|x| (x - 1.0) * (x - 1.0)).sum::<f64>() / d as f64;
        // The loss uses f32 weights; the model rounds them to its dtype.
        let rounding = if dtype == DType::F32 { 1e-5 } else { 1e-2 };
        let last = outcome.edit.meta.final_loss.unwrap();
        assert_close("final loss", &[last], &[loss], 0.0, rounding);
    }
}

#[test]
fn minibatches_follow_the_seed() {
    let run = |seed: u64, batch: usize| {
        let (mut model, tokenizer) = model();
        let mut control = control();
        control.training.lr = 3e-3;
        control.training.seed = seed;
        let mut reference = reference(None);
        reference.as_mut().unwrap().batch = batch;
        control.training.reference = reference;
        let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
        (outcome.edit.meta.keep_losses, outcome.edit.mlp)
    };
    let (losses, edit) = run(1, 4);
    assert!(run(1, 4) == (losses.clone(), edit));
    assert_ne!(run(2, 4).0, losses);
    // 16 rows fit one batch, so the seed does not matter.
    assert!(run(1, 16) == run(2, 900));
}

#[test]
fn probes_and_interpretations_are_those_of_the_model_at_that_step() {
    let (mut model, tokenizer) = model();
    let decoding = Decoding {
        max_new_tokens: 5,
        eos: model.config().eos.clone(),
        sampling: None,
    };
    let mut control = control();
    control.training.lr = 3e-2;
    control.training.probes = Some(Probes {
        prompts: vec![PROMPT.to_owned()],
        decoding: decoding.clone(),
    });
    control.interpretation = Some(interpretation(&model));
    let said = |model: &Llama<Cpu>| {
        let ids = tokenizer.encode(PROMPT).unwrap();
        let got = generate(model, &ids, decoding.clone(), |_| ControlFlow::Continue(()));
        tokenizer.decode(&got.unwrap().new_ids).unwrap()
    };
    let before = said(&model);
    let first = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    assert_eq!(first.steps[0].probes, [&*before]);
    assert!(
        first
            .steps
            .iter()
            .all(|step| step.interpretations.len() == 1)
    );
    let after = said(&model);
    assert_ne!(before, after);
    // The next run starts where this one ended.
    let next = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    assert_eq!(next.steps[0].probes, [after]);
}

#[test]
fn sampled_interpretations_follow_the_seed() {
    let run = |seed: u64| {
        let (mut model, tokenizer) = model();
        let control = Reinforce {
            sources: [1, 3].map(|token| (OTHERS[1].to_owned(), token)).to_vec(),
            layer: 2,
            interpretation: Options {
                sampling: Some(Sampling::default()),
                ..interpretation(&model)
            },
            training: Training {
                seed,
                ..Training::published(3, 3e-4)
            },
        };
        let mut reward = WordReward::new(vec!["e".to_owned()], When::Any).unwrap();
        let outcome = control
            .run(&mut model, &tokenizer, &mut reward, &mut keep_on)
            .unwrap();
        let said: Vec<Vec<String>> = outcome
            .steps
            .iter()
            .map(|s| s.interpretations.clone())
            .collect();
        (said, outcome.edit.mlp)
    };
    let (said, edit) = run(1);
    assert!(run(1) == (said.clone(), edit));
    assert_ne!(run(2).0, said);
    // Each step samples anew.
    assert!(said[0] != said[1] || said[1] != said[2]);
}

#[test]
fn impossible_runs_are_refused_before_they_begin() {
    let (mut model, tokenizer) = model();
    let before = logits(&model, &[1, 2, 3]);
    let mut says = |control: Supervised, parts: &[&str]| {
        let refused = control
            .run(&mut model, &tokenizer, &mut keep_on)
            .unwrap_err();
        let message = refused.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let with = |change: &dyn Fn(&mut Supervised)| {
        let mut control = control();
        change(&mut control);
        control
    };
    says(with(&|c| c.layer = 0), &["layer 0", "1..4"]);
    says(with(&|c| c.layer = 4), &["layer 4", "1..4", "final norm"]);
    says(with(&|c| c.sources[0].1 = 99), &["token 99", "0.."]);
    says(with(&|c| c.sources.clear()), &["source"]);
    says(with(&|c| c.sources[0].0.clear()), &["empty"]);
    says(with(&|c| c.training.lr = f64::NAN), &["lr", "NaN"]);
    says(with(&|c| c.training.lr = 0.0), &["lr", "above 0"]);
    says(with(&|c| c.training.steps = 0), &["steps", "at least 1"]);
    says(
        with(&|c| c.training.betas[1] = 1.0),
        &["betas[1]", "below 1"],
    );
    says(
        with(&|c| c.training.stop_below = Some(f64::INFINITY)),
        &["stop_below"],
    );
    says(
        with(&|c| {
            c.training.reference = reference(Some(-1.0));
        }),
        &["max_drift", "-1"],
    );
    says(
        with(&|c| {
            c.training.reference = reference(None);
            c.training.reference.as_mut().unwrap().prompts.clear();
        }),
        &["reference prompt"],
    );
    let vectors = |vectors: Vec<Vec<f32>>| Target::Vectors {
        name: String::new(),
        vectors,
    };
    says(
        with(&|c| c.target = vectors(vec![vec![0.0; 5]])),
        &["5", "64"],
    );
    says(with(&|c| c.target = vectors(vec![])), &["target vector"]);
    let mut nan = vec![0.0; 64];
    nan[3] = f32::NAN;
    says(
        with(&|c| c.target = vectors(vec![nan.clone()])),
        &["NaN at index 3"],
    );
    says(with(&|c| c.target = Target::Cells(vec![])), &["target"]);
    let cell = |layer, token| TargetCell {
        prompt: PROMPT.to_owned(),
        layer,
        token,
    };
    says(
        with(&|c| c.target = Target::Cells(vec![cell(5, 0)])),
        &["5", "0..=4"],
    );
    says(
        with(&|c| c.target = Target::Cells(vec![cell(1, 77)])),
        &["token 77"],
    );
    assert!(logits(&model, &[1, 2, 3]) == before);
}

#[test]
fn a_diverging_run_keeps_the_last_finite_edit() {
    let (mut model, tokenizer) = model();
    let mut control = control();
    control.training.lr = 1e30;
    control.training.steps = 4;
    match control.run(&mut model, &tokenizer, &mut keep_on) {
        Err(error) => assert!(
            matches!(
                error,
                ControlError::Diverged { .. } | ControlError::Llama(_)
            ),
            "{error}"
        ),
        Ok(outcome) => {
            let End::Failed(ref error) = outcome.end else {
                panic!("{}", outcome.end);
            };
            assert!(error.to_string().contains("learning rate"), "{error}");
            assert!(outcome.updates() < 4);
            assert!(model.mlp(1).unwrap() == outcome.edit.mlp);
        }
    }
}
