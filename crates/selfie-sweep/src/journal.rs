//! The journal of the open part: one line per row, appended as soon as the row is finished.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use selfie::interp::{Controlled, Key, Options, Row, Samples};
use serde::{Deserialize, Serialize};

use crate::error::{read_error, write_error};
use crate::folder::sync_folder;
use crate::{Plan, Result, SweepError};

/// How long lines may stay in the operating system's cache before they are synchronised. A killed process loses none of
/// them; a machine that loses power may lose the lines of this period.
const SYNC: Duration = Duration::from_secs(5);

/// A line: the fields of a row that the plan does not know, or the record of a failure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The number of the row.
    pub(crate) row: usize,
    pub(crate) what: Entry,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Entry {
    #[serde(rename = "said")]
    Row(CellResult),
    /// The description of the failed cell.
    Failed(String),
}

/// The results for a cell. Floats are written with the fewest digits that restore their exact bits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CellResult {
    key: u64,
    token_decoded: Option<String>,
    interpretation: String,
    new_ids: Vec<u32>,
    pieces: Vec<String>,
    relevancy_score: Vec<f32>,
    logprobs: Vec<f32>,
    samples: Option<Samples>,
    controls: Vec<(String, f32)>,
}

impl CellResult {
    pub(crate) fn new(row: Row) -> Self {
        let controls = row.controls.into_iter();
        Self {
            key: row.key.0,
            token_decoded: row.token_decoded,
            interpretation: row.interpretation,
            new_ids: row.new_ids,
            pieces: row.pieces,
            relevancy_score: row.relevancy_score,
            logprobs: row.logprobs,
            samples: row.samples,
            controls: controls
                .map(|one| (one.interpretation, one.evidence))
                .collect(),
        }
    }

    /// JSON cannot express numbers that are not finite.
    fn is_finite(&self) -> bool {
        let floats = self.relevancy_score.iter().chain(&self.logprobs);
        let evidence = self.controls.iter().map(|(_, evidence)| evidence);
        let samples = self.samples.iter().map(|samples| &samples.mean_logprob);
        floats.chain(evidence).chain(samples).all(|x| x.is_finite())
    }

    /// The row with this number.
    pub(crate) fn into_row(self, number: usize, plan: &Plan, options: &Options) -> Result<Row> {
        let stray = || SweepError::Stray {
            row: number.to_string(),
        };
        let (cell, injection) = plan.cell(number).ok_or_else(stray)?;
        let inject = options.injections.get(injection).ok_or_else(stray)?;
        let index = plan.index_of(cell.prompt);
        let controls = options.controls.iter().zip(self.controls);
        Ok(Row {
            prompt: plan.prompts()[index].clone(),
            interpretation: self.interpretation,
            layer: Some(cell.layer),
            token: cell.token,
            token_decoded: self.token_decoded,
            relevancy_score: self.relevancy_score,
            new_ids: self.new_ids,
            pieces: self.pieces,
            inject_layer: inject.layer,
            mode: inject.mode,
            strength: inject.strength,
            model: options.model_name.clone(),
            prompt_index: Some(index),
            key: Key(self.key),
            reader: options.reader_name.clone(),
            map: options.map.as_ref().map(|map| map.name().to_owned()),
            logprobs: self.logprobs,
            samples: self.samples,
            controls: controls
                .map(|(&control, (interpretation, evidence))| Controlled {
                    control,
                    interpretation,
                    evidence,
                })
                .collect(),
        })
    }
}

pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// The length of all whole lines, in bytes.
    len: u64,
    synced: Instant,
}

impl Journal {
    /// Opens or creates a journal. `each` gets the lines in it. Anything after the last whole line was cut off by a
    /// kill, and is removed.
    pub(crate) fn open(path: PathBuf, mut each: impl FnMut(Line)) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(&path);
        let file = file.map_err(write_error(&path))?;
        let mut len = 0;
        let mut reader = BufReader::new(&file);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let n = reader
                .read_until(b'\n', &mut bytes)
                .map_err(read_error(&path))?;
            if n == 0 || bytes.last() != Some(&b'\n') {
                break;
            }
            let Ok(line) = serde_json::from_slice(&bytes) else {
                break;
            };
            each(line);
            len += n as u64;
        }
        file.set_len(len)
            .and_then(|()| sync_folder(&path))
            .map_err(write_error(&path))?;
        Ok(Self {
            path,
            file,
            len,
            synced: Instant::now(),
        })
    }

    /// Appends a line. If this fails, nothing of the line remains.
    pub(crate) fn push(&mut self, line: &Line) -> Result<()> {
        if let Entry::Row(said) = &line.what
            && !said.is_finite()
        {
            return Err(SweepError::Stray {
                row: format!("{} has a number that is not finite", line.row),
            });
        }
        let written = (|| {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            self.file.write_all(&text)?;
            self.len += text.len() as u64;
            if self.synced.elapsed() > SYNC {
                self.file.sync_data()?;
                self.synced = Instant::now();
            }
            io::Result::Ok(())
        })();
        written.map_err(|error| {
            // Truncating needs no space on the disk.
            let _ = self.file.set_len(self.len);
            write_error(&self.path)(error)
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
