//! Errors as the user sees them: one line and an exit code.

use std::io;

use selfie::control::ControlError;
use selfie::interp::InterpError;
use selfie::llama::LlamaError;
use selfie::{Error, ErrorKind};
use selfie_explorer::ExplorerError;
use selfie_serve::ServeError;
use selfie_sweep::SweepError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot start the threads: {0}")]
    Threads(io::Error),
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// `done` says which rows were written, and where.
    #[error("interrupted: {done}")]
    Interrupted { done: String },
    /// A run that failed after doing part of its work.
    #[error("{error}; {done}")]
    Stopped { error: Box<CliError>, done: String },
    #[error("interrupted after {updates} updates")]
    ControlInterrupted { updates: usize },
    #[error(
        "the first update raises the drift to {drift:.6}, above --max-drift {bound}: no edit was written; try a \
         smaller --lr"
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
    /// 2 for errors that the command line can fix, 1 for failed runs.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Explorer(
                ExplorerError::Extension { .. }
                | ExplorerError::Models { .. }
                | ExplorerError::NothingInCommon { .. },
            ) => 2,
            Self::Serve(ServeError::Listen { .. } | ServeError::Limit { .. }) => 2,
            Self::Selfie(error) if error.kind() == ErrorKind::Usage => 2,
            Self::Prompts(error) | Self::Sweep(error) => sweep_exit_code(error),
            _ => 1,
        }
    }

    /// Whether the reader of stdout has closed it, as `head` does. That is not a failure.
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

fn sweep_exit_code(error: &SweepError) -> u8 {
    match error {
        SweepError::Selfie(error) if error.kind() == ErrorKind::Usage => 2,
        SweepError::Selfie(_)
        | SweepError::Read { .. }
        | SweepError::Write { .. }
        | SweepError::Damaged { .. }
        | SweepError::Stray { .. }
        | SweepError::Locked { .. }
        | SweepError::Unfinished { .. } => 1,
        _ => 2,
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

/// Returns a [`CliError::Usage`].
pub(crate) fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(CliError::Usage(message.into()))
}
