//! Output files that take their place when they are complete. Until then they lie beside it as `NAME.partial.EXT`, so
//! that a failed or killed run leaves an older result untouched.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use crate::{ControlError, Result};

/// How many links to follow.
const MAX_LINKS: usize = 40;
/// How many partial results of one name may exist.
const MAX_PARTIAL: usize = 1000;

/// A file that takes its place when it is complete.
///
/// Regular files, and new ones, are written beside their place and renamed. The new file has the permissions of the
/// file it replaces, or those of the umask. Symbolic links stay, and their target is replaced. Devices, FIFOs and open
/// descriptors (`/dev/stdout`) are written to directly.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("rows.txt");
/// use selfie_control::OutputFile;
/// use std::io::Write;
///
/// let mut out = OutputFile::new(&path)?; // Fails now, not after the work.
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
    /// A partial file, to be renamed to `target`.
    Beside {
        target: PathBuf,
        partial: Option<Partial>,
    },
    /// Every byte goes straight to its destination.
    Through(File),
}

impl OutputFile {
    /// Finds out how to write `path`, and checks that it can be written. Existing files stay as they are, and nothing
    /// new is left.
    pub fn new(path: &Path) -> Result<Self> {
        let place = Place::of(path).map_err(|source| failed(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            place,
        })
    }

    /// The file to write to, until the output is finished.
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

    /// Moves the complete file into place.
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

    /// Keeps the output of a failed run: in its place if nothing is there, else beside the older result. Returns the
    /// path in the latter case.
    pub fn keep(self) -> Result<Option<PathBuf>> {
        let Place::Beside { target, .. } = &self.place else {
            return Ok(None);
        };
        if !target.exists() {
            return self.finish().map(|()| None);
        }
        Ok(self.leave())
    }

    /// Leaves the output beside its place and returns its path; `None` if there is no output, or if it was written
    /// directly.
    pub fn leave(mut self) -> Option<PathBuf> {
        match &mut self.place {
            Place::Beside { partial, .. } => partial.as_mut().map(|partial| {
                partial.stays = true;
                partial.path.clone()
            }),
            Place::Through(_) => None,
        }
    }

    /// Saves through a writer that wants a path: calls `save` with one, and moves the file it writes into place.
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

    /// The path given to [`new`](Self::new).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The error of a failed write to this file.
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
            // A file that must not be written must not be replaced either.
            Ok(_) => drop(File::options().append(true).open(&target)?),
        }
        drop(Partial::new(&target)?);
        Ok(Self::Beside {
            target,
            partial: None,
        })
    }

    /// Keeps the FIFO open from now on: closing it in between would end it for its reader.
    fn through(path: &Path) -> io::Result<Self> {
        Ok(Self::Through(File::options().append(true).open(path)?))
    }
}

/// A file that is not in its place yet. Dropping it removes it, unless `stays` is set. A panic keeps it: it may hold
/// rows.
struct Partial {
    path: PathBuf,
    file: File,
    /// The permissions that the umask gives.
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
        // If the move fails, keep the result.
        self.stays = true;
        let put = || {
            // A writer that wants a path may have replaced the file.
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

/// A new folder that takes its place when it is complete; until then it is `NAME.partial`. Dropping it removes it,
/// unless it is finished.
pub struct OutputFolder {
    path: PathBuf,
    target: PathBuf,
    partial: Option<PathBuf>,
}

impl OutputFolder {
    /// Creates the folder beside its place. Fails if its path is taken, or if no folder can be created there.
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

    /// Where to write the folder's files.
    pub fn partial(&self) -> &Path {
        self.partial.as_deref().unwrap_or(&self.target)
    }

    /// Moves the complete folder into place.
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

/// Waits until a file is on disk, if its file system supports that.
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

/// The folder that contains a file.
pub(crate) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Follows links to their end, even if nothing is there. `None` means a descriptor that this process has open.
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
            // Not a link, or nothing at all.
            Err(_) => return Ok(Some(path)),
        }
    }
    Err(io::Error::other("too many symbolic links in a row"))
}

/// Whether a path is in `/dev/fd` or `/proc/N/fd`, where `/dev/stdout` points.
fn is_descriptor(path: &Path) -> bool {
    let Ok(folder) = fs::canonicalize(folder(path)) else {
        return false;
    };
    folder == Path::new("/dev/fd") || (folder.starts_with("/proc") && folder.ends_with("fd"))
}

/// Creates something new beside `target`: `STEM.partial.EXT`, with a number if that name is taken.
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
                let reason = format!("cannot create a file in its folder: {error}");
                return Err(io::Error::new(error.kind(), reason));
            }
        }
    }
    let reason = format!("there are already {MAX_PARTIAL} partial results of it; remove some");
    Err(io::Error::new(io::ErrorKind::AlreadyExists, reason))
}

fn failed(path: &Path, source: io::Error) -> ControlError {
    ControlError::Write {
        path: path.to_owned(),
        source,
    }
}
