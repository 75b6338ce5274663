//! The error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

/// Everything that can go wrong with a sweep.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// An unreadable file or folder.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An unwritable file or folder. Earlier rows are kept.
    #[error("cannot write {}: {source}; finished rows are kept, so fix this and run the same command again",
        path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A malformed file of prompts.
    #[error("{}: {place}: {reason}", path.display())]
    Prompts {
        /// The file.
        path: PathBuf,
        /// The line or record.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of prompts without the requested column.
    #[error(
        "{}: there is no column \"{column}\"; it has: {}; choose one with --column", path.display(), found.join(", ")
    )]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The columns in the file.
        found: Vec<String>,
    },
    /// A file without prompts.
    #[error("{}: the file has no prompts", path.display())]
    NoPrompts {
        /// The file.
        path: PathBuf,
    },
    /// A selector that selects nothing in any prompt.
    #[error("none of {prompts} prompts has a selected cell: {why}")]
    NoCells {
        /// The number of prompts.
        prompts: usize,
        /// What was missing.
        why: String,
    },
    /// A malformed shard.
    #[error("\"{text}\" is not a shard; expected I/N with I from 1 to N, such as 1/16")]
    Shard {
        /// The given text.
        text: String,
    },
    /// A folder that another process is writing to.
    #[error("another process{by} is writing to {}; wait for it, or choose another folder", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The process, if known.
        by: String,
    },
    /// A folder with other contents.
    #[error(
        "{} is not empty, but has no manifest.json: choose another folder for the sweep", dir.display()
    )]
    NotASweep {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder with a sweep of another model, other settings or other prompts.
    #[error(
        "{} has another sweep: {}; choose another folder, or repeat the sweep's own command",
        dir.display(), differences.join("; ")
    )]
    OtherSweep {
        /// The folder.
        dir: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// A file of a sweep that was changed or damaged.
    #[error("{} is damaged: {reason}; delete it, and run the same command again to compute its rows", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A folder without a sweep.
    #[error("{} has no sweep: neither manifest.json nor shard-*-of-* is in it", dir.display())]
    NothingThere {
        /// The folder.
        dir: PathBuf,
    },
    /// Folders of different sweeps.
    #[error("{} and {} are not of one sweep: {}", one.display(), other.display(), differences.join("; "))]
    NotOneSweep {
        /// A folder.
        one: PathBuf,
        /// Another folder.
        other: PathBuf,
        /// What differs.
        differences: Vec<String>,
    },
    /// An unfinished sweep.
    #[error("{what}; run the sweep's command again to compute the rest")]
    Unfinished {
        /// What is missing, and where.
        what: String,
    },
    /// A repeated shard.
    #[error("shard {shard} is given twice: {} and {}", one.display(), other.display())]
    ShardTwice {
        /// The shard.
        shard: String,
        /// A folder.
        one: PathBuf,
        /// Another folder.
        other: PathBuf,
    },
    /// A row outside the plan: a bug in this crate.
    #[error(
        "a row does not belong to this sweep: {row}; this is a bug in selfie-sweep, please report it"
    )]
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
