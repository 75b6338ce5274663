//! Errors that keep a server from starting, or end it.

use std::io;

/// An error of the server itself. Problems of requests are answers instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not available.
    #[error("cannot listen on {address}: {source}; choose another with --host and --port")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The process cannot set up a thread or the network.
    #[error("cannot start the server: {0}")]
    Start(io::Error),
    /// The model does not fit, or its device fails.
    #[error(transparent)]
    Selfie(#[from] selfie::Error),
    /// The page cannot be built.
    #[error(transparent)]
    Page(#[from] selfie_explorer::ExplorerError),
    /// A limit that allows nothing.
    #[error("{what} is {found}; expected at least {least}")]
    Limit {
        /// The limit.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The smallest useful value.
        least: usize,
    },
    /// The thread that owns the model has ended.
    #[error("the model's thread has ended: this is a bug in selfie-serve, please report it")]
    Engine,
}

/// A result of this crate.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;
