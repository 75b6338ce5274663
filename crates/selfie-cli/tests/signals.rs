//! An interrupted run: finished rows are readable, and older results stay as they were.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Folder, run};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

/// The signal setting that a program gets from a terminal; the other is that of nohup.
const HUP_ENDS: &str = "--default-signal=HUP";
const HUP_IS_IGNORED: &str = "--ignore-signal=HUP";

/// A sweep of the demo that takes long: 7 layers x 16 tokens x 6 inject layers x 20 strengths, one by one.
fn long_sweep(out: &Path, hup: &str) -> Command {
    let strengths: Vec<String> = (1..=20)
        .map(|i| (0.05 * f64::from(i)).to_string())
        .collect();
    // The test runner may have been started to ignore some of them.
    let mut command = Command::new("env");
    command
        .args(["--default-signal=INT,TERM", hup])
        .arg(env!("CARGO_BIN_EXE_selfie"))
        .args([
            "interpret",
            "--quiet",
            "--batch-size",
            "1",
            "--threads",
            "1",
        ])
        .args([
            "--prompt",
            "[INST] What is the capital of the country of the Colosseum? [/INST]",
        ])
        .args([
            "--layers",
            "all",
            "--tokens",
            "all",
            "--inject-layer",
            "0,1,2,3,4,5",
        ])
        .args(["--strength", &strengths.join(","), "--out"])
        .arg(out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const LONG_SWEEP: usize = 7 * 16 * 6 * 20;

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.unwrap().success());
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Starts a long sweep to `out`, and sends a signal once it has written rows.
fn interrupted(out: &Path, partial: &Path, name: &str) -> Output {
    // Parquet keeps rows in memory, so whether a row was done shows only afterwards.
    for patience in [100, 400, 1600, 6400] {
        let child = long_sweep(out, HUP_ENDS).spawn().unwrap();
        wait_until("rows come", || partial.exists());
        sleep(Duration::from_millis(patience));
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        if !String::from_utf8_lossy(&output.stderr).contains(": 0 of ") {
            return output;
        }
    }
    panic!("no row was done in seconds");
}

fn rows_of_parquet(path: &Path) -> usize {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.inspect(|row| assert!(row.is_ok())).count()
}

#[test]
fn a_signal_keeps_the_rows_that_are_done() {
    for name in ["TERM", "INT", "HUP"] {
        let folder = Folder::new();
        let (out, partial) = (
            folder.path("rows.parquet"),
            folder.path("rows.partial.parquet"),
        );
        let output = interrupted(&out, &partial, name);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(folder.names(), ["rows.parquet"]);
        let done = rows_of_parquet(&out);
        assert!(done > 0 && done < LONG_SWEEP);
        let message = format!(
            "error: interrupted: {done} of {LONG_SWEEP} rows were written to {}\n",
            out.display()
        );
        assert_eq!(String::from_utf8(output.stderr).unwrap(), message);

        // The older result is complete, as far as the program knows.
        let older = fs::read(&out).unwrap();
        let output = interrupted(&out, &partial, name);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(folder.names(), ["rows.parquet", "rows.partial.parquet"]);
        assert!(fs::read(&out).unwrap() == older);
        let done = rows_of_parquet(&partial);
        assert!(done > 0 && done < LONG_SWEEP);
        let message = format!(
            "error: interrupted: {done} of {LONG_SWEEP} rows were written to {} (the older {} was kept)\n",
            partial.display(),
            out.display()
        );
        assert_eq!(String::from_utf8(output.stderr).unwrap(), message);
    }
}

#[test]
fn rows_that_are_done_can_be_read_while_it_runs_and_after_a_kill() {
    let folder = Folder::new();
    let (out, partial) = (folder.path("rows.jsonl"), folder.path("rows.partial.jsonl"));
    let lines = || fs::read_to_string(&partial).map_or(0, |text| text.lines().count());
    let mut child = long_sweep(&out, HUP_ENDS).spawn().unwrap();
    wait_until("three rows come", || lines() >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(folder.names(), ["rows.partial.jsonl"]);
    let text = fs::read_to_string(&partial).unwrap();
    let (done, _) = text.rsplit_once('\n').unwrap();
    for line in done.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
}

#[test]
fn a_signal_that_is_ignored_ends_nothing() {
    let folder = Folder::new();
    let (out, partial) = (folder.path("rows.csv"), folder.path("rows.partial.csv"));
    let child = long_sweep(&out, HUP_IS_IGNORED).spawn().unwrap();
    let size = || fs::metadata(&partial).map_or(0, |file| file.len());
    wait_until("rows come", || size() > 0);
    signal(&child, "HUP");
    let before = size();
    wait_until("more rows come", || size() > before + 10_000);
    signal(&child, "TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    assert_eq!(folder.names(), ["rows.csv"]);
}

#[test]
fn an_interrupted_control_keeps_the_edit_and_the_log() {
    let folder = Folder::new();
    let (edit, log) = (folder.at("edit.safetensors"), folder.at("log.jsonl"));
    let control = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_selfie"))
            .args([
                "control",
                "reinforce",
                "--quiet",
                "--steps",
                "100000",
                "--lr",
                "1e-9",
            ])
            .args([
                "--prompt",
                "[INST] What? [/INST]",
                "--layer",
                "2",
                "--reward-words",
                "e",
            ])
            .args(["--max-new-tokens", "4", "--push", "always"])
            .args(["--out", &edit, "--log", &log])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Steps are printed on stdout, with an update between two of them.
        let mut out = child.stdout.take().unwrap();
        let mut text = String::new();
        while text.matches("step ").count() < 3 {
            let mut some = [0; 512];
            let n = out.read(&mut some).unwrap();
            assert!(n > 0, "it ended: {text}");
            text += &String::from_utf8_lossy(&some[..n]);
        }
        signal(&child, "TERM");
        out.read_to_string(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("interrupted after"), "{error}");
        text
    };
    let first = control();
    assert_eq!(folder.names(), ["edit.safetensors", "log.jsonl"]);
    assert!(
        first.ends_with(&format!("updates is in {edit}\n")),
        "{first}"
    );
    assert_eq!(run(&["generate", "--prompt", "a", "--edit", &edit]).code, 0);
    let older = (fs::read(&edit).unwrap(), fs::read(&log).unwrap());

    let second = control();
    let partial = ["edit.partial.safetensors", "log.partial.jsonl"].map(|name| folder.at(name));
    for path in &partial {
        assert!(second.contains(path), "{second}");
    }
    assert!((fs::read(&edit).unwrap(), fs::read(&log).unwrap()) == older);
    assert_eq!(
        run(&["generate", "--prompt", "a", "--edit", &partial[0]]).code,
        0
    );
    let log = fs::read_to_string(&partial[1]).unwrap();
    assert!(log.lines().count() >= 3);
}
