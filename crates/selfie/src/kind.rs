//! Kinds of errors, which decide exit codes and exceptions.

use std::error::Error as _;
use std::io;

use selfie_control::ControlError;
use selfie_interp::InterpError;
use selfie_kernels::KernelError;
use selfie_llama::LlamaError;

use crate::Error;

/// Who can fix an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong; other options fix it.
    Usage,
    /// A file does not exist.
    NotFound,
    /// The device does not have enough memory.
    OutOfMemory,
    /// Everything else: an unusable file, a failing device, overflowing activations.
    Failed,
}

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        if is_usage(self) {
            return ErrorKind::Usage;
        }
        let (llama, kernel) = self.innermost();
        let missing = matches!(
            llama,
            Some(LlamaError::NoFolder { .. } | LlamaError::MissingShard { .. })
        );
        if missing {
            return ErrorKind::NotFound;
        }
        let does_not_fit = matches!(
            llama,
            Some(LlamaError::WeightMemory { .. } | LlamaError::CacheMemory { .. })
        );
        if does_not_fit || kernel.is_some_and(is_out_of_memory) {
            return ErrorKind::OutOfMemory;
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            let io = error.downcast_ref::<io::Error>();
            if io.is_some_and(|error| error.kind() == io::ErrorKind::NotFound) {
                return ErrorKind::NotFound;
            }
            if error.downcast_ref().is_some_and(is_out_of_memory) {
                return ErrorKind::OutOfMemory;
            }
            cause = error.source();
        }
        ErrorKind::Failed
    }

    /// The innermost error of the lower crates. `source` skips errors that are passed on transparently.
    fn innermost(&self) -> (Option<&LlamaError>, Option<&KernelError>) {
        let (llama, kernel) = match self {
            Error::Kernel(kernel) => (None, Some(kernel)),
            Error::Llama(llama) => (Some(&**llama), None),
            Error::Interp(error) => interp_cause(error),
            Error::Control(error) => match &**error {
                ControlError::Kernel(kernel) => (None, Some(kernel)),
                ControlError::Llama(llama) => (Some(&**llama), None),
                ControlError::Interp(error) => interp_cause(error),
                _ => (None, None),
            },
            _ => (None, None),
        };
        match llama {
            Some(LlamaError::Kernel(kernel)) => (llama, Some(kernel)),
            _ => (llama, kernel),
        }
    }
}

fn interp_cause(error: &InterpError) -> (Option<&LlamaError>, Option<&KernelError>) {
    match error {
        InterpError::Llama(llama) => (Some(llama), None),
        InterpError::Kernel(kernel) => (None, Some(kernel)),
        _ => (None, None),
    }
}

fn is_out_of_memory(error: &KernelError) -> bool {
    matches!(error, KernelError::OutOfMemory { .. })
}

/// Whether another command line, or other arguments, would fix the error.
fn is_usage(error: &Error) -> bool {
    match error {
        Error::UnknownDevice { .. } | Error::WithoutCuda { .. } => true,
        Error::Environment { .. } | Error::EmptyPrompt => true,
        Error::TokenSelector { .. } => true,
        Error::Control(error) => control_usage(error),
        Error::Interp(error) => interp_usage(error),
        Error::Llama(error) => llama_usage(error),
        // Fixed by --device, --kv or SELFIE_CPU_PATH.
        Error::Kernel(
            KernelError::Path { .. }
            | KernelError::KvDType { .. }
            | KernelError::NoCudaDriver
            | KernelError::NoCudaDevice { .. }
            | KernelError::OldCudaDriver { .. }
            | KernelError::OldGpu { .. }
            | KernelError::NoCublasLt,
        ) => true,
        _ => false,
    }
}

fn llama_usage(error: &LlamaError) -> bool {
    matches!(
        error,
        LlamaError::SamplingValue { .. }
            | LlamaError::NoBos { .. }
            | LlamaError::NoChatTemplate { .. }
            | LlamaError::ChatTemplate { .. }
            | LlamaError::ChatNotContinued { .. }
            | LlamaError::ChatMessages { .. }
            | LlamaError::NoMessages
    )
}

fn interp_usage(error: &InterpError) -> bool {
    match error {
        InterpError::Llama(error) => llama_usage(error),
        InterpError::Kernel(_) => false,
        InterpError::ReadVectors { .. } | InterpError::VectorFile { .. } => false,
        InterpError::ReadMap { .. } | InterpError::MapFile { .. } => false,
        InterpError::NotFinite { .. } | InterpError::CleanNotFinite => false,
        InterpError::Unanswered => false,
        _ => true,
    }
}

fn control_usage(error: &ControlError) -> bool {
    match error {
        ControlError::Interp(error) => interp_usage(error),
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
        | ControlError::Template { .. } => true,
        _ => false,
    }
}
