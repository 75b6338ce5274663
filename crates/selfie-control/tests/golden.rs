//! Both methods against PyTorch: losses, embeddings, edited weights, and what the model says afterwards.

use selfie_control::{Interpreted, Outcome, Reinforce, Result, Reward, Step, Training, Verdicts};
use selfie_kernels::{Cpu, DType};
use selfie_llama::{Llama, Tokenizer};
use selfie_testkit::control::{
    GOLDEN, Tensors, assert_close, assert_says, doubles, golden, interpretation, keep_on, load,
    supervised_case, wide,
};
use serde_json::Value;

/// Adam divides by the root of a gradient's square. Where a gradient is almost 0, a rounding error moves a weight by as
/// much as the step size, so a weight may be off by a small part of all steps together.
fn assert_weights(outcome: &Outcome, tensors: &Tensors, case: &Value, lr: f64, steps: usize) {
    let prefix = case["tensors"].as_str().unwrap();
    for tensor in &outcome.edit.mlp.tensors {
        let name = tensor.name.split(".mlp.").nth(1).unwrap();
        let want = wide(&tensors.get(&format!("{prefix}mlp.{name}")));
        let got = wide(&tensor.to_f32());
        assert_close(name, &got, &want, lr * steps as f64 * 1e-2, 1e-4);
        let off = |(a, b): (&f64, &f64)| (a - b).abs();
        let mean = got.iter().zip(&want).map(off).sum::<f64>() / got.len() as f64;
        assert!(mean < lr * 1e-4, "{name}: mean distance {mean}");
    }
}

#[test]
fn supervised_control_agrees_with_pytorch() {
    for name in GOLDEN {
        let tensors = Tensors::open(name);
        for case in golden(name)["supervised"].as_array().unwrap() {
            let (mut model, tokenizer) = load(name, Some(DType::F32));
            let control = supervised_case(case);
            let outcome = control.run(&mut model, &tokenizer, &mut keep_on).unwrap();
            let losses: Vec<f64> = outcome.steps.iter().map(|s| s.loss).collect();
            let kept: Vec<f64> = outcome.steps.iter().filter_map(|s| s.keep_loss).collect();
            assert_close("losses", &losses, &doubles(&case["losses"]), 0.0, 1e-4);
            // PyTorch's first value is rounding error: there is no edit yet.
            assert_close("keep", &kept, &doubles(&case["keep_losses"]), 1e-9, 1e-4);
            assert_eq!(outcome.updates(), losses.len());
            assert_eq!(outcome.edit.meta.losses, losses);
            let training = &control.training;
            assert_weights(&outcome, &tensors, case, training.lr, training.steps);

            assert_says(name, &model, &tokenizer, &control, case);
        }
    }
}

/// The rewards of the golden data, whatever the interpretations are.
struct Given(Vec<Vec<f64>>);

impl Reward<Cpu> for Given {
    fn rewards(
        &mut self,
        _: &Llama<Cpu>,
        _: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        Ok(Verdicts {
            rewards: self.0[interpretations[0].step].clone(),
            undecided: vec![],
        })
    }

    fn describe(&self) -> Value {
        Value::Null
    }
}

#[test]
fn reinforcement_control_agrees_with_pytorch() {
    for name in GOLDEN {
        let tensors = Tensors::open(name);
        for case in golden(name)["reinforcement"].as_array().unwrap() {
            let (mut model, tokenizer) = load(name, Some(DType::F32));
            let rewards: Vec<Vec<f64>> = case["rewards"]
                .as_array()
                .unwrap()
                .iter()
                .map(doubles)
                .collect();
            let lr = case["lr"].as_f64().unwrap();
            let prompt = case["prompt"].as_str().unwrap().to_owned();
            let tokens = 0..tokenizer.encode(&prompt).unwrap().len();
            let control = Reinforce {
                sources: tokens.map(|token| (prompt.clone(), token)).collect(),
                layer: case["source_layer"].as_u64().unwrap() as usize,
                interpretation: interpretation(&model),
                training: Training::published(rewards.len(), lr),
            };
            let mut reward = Given(rewards.clone());
            let outcome = control
                .run(&mut model, &tokenizer, &mut reward, &mut keep_on)
                .unwrap();
            let losses: Vec<f64> = outcome.steps.iter().map(|s| s.loss).collect();
            assert_close("losses", &losses, &doubles(&case["losses"]), 1e-6, 1e-4);
            let got: Vec<Vec<f64>> = outcome.steps.iter().map(|s| s.rewards.clone()).collect();
            assert_eq!(got, rewards);
            let prefix = case["tensors"].as_str().unwrap();
            let want = wide(&tensors.get(&format!("{prefix}embeddings")));
            let embeddings: Vec<&Step> = outcome.steps.iter().collect();
            let got: Vec<f64> = embeddings
                .iter()
                .flat_map(|s| wide(&s.embeddings))
                .collect();
            assert_close("embeddings", &got, &want, 1e-4, 1e-4);
            assert_weights(&outcome, &tensors, case, lr, rewards.len());
        }
    }
}
