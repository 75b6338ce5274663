//! The error type of this crate.

use std::path::PathBuf;
use std::time::Duration;

use selfie_interp::InterpError;
use selfie_kernels::{DType, KernelError};
use selfie_llama::LlamaError;

/// Everything that can go wrong when controlling embeddings, handling edits or evaluating models.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No MLP can control the embeddings of this layer.
    #[error(
        "layer {layer} cannot be controlled: the MLP of layer L-1 controls hidden_states[L], for L in \
         1..{n_layers} (0 is the embedding table, {n_layers} the output of the final norm)"
    )]
    Layer {
        /// The layer, counted as in hidden_states.
        layer: usize,
        /// The model's layers.
        n_layers: usize,
    },
    /// The unedited states belong to another run.
    #[error(
        "the unedited states were captured for layer {layer}, with other embeddings, reference prompts or watch \
         options than this run at layer {needed}: capture them again with `unedited`"
    )]
    OtherPrompts {
        /// The layer of the states.
        layer: usize,
        /// The layer of the run.
        needed: usize,
    },
    /// The model has no such target layer.
    #[error("target layer {layer} is out of range: hidden_states has layers 0..={n_layers}")]
    TargetLayer {
        /// The layer.
        layer: usize,
        /// The model's layers.
        n_layers: usize,
    },
    /// The prompt has no such token.
    #[error("token {token} is out of range: the prompt \"{prompt}\" has tokens 0..{tokens}")]
    Token {
        /// The token's index.
        token: usize,
        /// The prompt.
        prompt: String,
        /// How many tokens it has.
        tokens: usize,
    },
    /// An empty text.
    #[error("{what} is empty: give it some text")]
    EmptyText {
        /// Which text.
        what: String,
    },
    /// An empty list.
    #[error("no {what} given; give at least one")]
    Nothing {
        /// What the list should hold.
        what: &'static str,
    },
    /// A number out of range.
    #[error("{name} is {value}; expected {expected}")]
    Value {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The accepted values.
        expected: &'static str,
    },
    /// A target vector with the wrong width.
    #[error(
        "target vector {index} has {found} values; expected {width}, the width of the residual stream"
    )]
    TargetWidth {
        /// Which vector.
        index: usize,
        /// Its length.
        found: usize,
        /// The width of the residual stream.
        width: usize,
    },
    /// A target vector with a NaN or infinite value.
    #[error("target vector {index} has {value} at index {at}; expected finite numbers")]
    TargetNotFinite {
        /// Which vector.
        index: usize,
        /// The index of the value.
        at: usize,
        /// The value.
        value: f32,
    },
    /// More than one injection.
    #[error(
        "{found} injections given; control uses a single one, so give one layer, mode and strength"
    )]
    Injections {
        /// How many there are.
        found: usize,
    },
    /// The loss is NaN or infinite.
    #[error("the loss of step {step} is {loss}: training diverged; try a smaller learning rate")]
    Diverged {
        /// The step.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// A reward returned the wrong number of rewards.
    #[error("step {step}: the reward returned {found} rewards for {expected} interpretations")]
    RewardCount {
        /// The step.
        step: usize,
        /// The rewards.
        found: usize,
        /// The interpretations.
        expected: usize,
    },
    /// A reward outside -1 to 1.
    #[error("step {step}: reward {index} is {reward}; expected a number from -1 to 1")]
    RewardRange {
        /// The step.
        step: usize,
        /// The index of the reward within the step.
        index: usize,
        /// The reward.
        reward: f64,
    },
    /// A reward that failed.
    #[error("the reward failed at step {step}: {source}")]
    Reward {
        /// The step.
        step: usize,
        /// The error of the [`Reward`](crate::Reward).
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A judge's template without a placeholder for the interpretation.
    #[error(
        "the judge's template \"{template}\" does not contain {{interpretation}}; add it where the interpretation goes"
    )]
    JudgeTemplate {
        /// The template.
        template: String,
    },
    /// The reward command did not start.
    #[error("cannot start the reward command `{command}`: {source}")]
    CommandStart {
        /// The command.
        command: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The reward command exited, or closed its output, before it had answered.
    #[error(
        "the reward command `{command}` {how} at step {step}, after {answers} of {expected} answers"
    )]
    CommandEnded {
        /// The command.
        command: String,
        /// What it did.
        how: String,
        /// The step.
        step: usize,
        /// The answers it gave in this step.
        answers: usize,
        /// The answers it should have given.
        expected: usize,
    },
    /// The reward command did not answer in time.
    #[error(
        "the reward command `{command}` gave {answers} of {expected} answers at step {step} within {} s; it must \
         answer each line it reads with one line, and flush its output",
        timeout.as_secs_f64()
    )]
    CommandTimeout {
        /// The command.
        command: String,
        /// The step.
        step: usize,
        /// The answers it gave in this step.
        answers: usize,
        /// The answers it should have given.
        expected: usize,
        /// The time limit.
        timeout: Duration,
    },
    /// The reward command answered more lines than it was asked.
    #[error(
        "the reward command `{command}` answered more lines than it was asked at step {step}: expected \
         {expected}, then came `{line}`"
    )]
    CommandExtra {
        /// The command.
        command: String,
        /// The step.
        step: usize,
        /// The number of lines it was asked.
        expected: usize,
        /// The first surplus line.
        line: String,
    },
    /// The reward command answered with something else than a reward.
    #[error(
        "the reward command `{command}` answered `{line}` at step {step}; expected a line such as \
         {{\"reward\":-1}}, with a number from -1 to 1"
    )]
    CommandAnswer {
        /// The command.
        command: String,
        /// The step.
        step: usize,
        /// The line.
        line: String,
    },
    /// An unreadable file.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// An unwritable file or folder.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file that is not an edit.
    #[error("{} is not a Selfie edit: {reason}", path.display())]
    NotAnEdit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An edit of a model with another shape.
    #[error(
        "edit {edit} was made for a model with {field} {of_edit}, but this one has {of_model}: it belongs to \
         another model"
    )]
    BaseShape {
        /// The edit.
        edit: String,
        /// The field that differs.
        field: &'static str,
        /// The value of the edit.
        of_edit: usize,
        /// The value of the model.
        of_model: usize,
    },
    /// An edit of a model in another dtype.
    #[error(
        "edit {edit} was made in {of_edit}, but the model runs in {of_model}: pass --dtype {of_edit}"
    )]
    EditDType {
        /// The edit.
        edit: String,
        /// The dtype of its matrices.
        of_edit: DType,
        /// The dtype the model runs in.
        of_model: DType,
    },
    /// The model's tensor is not the one the edit was made from.
    #[error(
        "edit {edit} does not belong to this model: {tensor} has SHA-256 {found}, but the edit was made on \
         {expected} (it is another checkpoint, or edits are missing or in another order)"
    )]
    BaseHash {
        /// The edit.
        edit: String,
        /// The tensor.
        tensor: String,
        /// The hash of the model's tensor.
        found: String,
        /// The hash of the tensor that the edit was made from.
        expected: String,
    },
    /// An edit below another one of the same layer.
    #[error(
        "edit {edit} cannot be reverted: {later} was applied to the same layer later; revert that one first"
    )]
    Covered {
        /// The edit.
        edit: String,
        /// The later edit.
        later: String,
    },
    /// A layer that something else has changed since the edit.
    #[error("edit {edit} cannot be reverted: something else has changed {tensor} since")]
    ChangedSince {
        /// The edit.
        edit: String,
        /// The tensor.
        tensor: String,
    },
    /// The stack has no such edit.
    #[error("edit {index} is not applied: the stack has {applied} edits")]
    NotApplied {
        /// The index of the edit.
        index: usize,
        /// The number of applied edits.
        applied: usize,
    },
    /// The path of a new folder is taken.
    #[error("{} exists; the checkpoint needs a new folder, so give another name", path.display())]
    FolderExists {
        /// The folder.
        path: PathBuf,
    },
    /// Evaluation data that lacks something.
    #[error("{}: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is missing, and where.
        reason: String,
    },
    /// A template without a placeholder for the data.
    #[error("template \"{template}\" does not contain {missing}; add it where the data goes")]
    Template {
        /// The template.
        template: String,
        /// The missing placeholder.
        missing: &'static str,
    },
    /// An interpretation failed.
    #[error(transparent)]
    Interp(Box<InterpError>),
    /// The model failed.
    #[error(transparent)]
    Llama(Box<LlamaError>),
    /// A device failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl From<InterpError> for ControlError {
    fn from(error: InterpError) -> Self {
        Self::Interp(Box::new(error))
    }
}

impl From<LlamaError> for ControlError {
    fn from(error: LlamaError) -> Self {
        Self::Llama(Box::new(error))
    }
}

/// A result of this crate.
pub type Result<T, E = ControlError> = std::result::Result<T, E>;
