//! Writing a file so that a kill at any moment leaves the old one or the new one.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{ControlError, Result};

/// Writes a file beside `path`, syncs it, and renames it to `path`.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let written = || -> io::Result<()> {
        let mut file = temporary(&folder(path))?;
        let mut out = BufWriter::new(file.as_file_mut());
        fill(&mut out)?;
        out.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    written().map_err(|source| ControlError::Write {
        path: path.to_owned(),
        source,
    })
}

/// The folder that a file lies in.
pub(crate) fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// As `File::create` makes it: the umask decides who may read it, not the temporary file's privacy.
fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".selfie-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
