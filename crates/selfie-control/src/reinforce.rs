//! Reinforcement control: embeddings stop saying what a reward punishes (arXiv 2403.10949, section 3.4).

use selfie_interp::Options;
use selfie_kernels::Backend;
use selfie_llama::{Llama, LlamaConfig, Tokenizer};
use serde_json::json;

use crate::options::{check_interpretation, check_layer, check_token, describe_interpretation};
use crate::reward::{Interpreted, Reward, Verdicts};
use crate::run::{Loss, Now, Objective, Sources, train};
use crate::states::interpret_embeddings;
use crate::{ControlError, Observer, Outcome, Result, Training};

/// At each step the embeddings of a prompt are interpreted by the model with the edit so far, each interpretation gets a
/// reward, and the MLP below is trained on `mean(-reward * <out, stop(out)> / |stop(out)|^2)`: a rewarded embedding grows,
/// a punished one shrinks.
#[derive(Clone, Debug, PartialEq)]
pub struct Reinforce {
    /// The prompt.
    pub prompt: String,
    /// The layer of the embeddings, counted as in hidden_states: 1..n_layers.
    pub layer: usize,
    /// The tokens of the prompt; `None` is all.
    pub tokens: Option<Vec<usize>>,
    /// How the embeddings are interpreted.
    pub interpretation: Options,
    /// How to train.
    pub training: Training,
}

impl Reinforce {
    /// Finds every error that can be found without the weights.
    pub fn check(&self, config: &LlamaConfig, tokenizer: &Tokenizer) -> Result<()> {
        check_layer(config, self.layer)?;
        check_token(config, tokenizer, &self.prompt, 0)?;
        let tokens = self.tokens(tokenizer)?;
        if tokens.is_empty() {
            return Err(ControlError::Nothing { what: "token" });
        }
        for token in tokens {
            check_token(config, tokenizer, &self.prompt, token)?;
        }
        check_interpretation(config, tokenizer, &self.interpretation)?;
        self.training.check(config, tokenizer)
    }

    /// Runs it. The model then has the edit on it, as it is in [`Outcome::edit`]; an error before the first update leaves
    /// the model as it was, one after it ends the run with [`End::Failed`](crate::End::Failed).
    pub fn run<B: Backend>(
        &self,
        model: &mut Llama<B>,
        tokenizer: &Tokenizer,
        reward: &mut dyn Reward<B>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        self.check(model.config(), tokenizer)?;
        let tokens = self.tokens(tokenizer)?;
        let options = json!({
            "prompt": self.prompt,
            "tokens": tokens,
            "reward": reward.describe(),
            "training": self.training.describe(),
            "interpretation": describe_interpretation(&self.interpretation),
        });
        let sources = Sources {
            cells: tokens.iter().map(|&t| (&self.prompt[..], t)).collect(),
            layer: self.layer,
        };
        let mut objective = Rewarded {
            of: self,
            tokens: &tokens,
            reward,
        };
        let training = &self.training;
        train(
            model,
            tokenizer,
            &sources,
            &mut objective,
            training,
            options,
            observer,
        )
    }

    fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<usize>> {
        match &self.tokens {
            Some(tokens) => Ok(tokens.clone()),
            None => Ok((0..tokenizer.encode(&self.prompt)?.len()).collect()),
        }
    }
}

struct Rewarded<'a, B: Backend> {
    of: &'a Reinforce,
    tokens: &'a [usize],
    reward: &'a mut dyn Reward<B>,
}

impl<B: Backend> Objective<B> for Rewarded<'_, B> {
    fn method(&self) -> &'static str {
        "reinforcement"
    }

    fn loss(&mut self, now: &Now<'_, B>, embeddings: &[f32]) -> Result<Loss> {
        let interpretations = interpret_embeddings(now, embeddings, &self.of.interpretation)?;
        let interpreted: Vec<Interpreted<'_>> = self
            .tokens
            .iter()
            .zip(&interpretations)
            .map(|(&token, interpretation)| Interpreted {
                step: now.step,
                layer: self.of.layer,
                token,
                interpretation,
            })
            .collect();
        let verdicts = self
            .reward
            .rewards(now.model, now.tokenizer, &interpreted)?;
        let Verdicts { rewards, undecided } = verdicts;
        check_rewards(now.step, &rewards, interpretations.len())?;
        let (loss, gradient) = push(embeddings, &rewards);
        Ok(Loss {
            loss,
            gradient,
            rewards,
            interpretations,
            undecided,
        })
    }

    fn final_loss(&self, _: &[f32]) -> Option<f64> {
        None
    }
}

fn check_rewards(step: usize, rewards: &[f64], expected: usize) -> Result<()> {
    if rewards.len() != expected {
        return Err(ControlError::RewardCount {
            step,
            found: rewards.len(),
            expected,
        });
    }
    match rewards.iter().position(|r| !(-1.0..=1.0).contains(r)) {
        None => Ok(()),
        Some(index) => Err(ControlError::RewardRange {
            step,
            index,
            reward: rewards[index],
        }),
    }
}

/// `mean(-reward * <out, stop(out)> / |stop(out)|^2)` of the embeddings (`[n, d_model]`), and its gradient. An embedding of
/// length 0 has none.
fn push(embeddings: &[f32], rewards: &[f64]) -> (f64, Vec<f32>) {
    let n = rewards.len();
    let width = embeddings.len() / n.max(1);
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(embeddings.len());
    for (out, reward) in embeddings.chunks_exact(width.max(1)).zip(rewards) {
        let square: f64 = out.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        if square == 0.0 {
            gradient.extend(out.iter().map(|_| 0.0));
            continue;
        }
        // <out, stop(out)> and |stop(out)|^2 are the same number; only their gradients differ.
        loss -= reward / n as f64;
        let scale = -reward / (n as f64 * square);
        gradient.extend(out.iter().map(|&x| (scale * f64::from(x)) as f32));
    }
    (loss, gradient)
}
