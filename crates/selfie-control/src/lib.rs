//! Controls what a LLaMA's hidden embeddings say (SelfIE, arXiv 2403.10949, section 3.4), and measures what that changed.
#![forbid(unsafe_code)]

mod atomic;
mod drift;
mod edit;
mod error;
mod eval;
mod export;
mod keep;
mod options;
mod reinforce;
mod reward;
mod run;
mod states;
mod step;
mod supervised;
mod training;

pub use drift::{Drift, DriftMeter};
pub use edit::{BaseShape, Edit, EditMeta, EditStack};
pub use error::{ControlError, Result};
pub use eval::{Case, Look, Measure, Score, Suite, behaviours, choices, facts, lines};
pub use export::{Exported, check_free, export};
pub use options::{Probes, Reference, Training};
pub use reinforce::Reinforce;
pub use reward::{CommandReward, Interpreted, Judge, Reward, Verdicts, When, WordReward, mentions};
pub use step::{End, Observer, Outcome, Step};
pub use supervised::{Supervised, Target, TargetCell};
pub use training::TrainedMlp;
