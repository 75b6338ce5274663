//! Rewards: what an interpretation is worth, from -1 to 1.

mod command;
mod judge;
mod words;

pub use command::CommandReward;
pub use judge::{Judge, JudgeModel};
pub use words::{When, WordReward, mentions};

use selfie_kernels::Backend;
use selfie_llama::{Llama, Tokenizer};
use serde::Serialize;
use serde_json::Value;

use crate::Result;

/// An interpretation that is to be rewarded. Its JSON is a line of the protocol of [`CommandReward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Interpreted<'a> {
    /// The step, counted from 0.
    pub step: usize,
    /// The embedding's layer, counted as in hidden_states.
    pub layer: usize,
    /// Its token of the prompt.
    pub token: usize,
    /// What it says.
    pub interpretation: &'a str,
    /// The embedding's prompt.
    pub prompt: &'a str,
}

/// The rewards of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// A number from -1 to 1 for each interpretation.
    pub rewards: Vec<f64>,
    /// The interpretations that nothing could be said of: their reward is 0.
    pub undecided: Vec<usize>,
}

/// Something that rewards interpretations.
pub trait Reward<B: Backend> {
    /// The rewards of the interpretations of one step, in order. `model` is the one that is controlled, with the edit so
    /// far.
    fn rewards(
        &mut self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts>;

    /// What an edit says of it.
    fn describe(&self) -> Value;
}
