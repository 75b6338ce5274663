//! Outputs that take their place when they are complete. Until then they lie beside it, as `NAME.partial.EXT`, so that a
//! run that fails, or is killed at any moment, leaves an older result as it was.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use crate::{ControlError, Result};

/// Links to links that are followed.
const MAX_LINKS: usize = 40;
/// Partial results of one name that may lie beside each other.
const MAX_PARTIAL: usize = 1000;

/// A file that takes its place when it is complete.
///
/// A regular file, or none, is written beside its place and renamed. The new file has the permissions of the one that it
/// replaces, else those that the umask gives. A symbolic link stays, and what it points to is replaced. A device, a FIFO, or
/// a descriptor that is open already (`/dev/stdout`) is written to as it is.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("rows.txt");
/// use selfie_control::OutputFile;
/// use std::io::Write;
///
/// let mut out = OutputFile::new(&path)?; // An error now, rather than after the work.
/// writeln!(out.file()?, "a row")?;
/// assert!(!path.exists());
/// out.finish()?;
/// assert_eq!(std::fs::read_to_string(&path)?, "a row\n");
/// # Ok(())
/// # }
/// ```
pub struct OutputFile {
    path: PathBuf,
    place: Place,
}

enum Place {
    /// What lies beside is renamed to `target`.
    Beside {
        target: PathBuf,
        partial: Option<Partial>,
    },
    /// Every byte goes where it belongs at once.
    Through(File),
}

impl OutputFile {
    /// Finds out how `path` is written, and that it can be. What is there stays as it is, and nothing new is left.
    pub fn new(path: &Path) -> Result<Self> {
        let place = Place::of(path).map_err(|source| failed(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            place,
        })
    }

    /// The file to write to, for as long as the output is not finished.
    pub fn file(&mut self) -> Result<File> {
        let file = match &mut self.place {
            Place::Through(file) => file.try_clone(),
            Place::Beside {
                partial: Some(partial),
                ..
            } => partial.file.try_clone(),
            Place::Beside { target, partial } => {
                Partial::new(target).and_then(|new| partial.insert(new).file.try_clone())
            }
        };
        file.map_err(|source| self.failed(source))
    }

    /// Puts the complete file in its place.
    pub fn finish(mut self) -> Result<()> {
        self.file()?;
        let put = match &mut self.place {
            Place::Beside {
                target,
                partial: Some(partial),
            } => partial.put(target),
            _ => Ok(()),
        };
        put.map_err(|source| self.failed(source))
    }

    /// Keeps what a run that failed has written: in its place if nothing is there, else beside it. Then the older result
    /// stays as it was, and the path of the partial one is returned.
    pub fn keep(self) -> Result<Option<PathBuf>> {
        let Place::Beside { target, .. } = &self.place else {
            return Ok(None);
        };
        if !target.exists() {
            return self.finish().map(|()| None);
        }
        Ok(self.leave())
    }

    /// Leaves what has been written beside its place, and returns its path; `None` where nothing has been, or where it has
    /// gone through.
    pub fn leave(mut self) -> Option<PathBuf> {
        match &mut self.place {
            Place::Beside { partial, .. } => partial.as_mut().map(|partial| {
                partial.stays = true;
                partial.path.clone()
            }),
            Place::Through(_) => None,
        }
    }

    /// Puts what `save` writes to the path that it is given in its place: for writers that want a path.
    pub fn save_with<E: From<ControlError>>(
        mut self,
        save: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut file = self.file()?;
        if let Place::Beside {
            partial: Some(partial),
            ..
        } = &self.place
        {
            save(&partial.path)?;
        } else {
            let saved = tempfile::NamedTempFile::new().map_err(|source| self.failed(source))?;
            save(saved.path())?;
            let copied =
                File::open(saved.path()).and_then(|mut from| io::copy(&mut from, &mut file));
            copied.map_err(|source| self.failed(source))?;
        }
        Ok(self.finish()?)
    }

    /// The path that it was made for.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error that this file cannot be written.
    pub fn failed(&self, source: io::Error) -> ControlError {
        failed(&self.path, source)
    }
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let Some(target) = follow(path)? else {
            return Self::through(path);
        };
        match fs::metadata(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(there) if !there.is_file() => return Self::through(&target),
            // A file that may not be written is not replaced either.
            Ok(_) => drop(File::options().append(true).open(&target)?),
        }
        drop(Partial::new(&target)?);
        Ok(Self::Beside {
            target,
            partial: None,
        })
    }

    /// Open from now on: a FIFO that is closed in between ends for its reader.
    fn through(path: &Path) -> io::Result<Self> {
        Ok(Self::Through(File::options().append(true).open(path)?))
    }
}

/// A file that is not in its place yet. It goes with this value, unless it stays. A panic leaves it: rows may be in it.
struct Partial {
    path: PathBuf,
    file: File,
    /// As the umask gives them.
    permissions: Permissions,
    stays: bool,
}

impl Partial {
    fn new(target: &Path) -> io::Result<Self> {
        let stem = target.file_stem().unwrap_or_default();
        let (path, file) = beside(target, stem, target.extension(), |path| {
            File::create_new(path)
        })?;
        Ok(Self {
            permissions: file.metadata()?.permissions(),
            path,
            file,
            stays: false,
        })
    }

    fn put(&mut self, target: &Path) -> io::Result<()> {
        // What cannot be put in its place is not lost either.
        self.stays = true;
        let put = || {
            // A writer that wants a path may have put another file there.
            sync(&File::options().append(true).open(&self.path)?)?;
            let older = fs::metadata(target).map(|older| older.permissions());
            let permissions = older.unwrap_or(self.permissions.clone());
            if fs::metadata(&self.path)?.permissions() != permissions {
                fs::set_permissions(&self.path, permissions)?;
            }
            fs::rename(&self.path, target)
        };
        put().map_err(|error| {
            let path = self.path.display();
            io::Error::new(error.kind(), format!("{error}; the result is in {path}"))
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.stays && !std::thread::panicking() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A new folder that takes its place when it is complete; until then it is `NAME.partial`. It goes with this value, unless
/// it is finished.
pub struct OutputFolder {
    path: PathBuf,
    target: PathBuf,
    partial: Option<PathBuf>,
}

impl OutputFolder {
    /// Makes the folder beside its place; an error when something is where it is to be, or when no folder can be made there.
    pub fn new(path: &Path) -> Result<Self> {
        let taken = || ControlError::FolderExists {
            path: path.to_owned(),
        };
        let made = || -> io::Result<Option<(PathBuf, PathBuf)>> {
            let Some(target) = follow(path)? else {
                return Ok(None);
            };
            // An empty folder is replaced.
            if fs::symlink_metadata(&target).is_ok()
                && fs::read_dir(&target).map_or(true, |mut files| files.next().is_some())
            {
                return Ok(None);
            }
            fs::create_dir_all(folder(&target))?;
            let name = target.file_name().unwrap_or_default();
            let (partial, ()) = beside(&target, name, None, |path| fs::create_dir(path))?;
            Ok(Some((target, partial)))
        };
        match made().map_err(|source| failed(path, source))? {
            None => Err(taken()),
            Some((target, partial)) => Ok(Self {
                path: path.to_owned(),
                target,
                partial: Some(partial),
            }),
        }
    }

    /// Where its files are written.
    pub fn partial(&self) -> &Path {
        self.partial.as_deref().unwrap_or(&self.target)
    }

    /// Puts the complete folder in its place.
    pub fn finish(mut self) -> Result<()> {
        fs::rename(self.partial(), &self.target).map_err(|source| failed(&self.path, source))?;
        self.partial = None;
        Ok(())
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = fs::remove_dir_all(partial);
        }
    }
}

/// Waits until a file is on the disk, where its file system knows how to.
fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// The folder that a file lies in.
pub(crate) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Follows links to their end, also where nothing is there. `None` is a descriptor that this process has open.
fn follow(path: &Path) -> io::Result<Option<PathBuf>> {
    let ends_in_separator = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if path.file_name().is_none() || (ends_in_separator && !path.is_dir()) {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if is_descriptor(&path) {
            return Ok(None);
        }
        match fs::read_link(&path) {
            Ok(next) => path = folder(&path).join(next),
            // No link, or nothing at all.
            Err(_) => return Ok(Some(path)),
        }
    }
    Err(io::Error::other("too many links to links"))
}

/// Whether a path is one of `/dev/fd` or `/proc/N/fd`, where `/dev/stdout` leads.
fn is_descriptor(path: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder(path)) else {
        return false;
    };
    folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
}

/// Makes something new beside `target`: `STEM.partial.EXT`, or with a number where that is taken.
fn beside<T>(
    target: &Path,
    stem: &OsStr,
    extension: Option<&OsStr>,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let folder = folder(target);
    for number in 1..=MAX_PARTIAL {
        let mut name = OsString::from(stem);
        name.push(".partial");
        if number > 1 {
            name.push(format!("-{number}"));
        }
        if let Some(extension) = extension {
            name.push(".");
            name.push(extension);
        }
        let path = folder.join(name);
        match make(&path) {
            Ok(made) => return Ok((path, made)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(error) => {
                let reason = format!("nothing can be made in its folder: {error}");
                return Err(io::Error::new(error.kind(), reason));
            }
        }
    }
    let reason = format!("there are {MAX_PARTIAL} partial results of it already");
    Err(io::Error::new(io::ErrorKind::AlreadyExists, reason))
}

fn failed(path: &Path, source: io::Error) -> ControlError {
    ControlError::Write {
        path: path.to_owned(),
        source,
    }
}
