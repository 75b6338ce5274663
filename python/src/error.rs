//! Errors as Python exceptions, with the program's messages.

use pyo3::PyErr;
use pyo3::exceptions::{PyFileNotFoundError, PyMemoryError, PyRuntimeError, PyValueError};
use selfie::{Error, ErrorKind};
use selfie_explorer::ExplorerError;

/// An error of any of our crates, to be raised as an exception.
pub(crate) struct Failed(pub(crate) Error);

pub(crate) type Result<T, E = Failed> = std::result::Result<T, E>;

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<Failed> for PyErr {
    fn from(Failed(error): Failed) -> Self {
        exception(error.kind(), error.to_string())
    }
}

/// The exception for an error of this kind.
pub(crate) fn exception(kind: ErrorKind, message: String) -> PyErr {
    match kind {
        ErrorKind::Usage => PyValueError::new_err(message),
        ErrorKind::NotFound => PyFileNotFoundError::new_err(message),
        ErrorKind::OutOfMemory => PyMemoryError::new_err(message),
        ErrorKind::Failed => PyRuntimeError::new_err(message),
    }
}

/// A `ValueError`.
pub(crate) fn value_error<T>(message: impl Into<String>) -> Result<T, PyErr> {
    Err(PyValueError::new_err(message.into()))
}

/// An error of the explorer.
pub(crate) fn explorer_error(error: ExplorerError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
