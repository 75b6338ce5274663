//! Errors as the user sees them: one line, and an exit code.

use std::io;
use std::path::PathBuf;

use selfie_control::ControlError;
use selfie_interp::InterpError;
use selfie_kernels::KernelError;
use selfie_llama::LlamaError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    #[error("interrupted: {rows} of {cells} rows are written")]
    Interrupted { rows: usize, cells: usize },
    #[error("interrupted after {updates} updates")]
    ControlInterrupted { updates: usize },
    #[error(
        "the first update brings the drift to {drift:.6}, over --max-drift {bound}: no edit is written; try a smaller --lr"
    )]
    NoUpdate { drift: f64, bound: f64 },
    #[error("{error}; {kept}")]
    Stopped {
        error: Box<ControlError>,
        kept: String,
    },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Interp(#[from] InterpError),
    #[error(transparent)]
    Llama(#[from] LlamaError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// 2 for what the command line can set right, 1 for a run that failed.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) | CliError::Kernel(KernelError::Path { .. }) => 2,
            CliError::Control(error) => of_control(error),
            CliError::Interp(error) => of_interp(error),
            CliError::Llama(LlamaError::SamplingValue { .. }) => 2,
            _ => 1,
        }
    }

    /// Whether the reader of stdout has gone, as `head` does: that is no failure.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn of_interp(error: &InterpError) -> u8 {
    match error {
        InterpError::Llama(LlamaError::SamplingValue { .. }) => 2,
        InterpError::Llama(_) | InterpError::Kernel(_) => 1,
        InterpError::ReadVectors { .. } | InterpError::VectorFile { .. } => 1,
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

/// A [`CliError::Usage`].
pub(crate) fn usage<T>(message: impl Into<String>) -> Result<T> {
    Err(CliError::Usage(message.into()))
}
