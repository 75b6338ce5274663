//! The one use of `unsafe` in this crate: a read-only map of a part of a file.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::MmapOptions;

/// Calls `read` once with `len` bytes of the file from `offset`. They leave memory when it returns.
///
/// A file that is shortened *before* the call is an error. If another process shortens it *during* the
/// call, touching the lost pages raises SIGBUS, as it does in every program that maps files: do not
/// truncate a checkpoint in place while it is read. (Replacing it by another file is fine.)
pub(super) fn with_bytes(
    file: &File,
    offset: u64,
    len: usize,
    read: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    // A map of no bytes is an error on some systems.
    if len == 0 {
        read(&[]);
        return Ok(());
    }
    let end = offset.saturating_add(len as u64);
    let found = file.metadata()?.len();
    if end > found {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!(
                "bytes {offset}..{end} are needed but the file has {found}: it was shortened after it \
                 was opened"
            ),
        ));
    }
    // SAFETY: the map is read-only, `offset..end` was inside the file just now, and the slice does not
    // outlive this call. That nobody writes into the file meanwhile is what the caller's documentation
    // asks for; no map of a file can do better.
    let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file)? };
    read(&map);
    Ok(())
}
