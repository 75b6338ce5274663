//! A read-only map of a part of a file: the only `unsafe` code in this crate.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::MmapOptions;

/// Calls `read` once with `len` bytes of the file from `offset`. The map is dropped afterwards.
///
/// If the file was truncated *before* the call, this is an error. If another process truncates it *during* the call,
/// touching the lost pages raises SIGBUS, as in every program that maps files. Do not truncate a checkpoint in place
/// while it is being read. (Replacing it with another file is fine.)
pub(super) fn with_bytes(
    file: &File,
    offset: u64,
    len: usize,
    read: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    // Some systems refuse a map of 0 bytes.
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
    // SAFETY: the map is read-only, `offset..end` was just found to be inside the file, and the slice does not outlive
    // this call. The documentation asks the caller that nobody writes to the file meanwhile; no map of a file can
    // guarantee more.
    let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file)? };
    read(&map);
    Ok(())
}
