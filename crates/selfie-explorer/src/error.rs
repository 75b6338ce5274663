//! What can be wrong with rows.

use std::io;
use std::path::PathBuf;

/// An error of reading rows, or of making a picture of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplorerError {
    /// The file cannot be read.
    #[error("{}: {source}; give a file of rows that selfie interpret wrote", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The name ends in what no reader is for.
    #[error("{}: the name has to end in .jsonl or .parquet, as selfie interpret --out writes them", path.display())]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// A line, or a row of a Parquet file, is none of ours.
    #[error("{}: {place} is not a row: {reason}; give a file that selfie interpret wrote", path.display())]
    NotARow {
        /// The file.
        path: PathBuf,
        /// Which line or row, counted from 1.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is no Parquet file.
    #[error("{}: not a Parquet file: {reason}; give a file that selfie interpret wrote", path.display())]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing to show.
    #[error("{name}: there is no row in it; interpret at least one cell")]
    NoRows {
        /// The run, by the names of its files.
        name: String,
    },
    /// Rows of one run come from two models.
    #[error(
        "{name}: rows of two models, {first} and {second}; give those of one, or compare them with --against"
    )]
    Models {
        /// The run, by the names of its files.
        name: String,
        /// The model of the first row.
        first: String,
        /// Another one.
        second: String,
    },
    /// Two runs have no cell in common.
    #[error(
        "{before} and {against} have no cell in common; compare runs of the same prompts, layers, tokens and injections"
    )]
    NothingInCommon {
        /// The first run.
        before: String,
        /// The second run.
        against: String,
    },
    /// The template of the page failed.
    #[error("cannot write the page: {0}; please report it")]
    Template(#[from] minijinja::Error),
    /// The data of the page could not be written as JSON.
    #[error("cannot write the data of the page: {0}; please report it")]
    Json(#[from] serde_json::Error),
}

/// A result of this crate.
pub type Result<T, E = ExplorerError> = std::result::Result<T, E>;
