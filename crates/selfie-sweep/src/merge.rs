//! Finished folders as one list of rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selfie::interp::{Row, RowFields};

use crate::folder::{part_files, shard_folders};
use crate::read::{read_info, read_rows};
use crate::{Failed, Manifest, PartInfo, Result, Settings, Shard, SweepError};

/// The folders of one sweep, all there.
#[derive(Clone, Debug)]
pub struct Merge {
    /// The settings that they share.
    pub settings: Settings,
    /// What their rows have.
    pub fields: RowFields,
    /// Rows that have failed, and are missing.
    pub failed: Vec<Failed>,
    /// How many rows there are.
    pub rows: usize,
    /// What the rows were computed on, each once. Different devices may differ in the last bits.
    pub devices: Vec<String>,
    parts: Vec<(PathBuf, PartInfo)>,
}

impl Merge {
    /// Opens sweeps' folders, those of shards by themselves or by the folder that they lie in.
    ///
    /// # Errors
    /// A folder holds no sweep; two differ in more than the shard; a shard or a row is missing, or there twice.
    pub fn open(dirs: &[impl AsRef<Path>]) -> Result<Self> {
        let mut folders: BTreeMap<Shard, (PathBuf, Manifest)> = BTreeMap::new();
        for dir in dirs {
            for (dir, manifest) in of_dir(dir.as_ref())? {
                let damaged = || SweepError::Damaged {
                    path: dir.join("manifest.json"),
                    reason: "its settings name no shard".to_owned(),
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
                what: "no folder was named".to_owned(),
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
            reason: "its settings name unknown samples or controls".to_owned(),
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

    /// Adds the parts of a folder, after a look at each of them.
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
                    reason: format!("row {from} is there twice"),
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

    /// The rows, in the order of the plan. Parts are read one after the other, a few rows at a time.
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
    open: Vec<Open>,
}

/// A part that is being read.
struct Open {
    rows: Box<dyn Iterator<Item = Result<Row>>>,
    /// The numbers of the rows to come.
    numbers: std::iter::Peekable<Box<dyn Iterator<Item = usize>>>,
}

impl Open {
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
            let first = |part: &mut Open| part.numbers.peek().copied();
            let at = (0..self.open.len()).min_by_key(|&at| first(&mut self.open[at]));
            let next = at.and_then(|at| first(&mut self.open[at]));
            // A part that begins before the next row has to be open: rows that were left out when a run was stopped are in a later one.
            if let Some(((path, part), left)) = self.left.split_first()
                && next.is_none_or(|next| part.rows.first().is_none_or(|(from, _)| *from < next))
            {
                self.left = left;
                match Open::new(path, part) {
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

/// The sweep of a folder, or those of the shards in it.
fn of_dir(dir: &Path) -> Result<Vec<(PathBuf, Manifest)>> {
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
