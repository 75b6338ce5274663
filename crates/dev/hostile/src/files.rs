//! Inputs that the program reads from files.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

thread_local! {
    /// One for all inputs of a thread: making a folder takes longer than most checks.
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// Calls `read` with a folder in which the files are, and nothing else.
pub(crate) fn with_files<T>(files: &[(&str, &[u8])], read: impl FnOnce(&Path) -> T) -> T {
    FOLDER.with_borrow_mut(|folder| {
        let folder =
            folder.get_or_insert_with(|| tempfile::tempdir().expect("a folder can be made"));
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).expect("a file can be written");
        }
        let read = read(folder.path());
        for (name, _) in files {
            fs::remove_file(folder.path().join(name)).expect("a file can be removed");
        }
        read
    })
}

/// The parts of an input that stands for several files: each begins with a line `=== NAME`.
/// Of two of one name, and of names that are not among `names`, nothing is made.
pub(crate) fn parts<'a>(input: &'a [u8], names: &[&'static str]) -> Vec<(&'static str, &'a [u8])> {
    const MARK: &[u8] = b"=== ";
    let mut begins: Vec<usize> = (0..input.len())
        .filter(|&at| input[at..].starts_with(MARK))
        .collect();
    begins.push(input.len());
    let mut parts: Vec<(&'static str, &[u8])> = Vec::new();
    for part in begins.windows(2) {
        let part = &input[part[0] + MARK.len()..part[1]];
        let line = part
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(part.len());
        let name = names.iter().find(|name| name.as_bytes() == &part[..line]);
        if let Some(name) = name
            && !parts.iter().any(|(there, _)| there == name)
        {
            parts.push((name, part.get(line + 1..).unwrap_or_default()));
        }
    }
    parts
}
