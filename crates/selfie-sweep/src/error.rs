//! The one error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Everything that can go wrong with a sweep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A file or folder that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file or folder that cannot be written. What was done before is kept.
    #[error("cannot write {}: {source}; what is done is kept, and the same command goes on from there", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file of prompts that is not what its name says.
    #[error("{}: {place}: {reason}", path.display())]
    Prompts {
        /// The file.
        path: PathBuf,
        /// The line or record.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of prompts without the column that was asked for.
    #[error(
        "{}: there is no column \"{column}\"; it has: {}; name one with --column", path.display(), found.join(", ")
    )]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The columns that it has.
        found: Vec<String>,
    },
    /// A file without prompts.
    #[error("{}: there is no prompt in it", path.display())]
    NoPrompts {
        /// The file.
        path: PathBuf,
    },
    /// A selector that finds nothing in any of the prompts.
    #[error("no cell is chosen in any of {prompts} prompts: {why}")]
    NoCells {
        /// How many prompts there are.
        prompts: usize,
        /// What was not found.
        why: String,
    },
    /// A shard that is not I/N.
    #[error("\"{text}\" is not a shard: expected I/N with I from 1 to N, such as 1/16")]
    Shard {
        /// What was given.
        text: String,
    },
    /// A folder that another process is writing.
    #[error("{} is being written by another process{by}; wait for it, or choose another folder", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// Who, where that is known.
        by: String,
    },
    /// A folder that holds something else.
    #[error(
        "{} is not empty, and has no manifest.json: choose another folder for the sweep", dir.display()
    )]
    NotASweep {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder that holds a sweep of another model, other settings or other prompts.
    #[error(
        "{} holds another sweep: {}; choose another folder, or give the same command again",
        dir.display(), differences.join("; ")
    )]
    OtherSweep {
        /// The folder.
        dir: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// A file of a sweep that is not what was written.
    #[error("{} is damaged: {reason}; delete it, and the same command computes its rows again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A folder without a sweep.
    #[error("{} holds no sweep: there is neither manifest.json nor shard-*-of-* in it", dir.display())]
    NothingThere {
        /// The folder.
        dir: PathBuf,
    },
    /// Folders of sweeps that do not belong together.
    #[error("{} and {} are not of one sweep: {}", one.display(), other.display(), differences.join("; "))]
    NotOneSweep {
        /// A folder.
        one: PathBuf,
        /// Another folder.
        other: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// A sweep that is not finished.
    #[error("{what}; the command that wrote it computes the rest")]
    Unfinished {
        /// What is missing where.
        what: String,
    },
    /// A shard that is given twice.
    #[error("shard {shard} is given twice: {} and {}", one.display(), other.display())]
    ShardTwice {
        /// The shard.
        shard: String,
        /// A folder.
        one: PathBuf,
        /// Another folder.
        other: PathBuf,
    },
    /// A row that the plan does not have: a fault of this crate.
    #[error("a row is not of this sweep: {row}; this is a bug of selfie-sweep, please report it")]
    Stray {
        /// The row.
        row: String,
    },
    /// The model, or one of its files.
    #[error(transparent)]
    Selfie(#[from] selfie::Error),
}

/// A result of this crate.
pub type Result<T, E = SweepError> = std::result::Result<T, E>;

pub(crate) fn read_error(path: &Path) -> impl FnOnce(io::Error) -> SweepError {
    let path = path.to_owned();
    move |source| SweepError::Read { path, source }
}

pub(crate) fn write_error(path: &Path) -> impl FnOnce(io::Error) -> SweepError {
    let path = path.to_owned();
    move |source| SweepError::Write { path, source }
}
