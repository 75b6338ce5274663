//! Reads finished folders as one list of rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selfie::interp::{Row, RowFields};

use crate::folder::{part_files, shard_folders};
use crate::read::{read_info, read_rows};
use crate::{Failed, Manifest, PartInfo, Result, Settings, Shard, SweepError};

/// The complete folders of one sweep.
#[derive(Clone, Debug)]
pub struct Merge {
    /// Their common settings.
    pub settings: Settings,
    /// The optional fields of their rows.
    pub fields: RowFields,
    /// Failed rows, which are missing.
    pub failed: Vec<Failed>,
    /// The number of rows.
    pub rows: usize,
    /// The devices that computed the rows, each once. Different devices may differ in the last bits.
    pub devices: Vec<String>,
    parts: Vec<(PathBuf, PartInfo)>,
}

impl Merge {
    /// Opens sweep folders. Shards may be given one by one, or as the folder that contains them.
    ///
    /// # Errors
    /// A folder has no sweep; two differ in more than the shard; a shard or a row is missing or repeated.
    pub fn open(dirs: &[impl AsRef<Path>]) -> Result<Self> {
        let mut folders: BTreeMap<Shard, (PathBuf, Manifest)> = BTreeMap::new();
        for dir in dirs {
            for (dir, manifest) in sweeps_in(dir.as_ref())? {
                let damaged = || SweepError::Damaged {
                    path: dir.join("manifest.json"),
                    reason: "its settings have no shard".to_owned(),
                };
                let shard = manifest.settings.shard().ok_or_else(damaged)?;
                if let Some((_, (one, first))) = folders.first_key_value() {
                    let there = first.settings.without_shard();
                    let mut differences = manifest.settings.without_shard().differences(&there);
                    if shard.of != first.settings.shard().ok_or_else(damaged)?.of {
                        differences.push(format!("one is shard {shard}"));
                    }
                    if !differences.is_empty() {
                        return Err(SweepError::NotOneSweep {
                            one: one.clone(),
                            other: dir,
                            differences,
                        });
                    }
                }
                if let Some((one, _)) = folders.insert(shard, (dir.clone(), manifest)) {
                    return Err(SweepError::ShardTwice {
                        shard: shard.to_string(),
                        one,
                        other: dir,
                    });
                }
            }
        }
        Self::of_folders(folders)
    }

    fn of_folders(folders: BTreeMap<Shard, (PathBuf, Manifest)>) -> Result<Self> {
        let Some((shard, (dir, first))) = folders.first_key_value() else {
            return Err(SweepError::Unfinished {
                what: "no folder given".to_owned(),
            });
        };
        let missing: Vec<String> = (1..=shard.of)
            .map(|index| Shard { index, ..*shard })
            .filter(|shard| !folders.contains_key(shard))
            .map(|shard| shard.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(SweepError::Unfinished {
                what: format!("shards are missing: {}", missing.join(", ")),
            });
        }
        let fields = first.settings.fields().ok_or_else(|| SweepError::Damaged {
            path: dir.join("manifest.json"),
            reason: "its settings have unknown samples or controls".to_owned(),
        })?;
        let mut merge = Self {
            settings: first.settings.without_shard(),
            fields,
            failed: Vec::new(),
            rows: 0,
            devices: Vec::new(),
            parts: Vec::new(),
        };
        for (dir, manifest) in folders.values() {
            merge.add(dir, manifest)?;
        }
        merge
            .parts
            .sort_by_key(|(_, part)| part.rows.first().copied());
        Ok(merge)
    }

    /// Adds the parts of a folder, after checking each.
    fn add(&mut self, dir: &Path, manifest: &Manifest) -> Result<()> {
        let mut ranges = Vec::new();
        for path in part_files(dir)? {
            let part = read_info(&path)?;
            ranges.extend(part.rows.iter().copied());
            self.rows += part.len() - part.failed.len();
            self.failed.extend(part.failed.iter().cloned());
            if !self.devices.contains(&part.device) {
                self.devices.push(part.device.clone());
            }
            self.parts.push((path, part));
        }
        ranges.sort_unstable();
        let (first, end) = manifest.rows;
        let (mut next, mut missing) = (first, 0);
        for (from, to) in ranges {
            if from < next {
                return Err(SweepError::Damaged {
                    path: dir.to_owned(),
                    reason: format!("row {from} occurs twice"),
                });
            }
            missing += from - next;
            next = to;
        }
        missing += end.saturating_sub(next);
        if missing > 0 {
            return Err(SweepError::Unfinished {
                what: format!(
                    "{missing} of {} rows are missing in {}",
                    end - first,
                    dir.display()
                ),
            });
        }
        Ok(())
    }

    /// The rows in the order of the plan. Reads one part after another, a few rows at a time.
    pub fn rows(&self) -> MergedRows<'_> {
        MergedRows {
            left: &self.parts,
            open: Vec::new(),
        }
    }
}

/// The rows of a [`Merge`].
pub struct MergedRows<'a> {
    left: &'a [(PathBuf, PartInfo)],
    open: Vec<OpenPart>,
}

/// A part being read.
struct OpenPart {
    rows: Box<dyn Iterator<Item = Result<Row>>>,
    /// The numbers of its remaining rows.
    numbers: std::iter::Peekable<Box<dyn Iterator<Item = usize>>>,
}

impl OpenPart {
    fn new(path: &Path, part: &PartInfo) -> Result<Self> {
        let failed: Vec<usize> = part.failed.iter().map(|failed| failed.row).collect();
        let numbers = part
            .rows
            .clone()
            .into_iter()
            .flat_map(|(from, to)| from..to);
        let numbers: Box<dyn Iterator<Item = usize>> =
            Box::new(numbers.filter(move |number| !failed.contains(number)));
        Ok(Self {
            rows: Box::new(read_rows(path)?),
            numbers: numbers.peekable(),
        })
    }
}

impl Iterator for MergedRows<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.open.retain_mut(|part| part.numbers.peek().is_some());
            let first = |part: &mut OpenPart| part.numbers.peek().copied();
            let at = (0..self.open.len()).min_by_key(|&at| first(&mut self.open[at]));
            let next = at.and_then(|at| first(&mut self.open[at]));
            // Open every part that begins before the next row: rows skipped when a run stopped are in a later part.
            if let Some(((path, part), left)) = self.left.split_first()
                && next.is_none_or(|next| part.rows.first().is_none_or(|(from, _)| *from < next))
            {
                self.left = left;
                match OpenPart::new(path, part) {
                    Ok(open) => self.open.push(open),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            }
            let part = &mut self.open[at?];
            part.numbers.next();
            return part.rows.next();
        }
    }
}

/// The sweep in a folder, or those of the shards in it.
fn sweeps_in(dir: &Path) -> Result<Vec<(PathBuf, Manifest)>> {
    if let Some(manifest) = Manifest::read(dir)? {
        return Ok(vec![(dir.to_owned(), manifest)]);
    }
    let mut found = Vec::new();
    for (_, dir) in shard_folders(dir)? {
        if let Some(manifest) = Manifest::read(&dir)? {
            found.push((dir, manifest));
        }
    }
    if found.is_empty() {
        return Err(SweepError::NothingThere {
            dir: dir.to_owned(),
        });
    }
    Ok(found)
}
