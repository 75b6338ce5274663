//! Rewards for interpretations, from -1 to 1.

mod command;
mod judge;
mod words;

pub use command::CommandReward;
pub use judge::{Judge, JudgeModel};
pub use words::{When, WordReward, mentions};

use selfie_kernels::Backend;
use selfie_llama::{Bos, Llama, Tokenizer};
use serde::Serialize;
use serde_json::Value;

use crate::Result;

/// An interpretation to reward. Its JSON is one line of the protocol of [`CommandReward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Interpreted<'a> {
    /// The step, counted from 0.
    pub step: usize,
    /// The embedding's layer, numbered as in hidden_states.
    pub layer: usize,
    /// The embedding's token in the prompt.
    pub token: usize,
    /// The interpretation.
    pub interpretation: &'a str,
    /// The embedding's prompt.
    pub prompt: &'a str,
    /// Whether that prompt begins with bos.
    #[serde(skip)]
    pub bos: Bos,
}

/// The rewards of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// A number from -1 to 1 for each interpretation.
    pub rewards: Vec<f64>,
    /// The indices of undecided interpretations, whose reward is 0.
    pub undecided: Vec<usize>,
}

/// Something that rewards interpretations.
pub trait Reward<B: Backend> {
    /// The rewards for the interpretations of one step, in order. `model` is the controlled model with the edit so far.
    fn rewards(
        &mut self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts>;

    /// The record of the reward in an edit.
    fn describe(&self) -> Value;
}
