//! What a run tells of itself.

use std::fmt;
use std::ops::ControlFlow;

use selfie_kernels::Backend;
use selfie_llama::{Llama, MlpWeights};
use serde::Serialize;

use crate::{ControlError, Edit, Result, Watched};

/// A step, as it was before its update. The first seven fields, in this order, are those of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Step {
    /// Counted from 0.
    pub step: usize,
    /// The loss without the keep term.
    pub loss: f64,
    /// The keep loss, before its factor; `None` without reference prompts.
    pub keep_loss: Option<f64>,
    /// The mean KL divergence on the reference prompts, in nats; `None` without them.
    pub drift: Option<f64>,
    /// The reward of each embedding; empty in supervised control.
    pub rewards: Vec<f64>,
    /// What each embedding says; empty in supervised control where it was not asked for.
    pub interpretations: Vec<String>,
    /// How the probes were continued.
    pub probes: Vec<String>,
    /// The interpretations that a judge said neither word of: their reward is 0.
    pub undecided: Vec<usize>,
    /// The largest factor by which the norm of an embedding has grown or shrunk since the run began. In supervised
    /// control a norm between that and the target's has not moved.
    pub norm_change: f64,
    /// What the model writes by now, where a [`Watch`](crate::Watch) was asked for.
    pub watched: Option<Watched>,
    /// The embeddings, `[n, d_model]`.
    #[serde(skip)]
    pub embeddings: Vec<f32>,
}

impl Step {
    /// The mean of the rewards; `None` in supervised control.
    pub fn mean_reward(&self) -> Option<f64> {
        let n = self.rewards.len();
        (n > 0).then(|| self.rewards.iter().sum::<f64>() / n as f64)
    }
}

/// Who is told of each step. `Break` ends the run before the step's update. A closure from [`Step`] is one.
pub trait Observer {
    /// A step, before its update.
    fn step(&mut self, step: &Step) -> ControlFlow<()>;
}

impl<F: FnMut(&Step) -> ControlFlow<()>> Observer for F {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self(step)
    }
}

/// What came of a run. The model has the edit on it; [`revert`](Outcome::revert) takes it off, [`apply`](Outcome::apply)
/// brings it back.
#[derive(Debug)]
pub struct Outcome {
    /// The edit. With [`Outcome::updates`] 0 it changes nothing.
    pub edit: Edit,
    /// The MLP that the edit takes the place of.
    pub(crate) base: MlpWeights,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Why it ended.
    pub end: End,
}

impl Outcome {
    /// Updates that are in the edit.
    pub fn updates(&self) -> usize {
        self.edit.meta.updates
    }

    /// Puts the edit on the model that it was made on; an error, and no change, where that has another MLP by now.
    pub fn apply<B: Backend>(&self, model: &mut Llama<B>) -> Result<()> {
        for tensor in &model.mlp(self.edit.mlp.layer)?.tensors {
            self.edit.check_base("the edit", tensor)?;
        }
        Ok(model.set_mlp(&self.edit.mlp)?)
    }

    /// Takes the edit off, to the exact bytes that were there before the run; an error, and no change, where the model has
    /// another MLP than the edit's.
    pub fn revert<B: Backend>(&self, model: &mut Llama<B>) -> Result<()> {
        let there = model.mlp(self.edit.mlp.layer)?;
        let mut tensors = there.tensors.iter().zip(&self.edit.mlp.tensors);
        if let Some((tensor, _)) = tensors.find(|(there, edited)| there != edited) {
            return Err(ControlError::ChangedSince {
                edit: "the edit".to_owned(),
                tensor: tensor.name.clone(),
            });
        }
        Ok(model.set_mlp(&self.base)?)
    }
}

/// Why a run ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum End {
    /// All steps are done.
    Steps,
    /// The loss is under the bound.
    LossBelow {
        /// The loss.
        loss: f64,
        /// The bound.
        bound: f64,
    },
    /// The mean reward is at least the bound, and was so for as long as it had to.
    Reward {
        /// The reward.
        reward: f64,
        /// The bound.
        bound: f64,
    },
    /// The last update brought the drift over its bound, and was taken back.
    Drift {
        /// The drift with that update.
        drift: f64,
        /// The bound.
        bound: f64,
    },
    /// The last update had the model write what surprises the unedited one too much, and was taken back.
    Surprise {
        /// The rise, in nats a token.
        rise: f64,
        /// The bound.
        bound: f64,
    },
    /// The last update moved an embedding's norm too far, and was taken back.
    Norm {
        /// The factor.
        change: f64,
        /// The bound.
        bound: f64,
    },
    /// The observer asked for it.
    Stopped,
    /// A step failed; the edit holds the updates before it.
    Failed(Box<ControlError>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Steps => write!(f, "all steps are done"),
            End::LossBelow { loss, bound } => write!(f, "the loss {loss:.6} is under {bound}"),
            End::Drift { drift, bound } => write!(
                f,
                "the drift {drift:.6} passed its bound {bound}; the last update was taken back"
            ),
            End::Reward { reward, bound } => {
                write!(f, "the mean reward {reward} has come to {bound} and lasted")
            }
            End::Surprise { rise, bound } => write!(
                f,
                "what the model writes surprises the unedited one by {rise:.2} nats a token more than before, and the \
                 bound is {bound}; that update was taken back"
            ),
            End::Norm { change, bound } => write!(
                f,
                "the norm of an embedding changed by a factor of {change:.3}, and the bound is {bound}; that update was \
                 taken back"
            ),
            End::Stopped => write!(f, "stopped"),
            End::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}
