//! Errors of rows and pictures.

use std::io;
use std::path::PathBuf;

/// An error of reading rows, or of rendering them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplorerError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; give a file of rows from selfie interpret", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An unknown extension.
    #[error("{}: the name must end in .jsonl or .parquet; write such a file with selfie interpret --out",
        path.display())]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// A line, or a row of a Parquet file, is not a row.
    #[error("{}: {place} is not a row: {reason}; give a file of rows from selfie interpret", path.display())]
    NotARow {
        /// The file.
        path: PathBuf,
        /// The line or row, counted from 1.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is not a Parquet file.
    #[error("{}: not a Parquet file: {reason}; give a file of rows from selfie interpret", path.display())]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A run without rows.
    #[error("{name}: there are no rows; interpret at least one cell")]
    NoRows {
        /// The run, named after its files.
        name: String,
    },
    /// A run with rows of two models.
    #[error(
        "{name}: the rows are of two models, {first} and {second}; give the rows of one, or compare them with --against"
    )]
    Models {
        /// The run, named after its files.
        name: String,
        /// The model of the first row.
        first: String,
        /// Another model.
        second: String,
    },
    /// Two runs without common cells.
    #[error(
        "{before} and {against} have no cell in common; compare runs of the same prompts, layers, tokens and injections"
    )]
    NothingInCommon {
        /// The first run.
        before: String,
        /// The second run.
        against: String,
    },
    /// The page's template failed.
    #[error("cannot write the page: {0}; please report it")]
    Template(#[from] minijinja::Error),
    /// The page's data could not be written as JSON.
    #[error("cannot write the data of the page: {0}; please report it")]
    Json(#[from] serde_json::Error),
}

/// A result of this crate.
pub type Result<T, E = ExplorerError> = std::result::Result<T, E>;
