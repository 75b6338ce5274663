//! What keeps a server from starting, or ends it.

use std::io;

/// An error of the server itself; what is wrong with a request is an answer to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}; choose another with --host and --port")]
    Listen {
        /// Where.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// A thread or the network of the process cannot be set up.
    #[error("cannot start the server: {0}")]
    Start(io::Error),
    /// The model does not fit, or its device fails.
    #[error(transparent)]
    Selfie(#[from] selfie::Error),
    /// The page cannot be made.
    #[error(transparent)]
    Page(#[from] selfie_explorer::ExplorerError),
    /// A limit that lets nothing through.
    #[error("{what} must be at least {least}, and is {found}")]
    Limit {
        /// The limit.
        what: &'static str,
        /// What it is.
        found: usize,
        /// The least that works.
        least: usize,
    },
    /// The thread that owns the model has ended.
    #[error("the model's thread has ended: this is a bug of selfie-serve, please report it")]
    Engine,
}

/// A result of this crate.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;
