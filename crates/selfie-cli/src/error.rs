//! Errors as the user sees them: one line, and an exit code.

use std::io;

use selfie::Error;
use selfie::control::ControlError;
use selfie::interp::InterpError;
use selfie::kernels::KernelError;
use selfie::llama::LlamaError;
use selfie_explorer::ExplorerError;
use selfie_serve::ServeError;
use selfie_sweep::SweepError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// `done` says which rows are where.
    #[error("interrupted: {done}")]
    Interrupted { done: String },
    /// A run that failed when some of it was done.
    #[error("{error}; {done}")]
    Stopped { error: Box<CliError>, done: String },
    #[error("interrupted after {updates} updates")]
    ControlInterrupted { updates: usize },
    #[error(
        "the first update brings the drift to {drift:.6}, over --max-drift {bound}: no edit is written; try a smaller --lr"
    )]
    NoUpdate { drift: f64, bound: f64 },
    #[error("--prompts: {0}")]
    Prompts(SweepError),
    #[error(transparent)]
    Sweep(#[from] SweepError),
    #[error(transparent)]
    Explorer(#[from] ExplorerError),
    #[error(transparent)]
    Serve(ServeError),
    #[error(transparent)]
    Selfie(#[from] Error),
}

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// 2 for what the command line can set right, 1 for a run that failed.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Explorer(
                ExplorerError::Extension { .. }
                | ExplorerError::Models { .. }
                | ExplorerError::NothingInCommon { .. },
            ) => 2,
            Self::Serve(ServeError::Listen { .. } | ServeError::Limit { .. }) => 2,
            Self::Selfie(error) => of_selfie(error),
            Self::Prompts(error) | Self::Sweep(error) => of_sweep(error),
            _ => 1,
        }
    }

    /// Whether the reader of what is written has gone, as `head` does: that is no failure.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        match self {
            Self::Stdout(error) => error.kind() == io::ErrorKind::BrokenPipe,
            Self::Stopped { error, .. } => error.is_closed_pipe(),
            Self::Selfie(Error::Control(error)) => {
                matches!(&**error, ControlError::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
            }
            _ => false,
        }
    }
}

fn of_sweep(error: &SweepError) -> u8 {
    match error {
        SweepError::Selfie(error) => of_selfie(error),
        SweepError::Read { .. }
        | SweepError::Write { .. }
        | SweepError::Damaged { .. }
        | SweepError::Stray { .. } => 1,
        SweepError::Locked { .. } | SweepError::Unfinished { .. } => 1,
        _ => 2,
    }
}

fn of_selfie(error: &Error) -> u8 {
    match error {
        Error::TokenSelector { .. } => 2,
        Error::UnknownDevice { .. } | Error::WithoutCuda { .. } => 2,
        Error::Environment { .. } | Error::EmptyPrompt => 2,
        Error::Control(error) => of_control(error),
        Error::Interp(error) => of_interp(error),
        Error::Llama(error) => of_llama(error),
        // --device, or SELFIE_CPU_PATH.
        Error::Kernel(
            KernelError::Path { .. }
            | KernelError::NoCudaDriver
            | KernelError::NoCudaDevice { .. }
            | KernelError::OldCudaDriver { .. }
            | KernelError::OldGpu { .. }
            | KernelError::NoCublasLt,
        ) => 2,
        _ => 1,
    }
}

fn of_llama(error: &LlamaError) -> u8 {
    match error {
        LlamaError::SamplingValue { .. } | LlamaError::NoBos { .. } => 2,
        LlamaError::NoChatTemplate { .. }
        | LlamaError::ChatTemplate { .. }
        | LlamaError::ChatNotContinued { .. }
        | LlamaError::ChatMessages { .. }
        | LlamaError::NoMessages => 2,
        _ => 1,
    }
}

fn of_interp(error: &InterpError) -> u8 {
    match error {
        InterpError::Llama(error) => of_llama(error),
        InterpError::Kernel(_) => 1,
        InterpError::ReadVectors { .. } | InterpError::VectorFile { .. } => 1,
        InterpError::NotFinite { .. } | InterpError::CleanNotFinite => 1,
        InterpError::Unanswered => 1,
        _ => 2,
    }
}

fn of_control(error: &ControlError) -> u8 {
    match error {
        ControlError::Interp(error) => of_interp(error),
        ControlError::Layer { .. }
        | ControlError::TargetLayer { .. }
        | ControlError::Token { .. }
        | ControlError::EmptyText { .. }
        | ControlError::Nothing { .. }
        | ControlError::Value { .. }
        | ControlError::TargetWidth { .. }
        | ControlError::TargetNotFinite { .. }
        | ControlError::Injections { .. }
        | ControlError::JudgeTemplate { .. }
        | ControlError::CommandStart { .. }
        | ControlError::BaseShape { .. }
        | ControlError::EditDType { .. }
        | ControlError::FolderExists { .. }
        | ControlError::Data { .. }
        | ControlError::Template { .. } => 2,
        _ => 1,
    }
}

impl From<ControlError> for CliError {
    fn from(error: ControlError) -> Self {
        Self::Selfie(error.into())
    }
}

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Selfie(error) => Self::Selfie(error),
            error => Self::Serve(error),
        }
    }
}

impl From<InterpError> for CliError {
    fn from(error: InterpError) -> Self {
        Self::Selfie(error.into())
    }
}

impl From<LlamaError> for CliError {
    fn from(error: LlamaError) -> Self {
        Self::Selfie(error.into())
    }
}

/// A [`CliError::Usage`].
pub(crate) fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(CliError::Usage(message.into()))
}
