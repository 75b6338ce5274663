//! What is said of a sweep beside its rows, as JSON.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{read_error, write_error};
use crate::folder::put;
use crate::{Gap, Result, Settings, SweepError};

/// The manifest's file.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The name of a part's description in its metadata.
pub(crate) const PART: &str = "selfie.part";

/// `manifest.json`: the settings of a sweep, and how far it is. It is written whenever a part is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// What rows call the model that embeddings come from.
    pub model: String,
    /// What rows call the model that reads them, where it is another one.
    pub reader: Option<String>,
    /// What has to stay the same.
    pub settings: Settings,
    /// The numbers of the rows that this folder is to have: from the first to before the last.
    pub rows: (usize, usize),
    /// How many of them are in the parts, or have failed.
    pub done: usize,
    /// Whether that is all of them.
    pub complete: bool,
    /// Rows that cannot be computed, as activations overflow.
    pub failed: Vec<Failed>,
    /// What is not in all prompts.
    pub gaps: Vec<Gap>,
    /// The prompts that have no rows.
    pub without_cells: Gap,
    /// The files.
    pub parts: Vec<PartInfo>,
}

/// A row that cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its number.
    pub row: usize,
    /// The cell.
    pub cell: String,
}

/// A part of a sweep, as its file's metadata say it too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Its file.
    pub file: String,
    /// The numbers of the rows in it, in order: ranges, from the first to before the last.
    pub rows: Vec<(usize, usize)>,
    /// Rows among them that have failed, and are not in it.
    pub failed: Vec<Failed>,
    /// What they were computed on.
    pub device: String,
}

impl Manifest {
    /// The manifest of a folder; `None` if there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_error(&path)(error)),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| SweepError::Damaged {
                path,
                reason: error.to_string(),
            })
    }

    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(MANIFEST);
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| {
            put(&path, |file| {
                std::io::Write::write_all(file, text.as_bytes())
            })
        })
        .map_err(write_error(&path))
    }
}

impl PartInfo {
    /// How many rows it stands for.
    pub fn len(&self) -> usize {
        self.rows
            .iter()
            .map(|(from, to)| to.saturating_sub(*from))
            .sum()
    }

    /// Whether it stands for none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Numbers in order as ranges.
pub(crate) fn ranges(numbers: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, end)) if *end == number => *end += 1,
            _ => ranges.push((number, number + 1)),
        }
    }
    ranges
}
