//! Runs checks in their own processes, with a time limit.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Args;

/// How often to poll a running check.
const LOOK: Duration = Duration::from_millis(10);

/// How many lines of a failed check to show. The file of results has all of them.
const SHOWN: usize = 12;

/// How a check ended.
#[derive(Serialize)]
struct Outcome<'a> {
    check: &'a str,
    passed: bool,
    seconds: f64,
    /// What it printed, and what ended it.
    output: String,
}

/// Runs the checks, `jobs` at a time, and returns those that failed.
pub(crate) fn run<'a>(names: &[&'a str], args: &Args) -> Vec<&'a str> {
    let left = Mutex::new(names.iter());
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = left.lock().expect("no holder panics").next();
            let Some(&name) = next else { return };
            let outcome = check(name, args);
            let mut failed = failed.lock().expect("no holder panics");
            report(&outcome, args.results.as_deref());
            if !outcome.passed {
                failed.push(name);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(work);
        }
    });
    failed.into_inner().expect("no holder panics")
}

fn check<'a>(name: &'a str, args: &Args) -> Outcome<'a> {
    let start = Instant::now();
    let (passed, output) = match child(name, args) {
        Ok(outcome) => outcome,
        Err(error) => (false, format!("the check could not be run: {error}")),
    };
    Outcome {
        check: name,
        passed,
        seconds: start.elapsed().as_secs_f64(),
        output,
    }
}

/// Whether the check passed, and what it printed.
fn child(name: &str, args: &Args) -> io::Result<(bool, String)> {
    let mut output = tempfile::tempfile()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--in-process", "--exact", "--only", name, "--device"]);
    command.arg(args.device.to_string());
    if args.no_graphs {
        command.arg("--no-graphs");
    }
    let started = command
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    let mut child = started.spawn()?;
    let start = Instant::now();
    let limit = Duration::from_secs(args.limit);
    let ended = loop {
        if let Some(status) = child.try_wait()? {
            break (!status.success()).then(|| status.to_string());
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            break Some(format!("stopped after {} s", args.limit));
        }
        thread::sleep(LOOK);
    };
    let mut text = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if let Some(ended) = &ended {
        text.push_str(ended);
        text.push('\n');
    }
    Ok((ended.is_none(), text))
}

fn report(outcome: &Outcome, results: Option<&Path>) {
    let Outcome {
        check,
        passed,
        seconds,
        ref output,
    } = *outcome;
    let said = if passed { "ok    " } else { "FAILED" };
    println!("{said}  {check} ({seconds:.1} s)");
    if passed {
        // The check's own output; its last line is the "ok".
        for line in output.lines().filter(|l| !l.starts_with("ok ")).take(SHOWN) {
            if !line.ends_with("failed") {
                println!("        {line}");
            }
        }
    } else {
        let lines: Vec<&str> = output.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            println!("        {line}");
        }
    }
    let Some(path) = results else { return };
    if let Err(error) = append(path, outcome) {
        eprintln!("warning: cannot write {}: {error}", path.display());
    }
}

fn append(path: &Path, outcome: &Outcome) -> io::Result<()> {
    let mut file: File = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(outcome)?)
}
