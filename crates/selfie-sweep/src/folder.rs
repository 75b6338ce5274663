//! A sweep's folder: the finished rows, and adding to them.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selfie::interp::{Options, Row};

use crate::error::{read_error, write_error};
use crate::journal::{CellResult, Entry, Journal, Line};
use crate::manifest::{MANIFEST, PART, ranges};
use crate::read::read_info;
use crate::{
    Failed, Gap, Manifest, ParquetRows, PartInfo, Plan, Result, Settings, Shard, SweepError,
};

/// Rows after which a part is closed. A closing part holds this many rows in memory, ten to fifty megabytes.
pub const PART_ROWS: usize = 8192;
/// Time after which a part is closed, so that other programs can read the rows of a slow sweep.
const PART_TIME: Duration = Duration::from_secs(15 * 60);

const LOCK: &str = ".lock";
const PARTIAL: &str = ".partial";
const OPEN: &str = ".open.jsonl";
const PARQUET: &str = ".parquet";

/// The folder of a sweep, or of one of its shards. Only one process at a time can open it.
pub struct SweepFolder {
    dir: PathBuf,
    plan: Arc<Plan>,
    settings: Settings,
    /// Which rows of the shard are finished.
    done: Vec<bool>,
    n_done: usize,
    parts: Vec<PartInfo>,
    /// The number of the open part.
    next: usize,
    /// The journal of the open part, once it has a line.
    journal: Option<Journal>,
    /// The number of lines in the journal.
    lines: usize,
    opened: Instant,
    /// The models' names in rows, set by the first run.
    names: Option<(String, Option<String>)>,
    part_rows: usize,
    /// Keeps the lock.
    _lock: File,
}

impl SweepFolder {
    /// Opens or creates a folder to add to. A shard has its own folder in `dir`, such as `shard-0002-of-0016`.
    ///
    /// # Errors
    /// Another process has the folder open; it has another sweep or other contents; a file cannot be read or written.
    pub fn open(dir: &Path, plan: Plan, settings: Settings) -> Result<Self> {
        let own = shard_folder(dir, plan.shard)?;
        fs::create_dir_all(&own).map_err(write_error(&own))?;
        let lock = lock(&own)?;
        let manifest = Manifest::read(&own)?;
        match &manifest {
            None => check_empty(&own)?,
            Some(manifest) => {
                let differences = settings.differences(&manifest.settings);
                if !differences.is_empty() {
                    return Err(SweepError::OtherSweep {
                        dir: own,
                        differences,
                    });
                }
            }
        }
        let (parts, next) = parts(&own)?;
        let rows = plan.rows();
        let mut done = vec![false; rows.len()];
        let mut mark = |row: usize| {
            let at = row.checked_sub(rows.start);
            if let Some(there) = at.and_then(|at| done.get_mut(at)) {
                *there = true;
            }
        };
        for part in &parts {
            for &(from, to) in &part.rows {
                (from..to).for_each(&mut mark);
            }
        }
        let mut lines = 0;
        let open = own.join(part_name(next, OPEN));
        let journal = if open.exists() {
            Some(Journal::open(open, |line| {
                mark(line.row);
                lines += 1;
            })?)
        } else {
            None
        };
        let mut folder = Self {
            names: manifest.map(|manifest| (manifest.model, manifest.reader)),
            n_done: done.iter().filter(|done| **done).count(),
            dir: own,
            plan: Arc::new(plan),
            settings,
            done,
            parts,
            next,
            journal,
            lines,
            opened: Instant::now(),
            part_rows: PART_ROWS,
            _lock: lock,
        };
        // Rows that a killed process has written but not recorded.
        if folder.names.is_some() {
            folder.write_manifest()?;
        }
        Ok(folder)
    }

    /// The same with parts of `part_rows` rows.
    pub fn with_part_rows(self, part_rows: usize) -> Self {
        Self {
            part_rows: part_rows.max(1),
            ..self
        }
    }

    /// The plan of the rows.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The folder's path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The number of finished rows, including failed ones.
    pub fn done(&self) -> usize {
        self.n_done
    }

    /// Whether all rows are finished.
    pub fn is_complete(&self) -> bool {
        self.n_done == self.done.len()
    }

    /// The failed rows in closed parts.
    pub fn failed(&self) -> impl Iterator<Item = &Failed> {
        self.parts.iter().flat_map(|part| &part.failed)
    }

    /// Whether a row is finished.
    pub fn is_done(&self, row: usize) -> bool {
        let at = row.checked_sub(self.plan.rows().start);
        at.and_then(|at| self.done.get(at))
            .is_some_and(|done| *done)
    }

    /// Sets the models' names in the options to those that the first run used.
    pub fn name(&mut self, options: &Options) -> Result<Options> {
        let given = (options.model_name.clone(), options.reader_name.clone());
        let is_new = self.names.is_none();
        let (model_name, reader_name) = self.names.get_or_insert(given).clone();
        if is_new {
            self.write_manifest()?;
        }
        Ok(Options {
            model_name,
            reader_name,
            ..options.clone()
        })
    }

    /// Adds a row, and closes the part if it is time. Ignores a row that is already finished.
    ///
    /// `options` come from [`name`](Self::name); `device` describes what computed the row.
    pub fn push(&mut self, number: usize, row: Row, options: &Options, device: &str) -> Result<()> {
        self.add(number, Entry::Row(CellResult::new(row)), options, device)
    }

    /// Records that a row cannot be computed.
    pub fn push_failed(
        &mut self,
        number: usize,
        cell: &str,
        options: &Options,
        device: &str,
    ) -> Result<()> {
        self.add(number, Entry::Failed(cell.to_owned()), options, device)
    }

    fn add(&mut self, row: usize, what: Entry, options: &Options, device: &str) -> Result<()> {
        let at = row.checked_sub(self.plan.rows().start);
        let Some(done) = at.and_then(|at| self.done.get_mut(at)) else {
            return Err(SweepError::Stray {
                row: row.to_string(),
            });
        };
        if *done {
            return Ok(());
        }
        let open = || Journal::open(self.dir.join(part_name(self.next, OPEN)), |_| {});
        let mut journal = self.journal.take().map_or_else(open, Ok)?;
        let pushed = journal.push(&Line { row, what });
        self.journal = Some(journal);
        pushed?;
        *done = true;
        self.n_done += 1;
        self.lines += 1;
        if self.lines >= self.part_rows || self.opened.elapsed() > PART_TIME {
            self.close_part(options, device)?;
        }
        Ok(())
    }

    /// Turns the open part into a file, if it has any rows.
    pub fn close_part(&mut self, options: &Options, device: &str) -> Result<()> {
        self.opened = Instant::now();
        let Some(journal) = self.journal.as_ref().filter(|_| self.lines > 0) else {
            return Ok(());
        };
        let journal = journal.path().to_owned();
        let mut lines = Vec::with_capacity(self.lines);
        // Read it back from disk: only what is there counts.
        Journal::open(journal.clone(), |line| lines.push(line))?;
        lines.sort_by_key(|line| line.row);
        let name = part_name(self.next, PARQUET);
        let mut info = PartInfo {
            file: name.clone(),
            rows: ranges(lines.iter().map(|line| line.row)),
            failed: Vec::new(),
            device: device.to_owned(),
        };
        let mut rows = Vec::with_capacity(lines.len());
        for line in lines {
            match line.what {
                Entry::Row(result) => rows.push((line.row, result)),
                Entry::Failed(cell) => info.failed.push(Failed {
                    row: line.row,
                    cell,
                }),
            }
        }
        let path = self.dir.join(&name);
        let metadata = [
            ("selfie.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("selfie.settings", self.settings.0.to_string()),
            (
                PART,
                serde_json::to_string(&info)
                    .map_err(io::Error::from)
                    .map_err(write_error(&path))?,
            ),
        ];
        let mut stray = None;
        let plan = &self.plan;
        write_atomic(&path, |file| {
            let mut writer =
                ParquetRows::new(BufWriter::new(file), &options.row_fields(), &metadata)?;
            for (number, said) in rows {
                match said.into_row(number, plan, options) {
                    Ok(row) => writer.write(row)?,
                    Err(error) => {
                        stray = Some(error);
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
            }
            writer.finish()
        })
        .map_err(|error| stray.unwrap_or_else(|| write_error(&path)(error)))?;
        // From here on the part counts, and its journal does not.
        self.parts.push(info);
        fs::remove_file(&journal).map_err(write_error(&journal))?;
        self.next += 1;
        self.journal = None;
        self.lines = 0;
        self.write_manifest()
    }

    fn write_manifest(&mut self) -> Result<()> {
        let Some((model, reader)) = self.names.clone() else {
            return Ok(());
        };
        let rows = self.plan.rows();
        let done = self.parts.iter().map(PartInfo::len).sum();
        let manifest = Manifest {
            model,
            reader,
            settings: self.settings.clone(),
            rows: (rows.start, rows.end),
            done,
            complete: done == rows.len(),
            failed: self.failed().cloned().collect(),
            gaps: self.plan.gaps().to_vec(),
            without_cells: Gap {
                what: "prompts without rows".to_owned(),
                count: self.plan.without_cells().len(),
                prompts: self.plan.without_cells().to_vec(),
            },
            parts: self.parts.clone(),
        };
        manifest.write(&self.dir)
    }
}

/// The row files in a sweep's folder and in the folders of its shards, in order; empty if it has no sweep.
pub fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    folders.extend(shard_folders(dir)?.into_iter().map(|(_, dir)| dir));
    for folder in folders {
        if folder.join(MANIFEST).exists() {
            files.extend(part_files(&folder)?);
        }
    }
    Ok(files)
}

/// The closed parts of a folder, in order.
pub(crate) fn part_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let names = names(dir)?;
    let parts = names
        .iter()
        .filter(|name| part_number(name, PARQUET).is_some());
    Ok(parts.map(|name| dir.join(name)).collect())
}

/// The shards' folders in a folder, in order.
pub(crate) fn shard_folders(dir: &Path) -> Result<Vec<(Shard, PathBuf)>> {
    let mut found = Vec::new();
    for name in names(dir)? {
        let numbers = name
            .strip_prefix("shard-")
            .and_then(|name| name.split_once("-of-"));
        let shard = numbers.and_then(|(index, of)| format!("{index}/{of}").parse().ok());
        if let Some(shard) = shard {
            found.push((shard, dir.join(name)));
        }
    }
    Ok(found)
}

/// Writes a file beside its place, waits until it is on disk, and moves it into place.
pub(crate) fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let written = (|| {
        let mut file = File::create(&partial)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        sync_folder(path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// A rename is on disk once its folder is synchronised, if folders can be.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// The folder of a shard. Another number of shards, or rows of the whole sweep beside shards, make another sweep.
fn shard_folder(dir: &Path, shard: Shard) -> Result<PathBuf> {
    let other = |found: String| {
        Err(SweepError::OtherSweep {
            dir: dir.to_owned(),
            differences: vec![format!("the folder has {found}, but --shard is {shard}")],
        })
    };
    let shards = if dir.is_dir() {
        shard_folders(dir)?
    } else {
        Vec::new()
    };
    if shard == Shard::ALL {
        return match shards.first() {
            Some((first, _)) => other(format!("shard {first}")),
            None => Ok(dir.to_owned()),
        };
    }
    if dir.join(MANIFEST).exists() {
        return other("a sweep without shards".to_owned());
    }
    if let Some((first, _)) = shards.iter().find(|(found, _)| found.of != shard.of) {
        return other(format!("shard {first}"));
    }
    Ok(dir.join(format!("shard-{:04}-of-{:04}", shard.index, shard.of)))
}

/// Takes a lock that this process holds until it ends, in any way.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path);
    let mut file = file.map_err(write_error(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut by = String::new();
            let _ = file.read_to_string(&mut by);
            let by = if by.is_empty() {
                by
            } else {
                format!(" ({})", by.trim())
            };
            return Err(SweepError::Locked {
                dir: dir.to_owned(),
                by,
            });
        }
        Err(TryLockError::Error(error)) => return Err(write_error(&path)(error)),
    }
    // The name of the process only serves a message. A full disk is reported elsewhere.
    let _ = file.set_len(0);
    let _ = file.seek(SeekFrom::Start(0));
    let _ = write!(file, "process {}", std::process::id());
    Ok(file)
}

/// An error if a folder has anything but its lock.
fn check_empty(dir: &Path) -> Result<()> {
    let leftover = format!("{MANIFEST}{PARTIAL}");
    if names(dir)?
        .iter()
        .all(|name| name == LOCK || *name == leftover || *name == part_name(0, OPEN))
    {
        return Ok(());
    }
    Err(SweepError::NotASweep {
        dir: dir.to_owned(),
    })
}

/// The closed parts, in order, and the number of the open one. Removes the leftovers of killed processes.
fn parts(dir: &Path) -> Result<(Vec<PartInfo>, usize)> {
    let names = names(dir)?;
    let (mut parts, mut next) = (Vec::new(), 0);
    for name in &names {
        if let Some(number) = part_number(name, PARQUET) {
            let mut part = read_info(&dir.join(name))?;
            part.file = name.clone();
            parts.push(part);
            next = number + 1;
        }
    }
    // After the last part, even if that one was deleted.
    let open = names
        .iter()
        .filter_map(|name| part_number(name, OPEN))
        .max();
    let next = open.map_or(next, |open| open.max(next));
    let open = part_name(next, OPEN);
    for name in names {
        if name.ends_with(PARTIAL) || (name.ends_with(OPEN) && name != open) {
            let path = dir.join(&name);
            fs::remove_file(&path).map_err(write_error(&path))?;
        }
    }
    Ok((parts, next))
}

fn part_name(number: usize, end: &str) -> String {
    format!("part-{number:05}{end}")
}

fn part_number(name: &str, end: &str) -> Option<usize> {
    name.strip_prefix("part-")?.strip_suffix(end)?.parse().ok()
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(read_error(dir))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(read_error(dir))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
