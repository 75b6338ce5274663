//! Outputs take their place when complete, and nothing is lost on the way.
#![cfg(target_os = "linux")]

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use selfie_control::{ControlError, OutputFile, OutputFolder};
use tempfile::tempdir;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// An output with something written to it.
fn begun(path: &Path, text: &str) -> OutputFile {
    let mut out = OutputFile::new(path).unwrap();
    out.file().unwrap().write_all(text.as_bytes()).unwrap();
    out
}

#[test]
fn a_file_appears_when_it_is_complete() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let out = OutputFile::new(&path).unwrap();
    assert!(names(folder.path()).is_empty());
    drop(out);
    let out = begun(&path, "new");
    assert_eq!(names(folder.path()), ["rows.partial.jsonl"]);
    out.finish().unwrap();
    assert_eq!(names(folder.path()), ["rows.jsonl"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");

    drop(begun(&path, "newer"));
    assert_eq!(names(folder.path()), ["rows.jsonl"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    begun(&path, "newer").finish().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
}

#[test]
fn permissions_are_those_of_a_plain_file() {
    let folder = tempdir().unwrap();
    let (plain, path) = (folder.path().join("plain"), folder.path().join("out"));
    File::create(&plain).unwrap();
    begun(&path, "").finish().unwrap();
    assert_eq!(mode(&path), mode(&plain));
    // A writer that puts its own private file there.
    let save = |path: &Path| -> Result<(), ControlError> {
        fs::remove_file(path).unwrap();
        fs::write(path, "saved").unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        Ok(())
    };
    fs::remove_file(&path).unwrap();
    OutputFile::new(&path).unwrap().save_with(save).unwrap();
    assert_eq!(mode(&path), mode(&plain));
    assert_eq!(fs::read_to_string(&path).unwrap(), "saved");
    // The permissions of an older file stay.
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    begun(&path, "new").finish().unwrap();
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn a_partial_result_replaces_no_older_one() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    assert_eq!(begun(&path, "first").keep().unwrap(), None);
    assert_eq!(fs::read_to_string(&path).unwrap(), "first");
    for (text, name) in [
        ("second", "rows.partial.csv"),
        ("third", "rows.partial-2.csv"),
    ] {
        let kept = begun(&path, text).keep().unwrap();
        assert_eq!(kept, Some(folder.path().join(name)));
        assert_eq!(fs::read_to_string(kept.unwrap()).unwrap(), text);
    }
    begun(&path, "last").finish().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "last");
    assert_eq!(
        names(folder.path()),
        ["rows.csv", "rows.partial-2.csv", "rows.partial.csv"]
    );
}

#[test]
fn links_stay() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("big")).unwrap();
    fs::write(at("big/real"), "old").unwrap();
    symlink("big/real", at("one")).unwrap();
    symlink("one", at("two")).unwrap();
    symlink("big/none", at("dangling")).unwrap();
    let link = |name: &str| fs::symlink_metadata(at(name)).unwrap().is_symlink();
    begun(&at("two"), "new").finish().unwrap();
    begun(&at("dangling"), "made").finish().unwrap();
    assert!(link("one") && link("two") && link("dangling"));
    assert_eq!(fs::read_to_string(at("big/real")).unwrap(), "new");
    assert_eq!(fs::read_to_string(at("big/none")).unwrap(), "made");
    symlink("circle", at("circle")).unwrap();
    assert!(OutputFile::new(&at("circle")).is_err());
}

#[test]
fn special_files_are_written_directly() {
    let null = || {
        let kind = fs::symlink_metadata("/dev/null").unwrap().file_type();
        assert!(kind.is_char_device());
    };
    null();
    begun(Path::new("/dev/null"), "x").finish().unwrap();
    null();
    let save = |path: &Path| -> Result<(), ControlError> {
        fs::write(path, "saved").unwrap();
        Ok(())
    };
    let out = OutputFile::new(Path::new("/dev/null")).unwrap();
    out.save_with(save).unwrap();
    null();
    assert_eq!(begun(Path::new("/dev/null"), "x").keep().unwrap(), None);
    let mut full = OutputFile::new(Path::new("/dev/full")).unwrap();
    assert!(full.file().unwrap().write_all(b"x").is_err());

    let folder = tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || {
            let mut text = String::new();
            File::open(fifo).unwrap().read_to_string(&mut text).unwrap();
            text
        }
    });
    begun(&fifo, "through").finish().unwrap();
    assert_eq!(reader.join().unwrap(), "through");
    assert_eq!(names(folder.path()), ["fifo"]);
}

#[test]
fn unwritable_paths_are_refused_at_once() {
    let folder = tempdir().unwrap();
    let refuse = |path: &Path, part: &str| {
        let error = OutputFile::new(path).err().expect("it is refused");
        let error = error.to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains(part), "{error}");
    };
    refuse(folder.path(), "directory");
    refuse(&folder.path().join("rows.csv/"), "directory");
    refuse(&folder.path().join("no/such/rows.csv"), "No such file");
    // Not even root can create anything there.
    refuse(Path::new("/sys/kernel/rows.csv"), "in its folder");
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    refuse(&file.join("rows.csv"), "directory");
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn a_folder_appears_when_it_is_complete() {
    let parent = tempdir().unwrap();
    let path = parent.path().join("Llama-2.7b");
    let out = OutputFolder::new(&path).unwrap();
    assert_eq!(names(parent.path()), ["Llama-2.7b.partial"]);
    fs::write(out.partial().join("config.json"), "{}").unwrap();
    drop(out);
    assert!(names(parent.path()).is_empty());
    // An empty folder may exist.
    fs::create_dir(&path).unwrap();
    let out = OutputFolder::new(&path).unwrap();
    fs::write(out.partial().join("config.json"), "{}").unwrap();
    out.finish().unwrap();
    assert_eq!(names(parent.path()), ["Llama-2.7b"]);
    assert_eq!(names(&path), ["config.json"]);
    assert!(matches!(
        OutputFolder::new(&path),
        Err(ControlError::FolderExists { .. })
    ));
}
