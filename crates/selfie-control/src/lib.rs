//! Controls what a LLaMA's hidden embeddings say (SelfIE, arXiv 2403.10949, section 3.4), and measures the effects.
//!
//! `hidden_states[L]` is the sum of the output of layer L-1's MLP and the residual stream before it. [`Supervised`]
//! trains this MLP until an embedding matches a target; [`Reinforce`] trains it until a [`Reward`] accepts what the
//! embeddings say. The result is an [`Edit`]: the new tensors of one MLP, in a file that records the model it was made
//! on.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use selfie_control::{Step, Supervised, Target, TargetCell, Training};
//! use selfie_kernels::{Cpu, CpuOptions};
//! use std::ops::ControlFlow;
//!
//! // The demo checkpoint; `Llama::open` and `Tokenizer::open` open a folder.
//! let (mut model, tokenizer) = selfie_demo::open(Cpu::new(CpuOptions::default())?)?;
//! let before = model.clone();
//! let control = Supervised {
//!     sources: vec![("[INST] What is the capital of France? [/INST]".to_owned(), 8)],
//!     layer: 2,
//!     target: Target::Cells(vec![TargetCell {
//!         prompt: "[INST] What is the capital of Italy? [/INST]".to_owned(),
//!         layer: 2,
//!         token: 8,
//!     }]),
//!     training: Training::new(10, 3e-4),
//!     interpretation: None,
//! };
//! let outcome = control.run(&mut model, &tokenizer, &mut |step: &Step| {
//!     println!("step {}: loss {}", step.step, step.loss);
//!     ControlFlow::Continue(())
//! })?;
//!
//! // The model now has the edit. It can be reverted, to the exact bytes, and applied again; the clone never had it.
//! outcome.revert(&mut model)?;
//! assert_eq!(model.mlp(1)?, before.mlp(1)?);
//! outcome.apply(&mut model)?;
//! assert_eq!(model.mlp(1)?, outcome.edit.mlp);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod drift;
mod edit;
mod error;
mod eval;
mod export;
mod keep;
mod options;
mod output;
mod reinforce;
mod reward;
mod run;
mod states;
mod step;
mod supervised;
mod training;
mod unedited;
mod watch;

pub use drift::{Drift, DriftMeter, drift_between};
pub use edit::{BaseShape, Edit, EditMeta, EditStack};
pub use error::{ControlError, Result};
pub use eval::{
    Case, Condition, Measure, Score, Suite, behaviours, choices, facts, harmonic_mean, lines,
    rewrites,
};
pub use export::{Exported, export};
pub use options::{Probes, Push, Reference, Training, Watch, Write};
pub use output::{OutputFile, OutputFolder};
pub use reinforce::Reinforce;
pub use reward::{
    CommandReward, Interpreted, Judge, JudgeModel, Reward, Verdicts, When, WordReward, mentions,
};
pub use step::{End, Observer, Outcome, Step};
pub use supervised::{Supervised, Target, TargetCell};
pub use training::TrainedMlp;
pub use unedited::Unedited;
pub use watch::{Figure, Watched, Written};
