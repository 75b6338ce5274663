//! Where the files of a model are: a folder, or the cache of the Hugging Face hub.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::{LlamaError, Result};

/// The folder that holds the files of a model: `dir` itself, or, for a folder of the hub's cache
/// (`models--org--name`, with `refs/` and `snapshots/`), the snapshot that `refs/main` names.
///
/// Without `refs/main`, a single snapshot is taken, and several are an error that lists them.
pub fn resolve_folder(dir: &Path) -> Result<PathBuf> {
    let snapshots = dir.join("snapshots");
    if !snapshots.is_dir() || dir.join("config.json").exists() {
        return Ok(dir.to_owned());
    }
    let main = dir.join("refs").join("main");
    let named = match fs::read_to_string(&main) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(source) if source.kind() == ErrorKind::NotFound => None,
        Err(source) => return Err(LlamaError::Read { path: main, source }),
    };
    if let Some(revision) = &named {
        let snapshot = snapshots.join(revision);
        // A reference comes from the network: it must not lead out of the folder.
        if !revision.is_empty() && !revision.contains(['/', '\\']) && snapshot.is_dir() {
            return Ok(snapshot);
        }
    }
    let unreadable = |source| LlamaError::Read {
        path: snapshots.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&snapshots).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    match &*found {
        [one] if named.is_none() => Ok(one.clone()),
        _ => Err(LlamaError::NoSnapshot {
            dir: dir.to_owned(),
            main: named,
            found,
        }),
    }
}
