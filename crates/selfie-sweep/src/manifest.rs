//! A sweep's manifest, as JSON.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{read_error, write_error};
use crate::folder::write_atomic;
use crate::{Gap, Result, Settings, SweepError};

/// The name of the manifest's file.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The metadata key of a part's description.
pub(crate) const PART: &str = "selfie.part";

/// `manifest.json`: the settings and the progress of a sweep. It is written whenever a part is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name, in rows, of the model that embeddings come from.
    pub model: String,
    /// The name, in rows, of the reader, if it is another model.
    pub reader: Option<String>,
    /// The settings that must not change.
    pub settings: Settings,
    /// The range of row numbers in this folder, the end exclusive.
    pub rows: (usize, usize),
    /// The number of rows that are in the parts or have failed.
    pub done: usize,
    /// Whether these are all rows.
    pub complete: bool,
    /// Rows that cannot be computed because activations overflowed.
    pub failed: Vec<Failed>,
    /// What some prompts lack.
    pub gaps: Vec<Gap>,
    /// The prompts without rows.
    pub without_cells: Gap,
    /// The part files.
    pub parts: Vec<PartInfo>,
}

/// A row that cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The number of the row.
    pub row: usize,
    /// The cell.
    pub cell: String,
}

/// A part of a sweep, as also described in its file's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// The name of its file.
    pub file: String,
    /// The numbers of its rows, as ordered ranges with exclusive ends.
    pub rows: Vec<(usize, usize)>,
    /// The failed rows among them, which are not in the file.
    pub failed: Vec<Failed>,
    /// The device that computed them.
    pub device: String,
}

impl Manifest {
    /// Reads the manifest of a folder; `None` if there is none.
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
            write_atomic(&path, |file| {
                std::io::Write::write_all(file, text.as_bytes())
            })
        })
        .map_err(write_error(&path))
    }
}

impl PartInfo {
    /// The number of rows it covers.
    pub fn len(&self) -> usize {
        self.rows
            .iter()
            .map(|(from, to)| to.saturating_sub(*from))
            .sum()
    }

    /// Whether it covers no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Turns ordered numbers into ranges.
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
