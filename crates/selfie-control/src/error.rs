//! The one error type of this crate.

use std::path::PathBuf;
use std::time::Duration;

use selfie_interp::InterpError;
use selfie_kernels::{DType, KernelError};
use selfie_llama::LlamaError;

/// Everything that can go wrong when embeddings are controlled, edits handled or models evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// A layer whose embeddings no MLP's output is added to, or that comes after the final norm.
    #[error(
        "layer {layer} cannot be controlled: hidden_states[L] is what the MLP of layer L-1 is added to, for L in \
         1..{n_layers} (0 is the embedding table, {n_layers} the output of the final norm)"
    )]
    Layer {
        /// The layer, counted as in hidden_states.
        layer: usize,
        /// The model's layers.
        n_layers: usize,
    },
    /// What the unedited model made of other prompts.
    #[error(
        "the unedited states are those of layer {layer}, and of other embeddings, references or texts to watch than this run \
         at layer {needed} has: make them anew with `unedited`"
    )]
    OtherPrompts {
        /// The layer that they are of.
        layer: usize,
        /// The layer of the run.
        needed: usize,
    },
    /// A target at a layer that the model does not have.
    #[error("target layer {layer} is out of range: hidden states are numbered 0..={n_layers}")]
    TargetLayer {
        /// The layer.
        layer: usize,
        /// The model's layers.
        n_layers: usize,
    },
    /// A token that a prompt does not have.
    #[error("token {token} is out of range: the prompt \"{prompt}\" has tokens 0..{tokens}")]
    Token {
        /// The token's index.
        token: usize,
        /// The prompt.
        prompt: String,
        /// How many tokens it has.
        tokens: usize,
    },
    /// A text of no length.
    #[error("{what} is empty: give it some text")]
    EmptyText {
        /// Which text.
        what: String,
    },
    /// A list that has to name something.
    #[error("there is no {what}: give at least one")]
    Nothing {
        /// What the list should hold.
        what: &'static str,
    },
    /// A number out of its range.
    #[error("{name} is {value}; expected {expected}")]
    Value {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// A target vector of another width than the residual stream.
    #[error("target vector {index} has {found} values, and the residual stream has {width}")]
    TargetWidth {
        /// Which vector.
        index: usize,
        /// Its length.
        found: usize,
        /// The width of the residual stream.
        width: usize,
    },
    /// A target vector with a value that is NaN or infinite.
    #[error("target vector {index} holds {value} at {at}: not a finite number")]
    TargetNotFinite {
        /// Which vector.
        index: usize,
        /// Which of its values.
        at: usize,
        /// The value.
        value: f32,
    },
    /// An interpretation that is to be made in more than one way.
    #[error("{found} injections are given; control interprets an embedding in one way: give one")]
    Injections {
        /// How many there are.
        found: usize,
    },
    /// The loss is NaN or infinite.
    #[error(
        "the loss of step {step} is {loss}: the edit has run away; try a smaller learning rate"
    )]
    Diverged {
        /// The step.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// A reward gave another number of rewards than it had embeddings.
    #[error("step {step}: {found} rewards came for {expected} interpretations")]
    RewardCount {
        /// The step.
        step: usize,
        /// The rewards.
        found: usize,
        /// The interpretations.
        expected: usize,
    },
    /// A reward that is no number from -1 to 1.
    #[error("step {step}: reward {index} is {reward}; expected a number from -1 to 1")]
    RewardRange {
        /// The step.
        step: usize,
        /// Which of the step's rewards.
        index: usize,
        /// The reward.
        reward: f64,
    },
    /// A reward that could not be given.
    #[error("the reward failed at step {step}: {source}")]
    Reward {
        /// The step.
        step: usize,
        /// Why, in the words of who implements [`Reward`](crate::Reward).
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A judge's template without a place for the interpretation.
    #[error("the judge's template does not contain {{interpretation}}: \"{template}\"")]
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
    /// The reward command ended, or closed its output, before it had answered.
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
        /// The answers of this step that came.
        answers: usize,
        /// The answers that were asked for.
        expected: usize,
    },
    /// The reward command did not answer in time.
    #[error(
        "the reward command `{command}` gave {answers} of {expected} answers at step {step} within {} s; it has \
         to answer one line for each line that it gets, and to flush its output",
        timeout.as_secs_f64()
    )]
    CommandTimeout {
        /// The command.
        command: String,
        /// The step.
        step: usize,
        /// The answers of this step that came.
        answers: usize,
        /// The answers that were asked for.
        expected: usize,
        /// How long was waited.
        timeout: Duration,
    },
    /// The reward command answered more lines than it got.
    #[error(
        "the reward command `{command}` answered more lines than it was asked at step {step}: expected \
         {expected}, then came `{line}`"
    )]
    CommandExtra {
        /// The command.
        command: String,
        /// The step.
        step: usize,
        /// The answers that were asked for.
        expected: usize,
        /// The first line too many.
        line: String,
    },
    /// A line of the reward command that is no answer.
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
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder that cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file that is no edit.
    #[error("{} is not an edit file of Selfie: {reason}", path.display())]
    NotAnEdit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An edit that was made for a model of another shape.
    #[error(
        "edit {edit} was made for a model with {field} {of_edit}, and this one has {of_model}: it belongs to \
         another model"
    )]
    BaseShape {
        /// The edit.
        edit: String,
        /// The number that differs.
        field: &'static str,
        /// What the edit was made for.
        of_edit: usize,
        /// What there is.
        of_model: usize,
    },
    /// An edit that was made in another dtype.
    #[error(
        "edit {edit} was made in {of_edit}, and the model is computed in {of_model}: pass --dtype {of_edit}"
    )]
    EditDType {
        /// The edit.
        edit: String,
        /// The dtype of its matrices.
        of_edit: DType,
        /// What the model is computed in.
        of_model: DType,
    },
    /// A tensor that an edit would replace is not the one that it was made from.
    #[error(
        "edit {edit} does not belong on this model: {tensor} has SHA-256 {found}, and the edit was made on \
         {expected} (another checkpoint, or edits are missing or in another order)"
    )]
    BaseHash {
        /// The edit.
        edit: String,
        /// The tensor.
        tensor: String,
        /// The hash of what is there.
        found: String,
        /// The hash of what the edit replaces.
        expected: String,
    },
    /// An edit that others lie on top of.
    #[error(
        "edit {edit} cannot be reverted: {later} was applied on top of it to the same layer; revert that first"
    )]
    Covered {
        /// The edit.
        edit: String,
        /// The edit above it.
        later: String,
    },
    /// A layer that is no longer what an edit made of it.
    #[error("edit {edit} cannot be reverted: {tensor} was changed since by something else")]
    ChangedSince {
        /// The edit.
        edit: String,
        /// The tensor.
        tensor: String,
    },
    /// An edit that is not in a stack.
    #[error("edit {index} is not applied: there are {applied}")]
    NotApplied {
        /// Which edit.
        index: usize,
        /// How many are applied.
        applied: usize,
    },
    /// Something is where a new folder is to be.
    #[error("{} exists: the checkpoint is written to a new folder, give a name that is free", path.display())]
    FolderExists {
        /// The folder.
        path: PathBuf,
    },
    /// A file of evaluation data without what it needs.
    #[error("{}: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is missing, and where.
        reason: String,
    },
    /// A template without a place for the data.
    #[error("template \"{template}\" does not contain {missing}")]
    Template {
        /// The template.
        template: String,
        /// What should be in it.
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
