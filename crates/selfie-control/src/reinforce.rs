//! Reinforcement control: embeddings stop saying what a reward punishes (arXiv 2403.10949, section 3.4).

use selfie_interp::Options;
use selfie_kernels::Backend;
use selfie_llama::{Llama, LlamaConfig, Tokenizer};
use serde_json::json;

use crate::options::{
    check_interpretation, check_layer, check_sources, describe_interpretation, describe_sources,
};
use crate::reward::{Interpreted, Reward, Verdicts};
use crate::run::{Loss, Now, Objective, Sources, train};
use crate::states::interpret_embeddings;
use crate::{ControlError, Observer, Outcome, Push, Result, Training, Unedited};

/// At each step the embeddings of prompts are interpreted by the model with the edit so far, each interpretation gets a
/// reward, and the MLP below is trained on `mean(-reward * <out, stop(out)> / |stop(out)|^2)`: a rewarded embedding grows,
/// a punished one shrinks. With [`Push::Until`] an embedding that has its reward has no part in the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Reinforce {
    /// The embeddings: prompts, and a token of each.
    pub sources: Vec<(String, usize)>,
    /// Their layer, counted as in hidden_states: 1..n_layers.
    pub layer: usize,
    /// How the embeddings are interpreted.
    pub interpretation: Options,
    /// How to train.
    pub training: Training,
}

impl Reinforce {
    /// Finds every error that can be found without the weights.
    pub fn check(&self, config: &LlamaConfig, tokenizer: &Tokenizer) -> Result<()> {
        check_layer(config, self.layer)?;
        check_sources(config, tokenizer, &self.sources)?;
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
        let mut unedited = self.unedited(model, tokenizer)?;
        self.run_after(model, tokenizer, &mut unedited, reward, observer)
    }

    /// What a model makes of the prompts before it is edited, for several runs of these embeddings that differ in their
    /// training.
    pub fn unedited<B: Backend>(
        &self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
    ) -> Result<Unedited<B>> {
        self.check(model.config(), tokenizer)?;
        let sources = Sources::new(&self.sources, self.layer);
        Unedited::new(model, tokenizer, &sources, &self.training)
    }

    /// Whether `unedited` is what [`unedited`](Self::unedited) gives, for the model that it was made with.
    pub fn fits<B: Backend>(&self, unedited: &Unedited<B>) -> bool {
        unedited.fits(&Sources::new(&self.sources, self.layer), &self.training)
    }

    /// [`run`](Self::run) on a model whose `unedited` states are known, to the same bits.
    pub fn run_after<B: Backend>(
        &self,
        model: &mut Llama<B>,
        tokenizer: &Tokenizer,
        unedited: &mut Unedited<B>,
        reward: &mut dyn Reward<B>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        self.check(model.config(), tokenizer)?;
        let options = json!({
            "sources": describe_sources(&self.sources),
            "reward": reward.describe(),
            "training": self.training.describe(),
            "interpretation": describe_interpretation(&self.interpretation),
        });
        let sources = Sources::new(&self.sources, self.layer);
        let mut objective = Rewarded { of: self, reward };
        let training = &self.training;
        train(
            model,
            tokenizer,
            &sources,
            unedited,
            &mut objective,
            training,
            options,
            observer,
        )
    }
}

struct Rewarded<'a, B: Backend> {
    of: &'a Reinforce,
    reward: &'a mut dyn Reward<B>,
}

impl<B: Backend> Objective<B> for Rewarded<'_, B> {
    fn method(&self) -> &'static str {
        "reinforcement"
    }

    fn loss(&mut self, now: &Now<'_, B>, embeddings: &[f32]) -> Result<Loss> {
        let interpretations = interpret_embeddings(now, embeddings, &self.of.interpretation)?;
        let sources = &self.of.sources;
        let interpreted: Vec<Interpreted<'_>> = sources
            .iter()
            .zip(&interpretations)
            .map(|((prompt, token), interpretation)| Interpreted {
                step: now.step,
                layer: self.of.layer,
                token: *token,
                interpretation,
                prompt,
            })
            .collect();
        let verdicts = self
            .reward
            .rewards(now.model, now.tokenizer, &interpreted)?;
        let Verdicts { rewards, undecided } = verdicts;
        check_rewards(now.step, &rewards, interpretations.len())?;
        let training = &self.of.training;
        let enough = match training.push {
            Push::Until => training.stop_reward.unwrap_or(1.0),
            Push::Always => f64::INFINITY,
        };
        let (loss, gradient) = push(embeddings, &rewards, enough);
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

    fn goal(&self) -> Option<&[f32]> {
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
/// length 0 has none, nor has one whose reward is `enough`.
fn push(embeddings: &[f32], rewards: &[f64], enough: f64) -> (f64, Vec<f32>) {
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
        let pushed = if *reward < enough { *reward } else { 0.0 };
        let scale = -pushed / (n as f64 * square);
        gradient.extend(out.iter().map(|&x| (scale * f64::from(x)) as f32));
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `d/dx -r <x, stop(x)> / (n |x|^2)` is `-r x / (n |x|^2)`.
    #[test]
    fn an_embedding_that_has_its_reward_is_not_pushed() {
        let (embeddings, rewards) = ([3.0, 4.0, 1.0, 0.0], [1.0, -1.0]);
        let (loss, gradient) = push(&embeddings, &rewards, f64::INFINITY);
        assert_eq!((loss, &gradient[..]), (0.0, &[-0.06, -0.08, 0.5, 0.0][..]));
        let (loss, gradient) = push(&embeddings, &rewards, 1.0);
        assert_eq!((loss, &gradient[..]), (0.0, &[0.0, 0.0, 0.5, 0.0][..]));
    }
}
