//! When a run stops, which step it writes, and the damage it measures.

use selfie_control::{
    End, Interpreted, Outcome, Push, Reference, Reinforce, Result, Reward, Step, Supervised,
    Target, Training, Verdicts, Watch, Write,
};
use selfie_kernels::Cpu;
use selfie_llama::{Decoding, Llama, Tokenizer, Trace, generate_all};
use selfie_testkit::control::{
    assert_close, golden, interpretation, keep_on, load, supervised_case, wide,
};
use serde_json::Value;

const PROMPTS: [&str; 2] = ["a type of drink", "human and alien are equal"];

/// The rewards of each step, one per embedding.
struct Given<'a>(&'a [[f64; 2]]);

impl Reward<Cpu> for Given<'_> {
    fn rewards(
        &mut self,
        _: &Llama<Cpu>,
        _: &Tokenizer,
        items: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        assert_eq!([items[0].prompt, items[1].prompt], PROMPTS);
        let step = items[0].step.min(self.0.len() - 1);
        Ok(Verdicts {
            rewards: self.0[step].to_vec(),
            undecided: vec![],
        })
    }

    fn describe(&self) -> Value {
        Value::Null
    }
}

/// Controls an embedding of each prompt, and leaves the edit on the model.
fn run(rewards: &[[f64; 2]], training: &Training) -> (Llama<Cpu>, Outcome) {
    let (mut model, tokenizer) = load("llama2-mha", None);
    let control = Reinforce {
        sources: PROMPTS.map(|prompt| (prompt.to_owned(), 2)).to_vec(),
        layer: 2,
        interpretation: interpretation(&model),
        training: training.clone(),
    };
    let outcome = control.run(&mut model, &tokenizer, &mut Given(rewards), &mut keep_on);
    (model, outcome.unwrap())
}

fn training(steps: usize) -> Training {
    Training {
        watch: None,
        max_norm_change: None,
        ..Training::new(steps, 3e-3)
    }
}

#[test]
fn a_reward_has_to_last() {
    let rewards = [[-1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, 1.0]];
    for (patience, looks) in [(0, 2), (1, 5)] {
        let training = Training {
            patience,
            ..training(9)
        };
        let (_, outcome) = run(&rewards, &training);
        assert!(matches!(outcome.end, End::Reward { reward: 1.0, .. }));
        assert_eq!(outcome.steps.len(), looks);
        // The step that confirms the reward is the best one.
        assert_eq!(outcome.updates(), looks - 1);
        assert_eq!(outcome.edit.meta.final_reward, Some(1.0));
    }
    let training = Training {
        stop_reward: Some(0.0),
        patience: 0,
        ..training(9)
    };
    assert_eq!(run(&rewards, &training).1.steps.len(), 1);
}

#[test]
fn the_best_step_is_written() {
    let rewards = [[-1.0, -1.0], [-1.0, 0.5], [0.5, 0.5], [-1.0, 0.0]];
    let best = Training {
        patience: 0,
        ..training(3)
    };
    let (model, outcome) = run(&rewards, &best);
    assert!(matches!(outcome.end, End::Steps));
    assert_eq!((outcome.steps.len(), outcome.updates()), (4, 2));
    assert!(model.mlp(1).unwrap() == outcome.edit.mlp);
    assert_eq!(outcome.edit.meta.rewards, [-1.0, -0.25]);
    assert_eq!(outcome.edit.meta.final_reward, Some(0.5));
    // It is the edit of a run with two updates.
    let last = Training {
        write: Write::Last,
        ..training(2)
    };
    let (_, short) = run(&rewards, &last);
    assert_eq!(short.updates(), 2);
    assert!(short.edit.mlp == outcome.edit.mlp);

    // If nothing was gained, there is nothing to write.
    let (model, outcome) = run(&[[-1.0, -1.0]], &best);
    let (unedited, _) = load("llama2-mha", None);
    assert_eq!(outcome.updates(), 0);
    assert!(model.mlp(1).unwrap() == unedited.mlp(1).unwrap());
}

/// Among steps with equal rewards, the one with less drift is best.
#[test]
fn drift_decides_between_equal_rewards() {
    let training = Training {
        patience: 0,
        stop_reward: None,
        push: Push::Always,
        reference: Some(Reference {
            prompts: vec!["[INST] What's highest mountain in the world? [/INST]".to_owned()],
            beta: 0.0,
            batch: 64,
            max_drift: None,
        }),
        ..training(4)
    };
    let (_, outcome) = run(&[[-1.0, -1.0], [0.5, 0.5]], &training);
    let drifts: Vec<f64> = outcome.steps.iter().filter_map(|s| s.drift).collect();
    let least = (1..5).min_by(|&a, &b| drifts[a].total_cmp(&drifts[b]));
    assert_eq!(Some(outcome.updates()), least);
    assert_eq!(outcome.edit.meta.final_drift, Some(drifts[least.unwrap()]));
}

#[test]
fn a_cell_that_has_its_reward_does_not_push() {
    let (unedited, _) = load("llama2-mha", None);
    let rewarded = [[1.0, 1.0]];
    for (push, moves) in [(Push::Until, false), (Push::Always, true)] {
        let training = Training {
            push,
            stop_reward: None,
            write: Write::Last,
            ..training(3)
        };
        let (model, outcome) = run(&rewarded, &training);
        assert_eq!(outcome.updates(), 3);
        assert_eq!(model.mlp(1).unwrap() != unedited.mlp(1).unwrap(), moves);
        // The loss is that of the published objective.
        assert_eq!(outcome.steps[0].loss, -1.0);
    }
}

fn norm(row: &[f32]) -> f64 {
    wide(row).iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn a_norm_moves_no_further_than_its_bound() {
    let training = Training {
        push: Push::Always,
        stop_reward: None,
        max_norm_change: Some(1.2),
        ..training(50)
    };
    let (_, outcome) = run(&[[-1.0, -1.0], [1.0, 1.0]], &training);
    let End::Norm { change, bound: 1.2 } = outcome.end else {
        panic!("{}", outcome.end);
    };
    let width = outcome.steps[0].embeddings.len() / 2;
    let norms = |step: &Step| [0, width].map(|at| norm(&step.embeddings[at..at + width]));
    let before = norms(&outcome.steps[0]);
    let by_hand = |step: &Step| {
        let now = norms(step);
        let change = |i: usize| (now[i] / before[i]).max(before[i] / now[i]);
        change(0).max(change(1))
    };
    for step in &outcome.steps {
        assert_close("norm", &[step.norm_change], &[by_hand(step)], 0.0, 1e-9);
    }
    assert!(change > 1.2 && outcome.steps.last().unwrap().norm_change == change);
    assert!(outcome.steps[outcome.updates()].norm_change <= 1.2);
}

/// A norm on its way to the target's counts as unchanged.
#[test]
fn the_targets_norm_is_no_change() {
    let (mut model, tokenizer) = load("llama2-mha", None);
    let mut control = supervised_case(&golden("llama2-mha")["supervised"][0]);
    let before = model.mlp(1).unwrap();
    let first = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    model.set_mlp(&before).unwrap();
    let tripled = first.steps[0].embeddings.iter().map(|x| 3.0 * x).collect();
    control.target = Target::Vectors {
        name: "tripled".to_owned(),
        vectors: vec![tripled],
    };
    let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    let norms: Vec<f64> = outcome.steps.iter().map(|s| norm(&s.embeddings)).collect();
    assert!(norms.is_sorted_by(|a, b| a < b), "{norms:?}");
    assert!(outcome.steps.iter().all(|step| step.norm_change == 1.0));
}

/// The texts, and how much they surprise the unedited model, from its logits in f64.
#[test]
fn what_is_written_is_measured_by_the_unedited_model() {
    let (mut model, tokenizer) = load("llama2-mha", None);
    let unedited = model.clone();
    let watch = Watch {
        new_tokens: 6,
        draws: 2,
        max_surprise: None,
    };
    let case = supervised_case(&golden("llama2-mha")["supervised"][0]);
    let mut control = Supervised {
        training: Training {
            watch: Some(watch),
            write: Write::Last,
            reference: Some(Reference {
                prompts: PROMPTS.map(str::to_owned).to_vec(),
                beta: 0.0,
                batch: 64,
                max_drift: None,
            }),
            ..Training::published(6, 3e-2)
        },
        ..case
    };
    let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    let ids = tokenizer.encode(&control.sources[0].0).unwrap();
    let decoding = Decoding {
        max_new_tokens: 6,
        eos: model.config().eos.clone(),
        sampling: None,
    };
    let by_hand = |model: &Llama<Cpu>| {
        let new = generate_all(model, std::slice::from_ref(&ids), &decoding, |_| {}).unwrap();
        let text = [&ids[..], &new[0].new_ids].concat();
        let logits = Trace::new(&unedited, &text).unwrap().logits;
        let vocab = logits.len() / text.len();
        let nats = (ids.len()..text.len()).map(|at| {
            let row = wide(&logits[(at - 1) * vocab..at * vocab]);
            row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[text[at] as usize]
        });
        let surprise = nats.sum::<f64>() / (text.len() - ids.len()) as f64;
        (surprise, tokenizer.decode(&new[0].new_ids).unwrap())
    };
    let first = outcome.steps[0].watched.as_ref().unwrap();
    let (surprise, text) = by_hand(&unedited);
    assert_eq!(first.written.texts, [text]);
    assert_close("before", &[first.written.surprise], &[surprise], 1e-4, 1e-4);
    for drift in [first.answers.unwrap(), first.continuations] {
        assert_eq!((drift.kl, drift.top1), (0.0, 1.0));
    }
    let (after, _) = by_hand(&model);
    let figures = &outcome.edit.meta.report;
    let name = "perplexity of what comes after the controlled prompts";
    let figure = figures.iter().find(|f| f.name == name).unwrap();
    let both = [figure.before, figure.after];
    assert_close("report", &both, &[surprise.exp(), after.exp()], 0.0, 1e-3);
    assert!(after > surprise, "{after}, {surprise}");

    // A bound between the first rise and the earlier ones ends the run there, and undoes that step.
    let rises: Vec<f64> = outcome
        .steps
        .iter()
        .map(|step| step.watched.as_ref().unwrap().written.surprise - first.written.surprise)
        .collect();
    let past = rises.iter().position(|&rise| rise > 0.1).unwrap();
    control.training.watch = Some(Watch {
        max_surprise: Some(0.1),
        ..watch
    });
    let (mut model, _) = load("llama2-mha", None);
    let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
    assert!(matches!(outcome.end, End::Surprise { bound: 0.1, .. }));
    assert_eq!(
        (outcome.steps.len(), outcome.updates()),
        (past + 1, past - 1)
    );
}
