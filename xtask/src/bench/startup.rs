//! The time from the start of `selfie generate` to its first token.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::Serialize;

use super::{Args, child, median};
use crate::Result;

#[derive(Serialize)]
pub(super) struct Startup {
    first_token_s_median: f64,
    first_token_s: Vec<f64>,
}

/// Builds the program, and starts it once more than it counts, so that the checkpoint is in the page cache.
pub(super) fn measure(args: &Args, dir: &Path) -> Result<Startup> {
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--quiet",
            "--locked",
            "-p",
            "selfie-cli",
        ])
        .status()?;
    if !built.success() {
        return Err("cannot build selfie".into());
    }
    let mut seconds = Vec::new();
    for _ in 0..=args.repeat {
        seconds.push(first_token(args, dir)?);
    }
    let seconds = seconds[1..].to_vec();
    Ok(Startup {
        first_token_s_median: median(&seconds),
        first_token_s: seconds,
    })
}

fn first_token(args: &Args, dir: &Path) -> Result<f64> {
    let mut command = Command::new("target/release/selfie");
    command.args(["generate", "--device=cpu", "--quiet", "--max-new-tokens=1"]);
    command.arg(format!("--model={}", dir.display()));
    command.arg(format!("--prompt={}", child::PROMPT));
    command.arg(format!("--dtype={}", args.dtype));
    command.args(args.threads.map(|threads| format!("--threads={threads}")));
    let start = Instant::now();
    let mut running = command.stdout(Stdio::piped()).spawn()?;
    let mut text = running.stdout.take().ok_or("selfie has no output")?;
    text.read_exact(&mut [0])?;
    let seconds = start.elapsed().as_secs_f64();
    std::io::copy(&mut text, &mut std::io::sink())?;
    if !running.wait()?.success() {
        return Err("selfie generate failed".into());
    }
    Ok(seconds)
}

pub(super) fn print(startup: &Startup) {
    println!(
        "\n{:28} {:>10.2} s from the start of selfie generate, warm page cache",
        "first token", startup.first_token_s_median
    );
}
