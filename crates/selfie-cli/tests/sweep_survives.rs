//! Sweeps that are killed, stopped, locked out, or run out of disk space.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Folder, run};

/// 12 prompts of the demo's world.
fn prompts(folder: &Folder) -> String {
    let cities = ["Rome", "Paris", "Milan", "the Colosseum", "Lyon", "Italy"];
    let of = |city: &str| format!("[INST] What is {city} in? [/INST]\nSay, is {city} old?\n");
    folder.write("prompts.txt", &cities.map(of).concat())
}

/// A slow `selfie sweep` of the demo: a few cells at a time, in parts so short that one is always being closed.
fn sweep(prompts: &str, out: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfie"));
    command
        .args([
            "sweep",
            "--quiet",
            "--prompts",
            prompts,
            "--tokens",
            "-4..",
            "--out",
            out,
        ])
        .args(["--controls", "random", "--max-new-tokens", "12"])
        .args(["--batch-size", "3", "--threads", "1", "--part-rows", "7"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn finish(mut command: Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[track_caller]
fn merged(out: &str) -> String {
    let outcome = run(&["merge", out]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    outcome.stdout
}

fn files(dir: &Path) -> Vec<(String, u64)> {
    let Ok(files) = fs::read_dir(dir) else {
        return Vec::new();
    };
    // A file may vanish in the meantime.
    let file = |file: std::io::Result<fs::DirEntry>| {
        let file = file.ok()?;
        Some((
            file.file_name().into_string().ok()?,
            file.metadata().ok()?.len(),
        ))
    };
    let mut files: Vec<(String, u64)> = files
        .filter_map(file)
        .filter(|(name, _)| name != ".lock")
        .collect();
    files.sort();
    files
}

/// Rows in the folder: those of parts, and whole lines of the journal of the part that is still open.
fn rows(dir: &Path) -> usize {
    let mut rows = 0;
    for (name, _) in files(dir) {
        let path = dir.join(&name);
        if name.ends_with(".parquet") {
            rows += selfie_sweep::read_rows(&path).unwrap().count();
        } else if let Some(part) = name.strip_suffix(".open.jsonl")
            && !dir.join(format!("{part}.parquet")).exists()
        {
            rows += fs::read(&path)
                .unwrap()
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
        }
    }
    rows
}

#[track_caller]
fn wait_until(what: &str, child: &mut Child, is_so: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn killed_at_twenty_points_the_rows_are_those_of_an_undisturbed_run() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let whole = folder.at("whole");
    finish(sweep(&prompts, &whole));
    let want = merged(&whole);
    assert!(want.lines().count() > 300);

    let mut random = fastrand::Rng::with_seed(19);
    let (mut kills, mut out, mut done) = (0, 0, 0);
    while kills < 20 {
        let name = folder.at(&format!("out-{out}"));
        let dir = Path::new(&name);
        let before = files(dir);
        let mut child = sweep(&prompts, &name).spawn().unwrap();
        let at_work = wait_until("something is written", &mut child, || files(dir) != before);
        if at_work {
            sleep(Duration::from_micros(random.u64(0..60_000)));
        }
        let has_ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        let there = rows(dir);
        // Finished rows stay finished.
        assert!(there >= done, "{there} rows, and there were {done}");
        done = there;
        if has_ended {
            // The sweep finished between two kills.
            assert_eq!(merged(&name), want);
            (out, done) = (out + 1, 0);
        } else {
            kills += 1;
        }
    }
    let name = folder.at(&format!("out-{out}"));
    finish(sweep(&prompts, &name));
    assert_eq!(merged(&name), want);
}

#[test]
fn a_signal_stops_it_and_closes_the_part() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let out = folder.at("out");
    let dir = Path::new(&out);
    let mut child = sweep(&prompts, &out).spawn().unwrap();
    assert!(wait_until("ten rows come", &mut child, || files(dir)
        .iter()
        .any(|(name, _)| name.contains("part-00001"))));
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-s", "TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let done = rows(dir);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with(&format!("error: interrupted: {done} of ")),
        "{error}"
    );
    assert!(
        error.ends_with("; run the same command again to resume\n"),
        "{error}"
    );
    assert!(
        files(dir).iter().all(|(name, _)| !name.ends_with(".jsonl")),
        "{:?}",
        files(dir)
    );
    let said = run(&["merge", &out]);
    assert_eq!(said.code, 1);
    assert!(
        said.stderr.contains("rows are missing in "),
        "{}",
        said.stderr
    );
    finish(sweep(&prompts, &out));
    let whole = folder.at("whole");
    finish(sweep(&prompts, &whole));
    assert_eq!(merged(&out), merged(&whole));
}

#[test]
fn a_second_process_is_told_who_holds_the_lock() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let out = folder.at("out");
    let mut child = sweep(&prompts, &out).spawn().unwrap();
    let dir = Path::new(&out);
    assert!(wait_until("rows come", &mut child, || files(dir).len() > 1));
    let second = sweep(&prompts, &out).output().unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1));
    let want = format!(
        "another process (process {}) is writing to {out}",
        child.id()
    );
    assert!(error.contains(&want), "{error}");
    assert_eq!(error.lines().count(), 1);
    // The lock ends with the process.
    child.kill().unwrap();
    let mut left = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut left)
        .unwrap();
    child.wait().unwrap();
    assert_eq!(left, "");
    finish(sweep(&prompts, &out));
}

/// Files that cannot grow stand in for a full disk: the operating system refuses the bytes in the middle of a write.
#[test]
fn a_full_disk_stops_it_and_finished_rows_are_kept() {
    let folder = Folder::new();
    let prompts = prompts(&folder);
    let whole = folder.at("whole");
    finish(sweep(&prompts, &whole));
    let out = folder.at("out");
    let dir = Path::new(&out);
    // In blocks of 512 bytes: less than a part's journal, and less than the part itself.
    for blocks in [5, 9] {
        let slow = sweep(&prompts, &out);
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\""))
            .arg("sh")
            .arg(slow.get_program())
            .args(slow.get_args());
        let before = rows(dir);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains("cannot write ") && error.contains("File too large"),
            "{error}"
        );
        assert!(error.contains(" rows are in "), "{error}");
        assert!(rows(dir) > before, "{error}");
        assert!(
            files(dir)
                .iter()
                .all(|(name, _)| !name.ends_with(".partial"))
        );
    }
    finish(sweep(&prompts, &out));
    assert_eq!(merged(&out), merged(&whole));
}
