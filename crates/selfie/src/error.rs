//! The error type of this crate.

use selfie_control::ControlError;
use selfie_interp::InterpError;
use selfie_kernels::KernelError;
use selfie_llama::LlamaError;

/// Everything that can go wrong between a model's files and what it says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An unknown device.
    #[error("unknown device \"{name}\"; expected auto, cpu or cuda:N")]
    UnknownDevice {
        /// The requested name.
        name: String,
    },
    /// A GPU was requested in a build without CUDA.
    #[error(
        "cannot use cuda:{ordinal}: this build has no CUDA; build it with the feature cuda, or use the CPU"
    )]
    WithoutCuda {
        /// The number of the GPU.
        ordinal: usize,
    },
    /// An environment variable with an unknown value.
    #[error("{name}={value}: expected {expected}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// The accepted values.
        expected: &'static str,
    },
    /// An empty prompt.
    #[error("the prompt is empty: give it some text")]
    EmptyPrompt,
    /// An invalid part of a token selector.
    #[error(
        "{text}: \"{part}\" is not a number, A..B, A..=B, A.., -1, -3.., last, all, word:TEXT or after:TEXT, \
         or is an empty range"
    )]
    TokenSelector {
        /// The whole selector.
        text: String,
        /// The part.
        part: String,
    },
    /// Control or an edit failed.
    #[error(transparent)]
    Control(Box<ControlError>),
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

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        Self::Control(Box::new(error))
    }
}

impl From<InterpError> for Error {
    fn from(error: InterpError) -> Self {
        Self::Interp(Box::new(error))
    }
}

impl From<LlamaError> for Error {
    fn from(error: LlamaError) -> Self {
        Self::Llama(Box::new(error))
    }
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
