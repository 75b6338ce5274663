//! Steps, and the outcome of a run.

use std::fmt;
use std::ops::ControlFlow;

use selfie_kernels::Backend;
use selfie_llama::{Llama, MlpWeights};
use serde::Serialize;

use crate::{ControlError, Edit, Result, Watched};

/// A step, as it was before its update. The log has the first seven fields, in this order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Step {
    /// Counted from 0.
    pub step: usize,
    /// The loss without the keep term.
    pub loss: f64,
    /// The keep loss, before its weight; `None` without reference prompts.
    pub keep_loss: Option<f64>,
    /// The mean KL divergence on the reference prompts, in nats; `None` without them.
    pub drift: Option<f64>,
    /// The reward of each embedding; empty in supervised control.
    pub rewards: Vec<f64>,
    /// What each embedding says; empty in supervised control unless asked for.
    pub interpretations: Vec<String>,
    /// The continuations of the probes.
    pub probes: Vec<String>,
    /// The interpretations that a judge could not decide: their reward is 0.
    pub undecided: Vec<usize>,
    /// The largest factor by which an embedding's norm has grown or shrunk since the run began. In supervised control,
    /// a norm between the original and the target's counts as unchanged.
    pub norm_change: f64,
    /// What the model now writes, if a [`Watch`](crate::Watch) was asked for.
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

/// Receives each step. `Break` ends the run before the step's update. Any closure over [`Step`] is an observer.
pub trait Observer {
    /// Called with each step before its update.
    fn step(&mut self, step: &Step) -> ControlFlow<()>;
}

impl<F: FnMut(&Step) -> ControlFlow<()>> Observer for F {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        self(step)
    }
}

/// The result of a run. The model has the edit; [`revert`](Outcome::revert) removes it and [`apply`](Outcome::apply)
/// restores it.
#[derive(Debug)]
pub struct Outcome {
    /// The edit. It changes nothing if [`Outcome::updates`] is 0.
    pub edit: Edit,
    /// The MLP that the edit replaces.
    pub(crate) base: MlpWeights,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Why the run ended.
    pub end: End,
}

impl Outcome {
    /// The number of updates in the edit.
    pub fn updates(&self) -> usize {
        self.edit.meta.updates
    }

    /// Applies the edit to the model it was made on. If the model has another MLP by now, this is an error and the
    /// model does not change.
    pub fn apply<B: Backend>(&self, model: &mut Llama<B>) -> Result<()> {
        for tensor in &model.mlp(self.edit.mlp.layer)?.tensors {
            self.edit.check_base("the edit", tensor)?;
        }
        Ok(model.set_mlp(&self.edit.mlp)?)
    }

    /// Reverts the edit, and restores the exact bytes from before the run. If the model does not have the edit's MLP,
    /// this is an error and the model does not change.
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
    /// The loss fell below the bound.
    LossBelow {
        /// The loss.
        loss: f64,
        /// The bound.
        bound: f64,
    },
    /// The mean reward reached the bound and stayed there for long enough.
    Reward {
        /// The reward.
        reward: f64,
        /// The bound.
        bound: f64,
    },
    /// The last update pushed the drift over its bound, and was undone.
    Drift {
        /// The drift with that update.
        drift: f64,
        /// The bound.
        bound: f64,
    },
    /// The last update made the model write texts that surprise the unedited model too much, and was undone.
    Surprise {
        /// The rise, in nats per token.
        rise: f64,
        /// The bound.
        bound: f64,
    },
    /// The last update changed an embedding's norm too much, and was undone.
    Norm {
        /// The factor.
        change: f64,
        /// The bound.
        bound: f64,
    },
    /// The observer stopped the run.
    Stopped,
    /// A step failed; the edit holds the updates before it.
    Failed(Box<ControlError>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Steps => write!(f, "all steps are done"),
            End::LossBelow { loss, bound } => write!(f, "the loss {loss:.6} is below {bound}"),
            End::Drift { drift, bound } => write!(
                f,
                "the drift {drift:.6} exceeded its bound {bound}; the last update was undone"
            ),
            End::Reward { reward, bound } => {
                write!(
                    f,
                    "the mean reward {reward} reached {bound} and stayed there"
                )
            }
            End::Surprise { rise, bound } => write!(
                f,
                "the model's texts surprise the unedited model by {rise:.2} nats per token more than before, above the \
                 bound {bound}; the last update was undone"
            ),
            End::Norm { change, bound } => write!(
                f,
                "the norm of an embedding changed by a factor of {change:.3}, above the bound {bound}; the last \
                 update was undone"
            ),
            End::Stopped => write!(f, "stopped"),
            End::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}
