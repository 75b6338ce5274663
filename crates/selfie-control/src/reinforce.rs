//! Reinforcement control: trains embeddings away from what a reward punishes (arXiv 2403.10949, section 3.4).

use selfie_interp::Options;
use selfie_kernels::Backend;
use selfie_llama::{Llama, LlamaConfig, Tokenizer};
use serde_json::json;

use crate::options::{
    check_interpretation, check_layer, check_sources, describe_interpretation, describe_sources,
};
use crate::reward::{Interpreted, Reward, Verdicts};
use crate::run::{Loss, Objective, Sources, StepContext, train};
use crate::states::interpret_embeddings;
use crate::{ControlError, Observer, Outcome, Push, Result, Training, Unedited};

/// At each step, the model with the edit so far interprets the embeddings of the prompts, and each interpretation gets
/// a reward. The MLP below then trains on `mean(-reward * <out, stop(out)> / |stop(out)|^2)`: rewarded embeddings grow,
/// punished ones shrink. With [`Push::Until`], an embedding that has its reward does not contribute to the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Reinforce {
    /// The embeddings: prompts, and a token of each.
    pub sources: Vec<(String, usize)>,
    /// The layer of the embeddings, numbered as in hidden_states: 1..n_layers.
    pub layer: usize,
    /// How to interpret the embeddings.
    pub interpretation: Options,
    /// How to train.
    pub training: Training,
}

impl Reinforce {
    /// Finds every error that does not need the weights.
    pub fn check(&self, config: &LlamaConfig, tokenizer: &Tokenizer) -> Result<()> {
        check_layer(config, self.layer)?;
        check_sources(config, tokenizer, self.training.bos, &self.sources)?;
        check_interpretation(config, tokenizer, &self.interpretation)?;
        self.training.check(config, tokenizer)
    }

    /// Runs control. Afterwards the model has the edit in [`Outcome::edit`]. An error before the first update leaves
    /// the model as it was; a later one ends the run with [`End::Failed`](crate::End::Failed).
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

    /// Captures the unedited model's states for the prompts, to share among runs on these embeddings that differ only
    /// in training.
    pub fn unedited<B: Backend>(
        &self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
    ) -> Result<Unedited<B>> {
        self.check(model.config(), tokenizer)?;
        let sources = Sources::new(&self.sources, self.layer);
        Unedited::new(model, tokenizer, &sources, &self.training)
    }

    /// Whether `unedited` was captured by [`unedited`](Self::unedited) for these embeddings and options, given the same
    /// model.
    pub fn fits<B: Backend>(&self, unedited: &Unedited<B>) -> bool {
        unedited.fits(&Sources::new(&self.sources, self.layer), &self.training)
    }

    /// Like [`run`](Self::run), with known `unedited` states; gives the same bits.
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

    fn loss(&mut self, context: &StepContext<'_, B>, embeddings: &[f32]) -> Result<Loss> {
        let interpretations = interpret_embeddings(context, embeddings, &self.of.interpretation)?;
        let sources = &self.of.sources;
        let interpreted: Vec<Interpreted<'_>> = sources
            .iter()
            .zip(&interpretations)
            .map(|((prompt, token), interpretation)| Interpreted {
                step: context.step,
                layer: self.of.layer,
                token: *token,
                interpretation,
                prompt,
                bos: self.of.training.bos,
            })
            .collect();
        let verdicts = self
            .reward
            .rewards(context.model, context.tokenizer, &interpreted)?;
        let Verdicts { rewards, undecided } = verdicts;
        check_rewards(context.step, &rewards, interpretations.len())?;
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

/// `mean(-reward * <out, stop(out)> / |stop(out)|^2)` over the embeddings (`[n, d_model]`), and its gradient. The
/// gradient is 0 for embeddings of length 0 and for those whose reward is `enough`.
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
        // <out, stop(out)> and |stop(out)|^2 are equal; only their gradients differ.
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
