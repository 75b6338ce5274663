//! The same GGUF files in llama.cpp: one sequence, a long prompt, and 64 sequences that share a prompt.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use selfie::{AnyDevice, OpenOptions, Opened, Source, on};
use selfie_kernels::{Backend, Slot};
use selfie_llama::{Llama, Session, SessionSize};
use serde::Serialize;
use serde_json::Value;

use super::{Args, median, save};
use crate::{Result, host};

/// Tokens of one generated sequence.
const ONE: usize = 64;
/// Tokens of the long prompt.
const PROMPT: usize = 512;
/// Sequences that run together, the tokens of the prompt that they share, and the tokens that each generates.
const SEQUENCES: usize = 64;
const SHARED: usize = 26;
const EACH: usize = 20;

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    /// What llama-bench says it is.
    llama_cpp: String,
    files: Vec<File>,
}

/// The speeds of one file, in tokens a second.
#[derive(Serialize)]
struct File {
    file: String,
    bytes: u64,
    one_sequence: Pairs,
    prompt_of_512: Pairs,
    sequences_64: Pairs,
}

/// Runs of both programs, in turn.
#[derive(Default, Serialize)]
struct Pairs {
    ours_median: f64,
    theirs_median: f64,
    /// The median of the ratios of neighbouring runs.
    ours_over_theirs: f64,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// Races both programs on each file.
pub(super) fn run(args: &Args, programs: &Path) -> Result<()> {
    let cpu = host::cpu(args.threads)?;
    let threads = cpu.threads();
    let mut report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(&cpu)?,
        llama_cpp: String::new(),
        files: Vec::new(),
    };
    println!("{}, {}", report.host.cpu, report.host.device);
    println!(
        "  {:32} {:>12} {:>12} {:>8}",
        "tokens/s", "selfie", "llama.cpp", "ratio"
    );
    let theirs = Theirs { programs, threads };
    for path in &args.gguf {
        let opened = Opened::new(Source::from(path.clone()), OpenOptions::default())?;
        let model = opened.load_on(AnyDevice::from(cpu.clone()), &mut ())?;
        let (file, build) = on!(&model.llama, llama => race(llama, &theirs, path, args.repeat))?;
        report.llama_cpp = build;
        report.files.push(file);
    }
    save(args, &report)
}

fn race<B: Backend>(
    llama: &Llama<B>,
    theirs: &Theirs<'_>,
    path: &Path,
    repeat: usize,
) -> Result<(File, String)> {
    let mut file = File {
        file: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        bytes: std::fs::metadata(path)?.len(),
        one_sequence: Pairs::default(),
        prompt_of_512: Pairs::default(),
        sequences_64: Pairs::default(),
    };
    let mut build = String::new();
    for _ in 0..repeat {
        let (one, prompt, name) = theirs.bench(path)?;
        build = name;
        file.one_sequence.push(one_sequence(llama)?, one);
        file.prompt_of_512.push(long_prompt(llama)?, prompt);
        file.sequences_64
            .push(sequences(llama)?, theirs.batched(path)?);
    }
    println!("  {}, {:.0} MB", file.file, file.bytes as f64 / 1e6);
    for (name, pairs) in [
        ("one sequence", &mut file.one_sequence),
        ("prompt of 512", &mut file.prompt_of_512),
        ("64 sequences", &mut file.sequences_64),
    ] {
        pairs.summarize();
        println!(
            "    {name:30} {:>12.1} {:>12.1} {:>7.2}x",
            pairs.ours_median, pairs.theirs_median, pairs.ours_over_theirs
        );
    }
    Ok((file, build))
}

impl Pairs {
    fn push(&mut self, ours: f64, theirs: f64) {
        self.ours.push(ours);
        self.theirs.push(theirs);
    }

    fn summarize(&mut self) {
        let ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(&self.theirs)
            .map(|(a, b)| a / b)
            .collect();
        self.ours_median = median(&self.ours);
        self.theirs_median = median(&self.theirs);
        self.ours_over_theirs = median(&ratios);
    }
}

/// A token of the vocabulary. Neighbouring indices give different ones, so that no two rows of a pass are equal.
fn token<B: Backend>(llama: &Llama<B>, index: usize) -> u32 {
    (index as u32).wrapping_mul(2_654_435_761) % llama.config().vocab_size as u32
}

/// Decodes one sequence from its first token on, after a step that is not counted.
fn one_sequence<B: Backend>(llama: &Llama<B>) -> Result<f64> {
    let mut session = Session::new(llama, &SessionSize::new(llama, 1, ONE + 1))?;
    let slot = session.open()?;
    session.step(&[(slot, token(llama, 0))])?;
    let start = Instant::now();
    for step in 1..=ONE {
        session.step(&[(slot, token(llama, step))])?;
    }
    Ok(ONE as f64 / start.elapsed().as_secs_f64())
}

fn long_prompt<B: Backend>(llama: &Llama<B>) -> Result<f64> {
    let prompt: Vec<u32> = (0..PROMPT).map(|index| token(llama, index)).collect();
    let mut session = Session::new(llama, &SessionSize::new(llama, 1, PROMPT))?;
    let slot = session.open()?;
    session.prefill(&[(slot, &prompt)])?;
    session.rewind(slot, 0)?;
    let start = Instant::now();
    session.prefill(&[(slot, &prompt)])?;
    Ok(PROMPT as f64 / start.elapsed().as_secs_f64())
}

/// Decodes many sequences that share the keys and values of a prompt.
fn sequences<B: Backend>(llama: &Llama<B>) -> Result<f64> {
    let size = SessionSize {
        prefixes: vec![SHARED],
        own: vec![EACH + 1; llama.config().n_layers],
        ..SessionSize::new(llama, SEQUENCES, SHARED + EACH + 1)
    };
    let mut session = Session::new(llama, &size)?;
    let prefix = session.open_prefix()?;
    let prompt: Vec<u32> = (0..SHARED).map(|index| token(llama, index)).collect();
    session.prefill(&[(prefix, &prompt)])?;
    let slots = (0..SEQUENCES)
        .map(|_| session.open_on(prefix, SHARED))
        .collect::<selfie_llama::Result<Vec<Slot>>>()?;
    let mut step = |step: usize| {
        let tokens: Vec<(Slot, u32)> = slots
            .iter()
            .enumerate()
            .map(|(index, &slot)| (slot, token(llama, step * SEQUENCES + index)))
            .collect();
        session.step(&tokens)
    };
    step(0)?;
    let start = Instant::now();
    for index in 1..=EACH {
        step(index)?;
    }
    Ok((SEQUENCES * EACH) as f64 / start.elapsed().as_secs_f64())
}

/// The programs of a build of llama.cpp.
struct Theirs<'a> {
    programs: &'a Path,
    threads: usize,
}

impl Theirs<'_> {
    /// Tokens a second of one sequence and of the long prompt, and the build. Runs are warmed up.
    fn bench(&self, file: &Path) -> Result<(f64, f64, String)> {
        let text = self.output(
            "llama-bench",
            file,
            &[
                ("--n-prompt", PROMPT),
                ("--n-gen", ONE),
                ("--repetitions", 1),
            ],
            &["--output", "json"],
        )?;
        let runs: Vec<Value> = serde_json::from_str(&text)
            .map_err(|error| format!("llama-bench did not print JSON: {error}"))?;
        let rate = |field: &str, tokens: usize| {
            let run = runs.iter().find(|run| run[field] == tokens);
            let rate = run.and_then(|run| run["avg_ts"].as_f64());
            rate.ok_or_else(|| format!("llama-bench printed no avg_ts for {field} {tokens}"))
        };
        let of_build = |field: &str| runs.first().map_or(Value::Null, |run| run[field].clone());
        let build = format!(
            "build {}, commit {}",
            of_build("build_number"),
            of_build("build_commit")
        );
        Ok((rate("n_gen", ONE)?, rate("n_prompt", PROMPT)?, build))
    }

    /// Tokens a second of the sequences that share a prompt.
    fn batched(&self, file: &Path) -> Result<f64> {
        let context = SHARED + SEQUENCES * (EACH + 1);
        let text = self.output(
            "llama-batched-bench",
            file,
            &[
                ("--ctx-size", context.next_multiple_of(256)),
                ("-npp", SHARED),
                ("-ntg", EACH),
                ("-npl", SEQUENCES),
            ],
            &["-pps", "-kvu", "--output-format", "jsonl"],
        )?;
        let mut lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let rate = lines.find_map(|line| line["speed_tg"].as_f64());
        Ok(rate.ok_or("llama-batched-bench printed no speed_tg")?)
    }

    /// What a program prints about a file.
    fn output(
        &self,
        name: &str,
        file: &Path,
        numbers: &[(&str, usize)],
        others: &[&str],
    ) -> Result<String> {
        let program: PathBuf = self.programs.join(name);
        let shown = program.display();
        let mut command = Command::new(&program);
        command.arg("--model").arg(file).args(others);
        for (option, value) in [("--threads", self.threads)].iter().chain(numbers) {
            command.arg(option).arg(value.to_string());
        }
        let output = command
            .output()
            .map_err(|error| format!("--llama-cpp: cannot run {shown}: {error}"))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            let last = message.trim().lines().last().unwrap_or("no message");
            return Err(format!("{shown} failed: {last}").into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
