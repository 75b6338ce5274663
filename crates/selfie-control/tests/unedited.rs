//! Runs that share the unedited states give the same bits as runs by themselves.

use selfie_control::{
    ControlError, Reference, Supervised, Target, TargetCell, Training, Unedited, Watch,
};
use selfie_kernels::Cpu;
use selfie_testkit::control::{keep_on, load};

const PROMPT: &str = "a type of drink";

fn control(layer: usize, lr: f64, beta: f64, batch: usize) -> Supervised {
    Supervised {
        sources: vec![(PROMPT.to_owned(), 2)],
        layer,
        target: Target::Cells(vec![TargetCell {
            prompt: "human and alien are equal".to_owned(),
            layer,
            token: 3,
        }]),
        training: Training {
            seed: 7,
            reference: Some(Reference {
                prompts: vec!["What's highest mountain in the world?".to_owned()],
                beta,
                batch,
                max_drift: None,
            }),
            watch: Some(Watch {
                new_tokens: 4,
                ..Watch::default()
            }),
            ..Training::new(3, lr)
        },
        interpretation: None,
    }
}

#[test]
fn shared_states_change_no_bit() {
    let (model, tokenizer) = load("llama2-mha", None);
    let mut shared: Unedited<Cpu> = control(2, 1e-3, 1.0, 64)
        .unedited(&model, &tokenizer)
        .unwrap();
    // The second run has minibatches, whose order starts anew in each run.
    for (lr, beta, batch) in [
        (1e-3, 1.0, 64),
        (3e-3, 10.0, 3),
        (3e-3, 10.0, 3),
        (1e-3, 0.3, 64),
    ] {
        let control = control(2, lr, beta, batch);
        assert!(control.fits(&shared));
        let alone = control.run(&mut model.clone(), &tokenizer, &mut keep_on);
        let after = control.run_after(&mut model.clone(), &tokenizer, &mut shared, &mut keep_on);
        let (alone, after) = (alone.unwrap(), after.unwrap());
        assert!(alone.updates() > 0);
        assert!(alone.edit.mlp == after.edit.mlp);
        assert_eq!(alone.steps, after.steps);
        assert_eq!(alone.edit.meta, after.edit.meta);
    }
}

#[test]
fn states_of_other_prompts_are_refused() {
    let (model, tokenizer) = load("llama2-mha", None);
    let of = control(2, 1e-3, 1.0, 64);
    let mut unedited = of.unedited(&model, &tokenizer).unwrap();
    let mut other_token = of.clone();
    other_token.sources[0].1 = 1;
    let mut no_watch = of.clone();
    no_watch.training.watch = None;
    for other in [control(1, 1e-3, 1.0, 64), other_token, no_watch] {
        assert!(!other.fits(&unedited));
        let refused = other.run_after(&mut model.clone(), &tokenizer, &mut unedited, &mut keep_on);
        assert!(matches!(
            refused,
            Err(ControlError::OtherPrompts { layer: 2, .. })
        ));
    }
}
