//! `selfie control scan`: one short run for each choice of layer, learning rate and beta, on weights loaded once.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use clap::Parser;
use selfie::control::{ControlError, Outcome};
use selfie::{AnyDevice, Model};
use serde::{Deserialize, Serialize};

use crate::args::{Cli, Command, ModelArgs};
use crate::cells::{list, numbers};
use crate::console::print_note;
use crate::control::{RewardSource, build_reinforce, build_supervised};
use crate::control_args::{ControlCommand, ScanArgs};
use crate::error::{CliError, Result, usage};
use crate::open::{load, open};
use crate::scan_runs::{Run, Runs};
use crate::stop::Stop;

/// Bytes that a run needs per weight of its MLP: the f32 weights, their moments, the best weights so far, and the base.
const BYTES_PER_WEIGHT: u64 = 24;

/// A run, as stored in the table.
#[derive(Clone, Deserialize, Serialize)]
struct Row {
    /// What defines the run: the method and its options.
    args: Vec<String>,
    layer: Option<usize>,
    lr: Option<f64>,
    beta: Option<f64>,
    /// The last loss as a share of the first; `None` for rewards.
    loss: Option<f64>,
    reward: Option<f64>,
    drift: Option<f64>,
    updates: usize,
    end: String,
}

/// A run of the scan.
struct Planned {
    choice: Choice,
    line: Vec<String>,
    command: ControlCommand,
}

/// One choice of the scanned options.
#[derive(Clone, Copy)]
struct Choice {
    layer: Option<usize>,
    lr: Option<f64>,
    beta: Option<f64>,
}

pub(crate) fn scan(args: &ScanArgs) -> Result<()> {
    let mut planned = Vec::new();
    for choice in choices(args)? {
        let line = line(&args.method, choice);
        let command = parse(&line)?;
        planned.push(Planned {
            choice,
            line,
            command,
        });
    }
    let done = match &args.table {
        Some(path) => read_table(path)?,
        None => Vec::new(),
    };
    let model_args = match &planned[0].command {
        ControlCommand::Supervised(args) => &args.model,
        ControlCommand::Reinforce(args) => &args.model,
        ControlCommand::Scan(_) => {
            return usage("control scan: name the method to scan, supervised or reinforce");
        }
    };
    let stop = Stop::listen();
    let quiet = model_args.quiet;
    let (model, runs) = load_checked(model_args, &planned)?;
    let mut rows: Vec<Option<Row>> = planned
        .iter()
        .map(|run| done.iter().find(|row| row.args == run.line).cloned())
        .collect();
    let open: Vec<usize> = (0..rows.len()).filter(|&at| rows[at].is_none()).collect();
    let jobs = jobs(args, &model, open.len())?;
    println_row("layer       lr     beta  updates       loss   reward       drift  end")?;
    let mut shown = show(&rows, 0)?;
    let mut finished = 0;
    runs.work(&model, &open, jobs, &stop, &mut |at, outcome| {
        let Planned { choice, line, .. } = &planned[at];
        let row = row(line, *choice, &outcome);
        if let Some(path) = &args.table {
            append(path, &row)?;
        }
        rows[at] = Some(row);
        finished += 1;
        print_note(quiet, format!("{finished} of {} runs finished", open.len()));
        shown = show(&rows, shown)?;
        Ok(())
    })?;
    let count = rows.iter().flatten().count();
    if let Some(best) = rows.iter().flatten().min_by(|a, b| {
        let order = a.cost().total_cmp(&b.cost());
        order.then(a.drift.unwrap_or(0.0).total_cmp(&b.drift.unwrap_or(0.0)))
    }) {
        let words: Vec<String> = best.args.iter().map(|word| quoted(word)).collect();
        println_row(&format!("best: selfie control {}", words.join(" ")))?;
    }
    if stop.is_asked_for() {
        return Err(CliError::Interrupted {
            done: format!("{count} of {} runs finished", rows.len()),
        });
    }
    Ok(())
}

/// Prints the finished rows from `first` up to the first gap; returns the index of that gap.
fn show(rows: &[Option<Row>], first: usize) -> Result<usize> {
    let ready = rows[first..].iter().map_while(Option::as_ref);
    let mut next = first;
    for row in ready {
        println_row(&row.text())?;
        next += 1;
    }
    Ok(next)
}

/// How many runs go at a time: as many as have room for their MLPs beside the model; on the CPU, one per core.
fn jobs(args: &ScanArgs, model: &Model, runs: usize) -> Result<usize> {
    if let Some(jobs) = args.jobs {
        return Ok(jobs.get().min(runs));
    }
    if !matches!(model.device(), AnyDevice::Cpu(_)) {
        return Ok(1);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = &model.opened.config;
    let weights = 3 * config.d_model as u64 * config.ffn as u64;
    let fit = model.device().memory()?.available / (BYTES_PER_WEIGHT * weights).max(1);
    Ok(cores.min(runs).min(fit as usize).max(1))
}

/// All choices, with layers outermost.
fn choices(args: &ScanArgs) -> Result<Vec<Choice>> {
    let layers = match &args.layers {
        // Each run checks the model's own bound.
        Some(text) => numbers("layers", text, 1 << 16)?
            .into_iter()
            .map(Some)
            .collect(),
        None => vec![None],
    };
    let reals = |what: &str, text: &Option<String>| -> Result<Vec<Option<f64>>> {
        match text {
            Some(text) => Ok(list(what, text)?.into_iter().map(Some).collect()),
            None => Ok(vec![None]),
        }
    };
    let (lrs, betas) = (reals("lr", &args.lr)?, reals("beta", &args.beta)?);
    let mut choices = Vec::new();
    for &layer in &layers {
        for &lr in &lrs {
            for &beta in &betas {
                choices.push(Choice { layer, lr, beta });
            }
        }
    }
    Ok(choices)
}

/// The method's options with those of a choice.
fn line(method: &[String], choice: Choice) -> Vec<String> {
    let mut line = method.to_vec();
    if let Some(layer) = choice.layer {
        if method[0] == "supervised" {
            for at in 0..line.len() - 1 {
                if line[at] == "--source" || line[at] == "--target" {
                    line[at + 1] = at_layer(&line[at + 1], layer);
                }
            }
        } else {
            line.extend(["--layer".to_owned(), layer.to_string()]);
        }
    }
    if let Some(lr) = choice.lr {
        line.extend(["--lr".to_owned(), format!("{lr:e}")]);
    }
    if let Some(beta) = choice.beta {
        line.extend(["--beta".to_owned(), beta.to_string()]);
    }
    line
}

/// Moves `L:T,..` to another layer.
fn at_layer(cells: &str, layer: usize) -> String {
    let cells = cells.split(',').map(|cell| match cell.split_once(':') {
        Some((_, token)) => format!("{layer}:{token}"),
        None => cell.to_owned(),
    });
    cells.collect::<Vec<_>>().join(",")
}

/// Parses a run's command line; the run writes no output.
fn parse(line: &[String]) -> Result<ControlCommand> {
    let words = ["selfie", "control"].into_iter().map(str::to_owned);
    let words = words
        .chain(line.iter().cloned())
        .chain(["--out".to_owned(), "unwritten".to_owned()]);
    match Cli::try_parse_from(words) {
        Ok(Cli {
            command: Command::Control(command),
            ..
        }) => Ok(command),
        Ok(_) => usage("control scan: name the method to scan, supervised or reinforce"),
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or("").to_owned();
            usage(format!(
                "control scan: {}",
                first.trim_start_matches("error: ")
            ))
        }
    }
}

/// Opens the model, checks all runs against it, and loads the weights.
fn load_checked<'a>(args: &ModelArgs, planned: &'a [Planned]) -> Result<(Model, Runs<'a>)> {
    let mut opened = open(args)?;
    let mut runs = Vec::new();
    for Planned { command, .. } in planned {
        runs.push(match command {
            ControlCommand::Supervised(args) => {
                Run::Supervised(build_supervised(args, &mut opened)?.0)
            }
            ControlCommand::Reinforce(args) => {
                Run::Reinforce(build_reinforce(args, &mut opened)?.0, args)
            }
            ControlCommand::Scan(_) => {
                return usage("control scan: name the method to scan, supervised or reinforce");
            }
        });
    }
    let mut reward = match &runs[0] {
        Run::Supervised(_) => None,
        Run::Reinforce(_, args) => Some(RewardSource::open(args, &opened)?),
    };
    let model = load(opened, args.quiet)?;
    let judge = match &mut reward {
        Some(reward) => reward.load_judge(&model, args.quiet)?,
        None => None,
    };
    Ok((model, Runs { runs, judge }))
}

fn row(line: &[String], choice: Choice, outcome: &Outcome) -> Row {
    let meta = &outcome.edit.meta;
    let first = outcome.steps.first().map_or(0.0, |step| step.loss);
    let rewarded = meta.final_reward.is_some();
    Row {
        args: line.to_vec(),
        layer: choice.layer,
        lr: choice.lr,
        beta: choice.beta,
        loss: meta.final_loss.filter(|_| !rewarded).map(|l| l / first),
        reward: meta.final_reward,
        drift: meta.final_drift,
        updates: outcome.updates(),
        end: outcome.end.to_string(),
    }
}

impl Row {
    /// Lower is better.
    fn cost(&self) -> f64 {
        match (self.reward, self.loss) {
            (Some(reward), _) => -reward,
            (None, loss) => loss.unwrap_or(f64::INFINITY),
        }
    }

    fn text(&self) -> String {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let plain = |value: Option<f64>| value.map_or("-".to_owned(), |value| value.to_string());
        let layer = self.layer.map_or("-".to_owned(), |l| l.to_string());
        format!(
            "{layer:>5} {:>8} {:>8} {:>8} {:>10} {:>8} {:>11}  {}",
            plain(self.lr),
            plain(self.beta),
            self.updates,
            number(self.loss, 4),
            number(self.reward, 2),
            number(self.drift, 6),
            self.end
        )
    }
}

/// The rows in the table so far.
fn read_table(path: &Path) -> Result<Vec<Row>> {
    let failed = |source| ControlError::Read {
        path: path.to_owned(),
        source,
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).into()),
    };
    // Skip a line that a kill cut off: that run is done again.
    let rows = text[..whole_lines(text.as_bytes())].lines();
    let rows: serde_json::Result<Vec<Row>> = rows.map(serde_json::from_str).collect();
    Ok(rows.map_err(|error| failed(error.into()))?)
}

/// Length of the lines that end with a newline.
fn whole_lines(text: &[u8]) -> usize {
    text.iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1)
}

fn append(path: &Path, row: &Row) -> Result<()> {
    let write = || -> io::Result<()> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // Remove what a kill cut off.
        file.set_len(whole_lines(&text) as u64)?;
        let line = serde_json::to_string(row)? + "\n";
        file.write_all(line.as_bytes())
    };
    let failed = |source| ControlError::Write {
        path: path.to_owned(),
        source,
    };
    Ok(write().map_err(failed)?)
}

fn println_row(text: &str) -> Result<()> {
    writeln!(io::stdout().lock(), "{text}").map_err(CliError::Stdout)
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_replaces_its_options() {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
        let choice = Choice {
            layer: Some(4),
            lr: Some(1e-3),
            beta: None,
        };
        assert_eq!(
            line(&words("supervised --source 6:8,6:9 --target 6:-1"), choice),
            words("supervised --source 4:8,4:9 --target 4:-1 --lr 1e-3")
        );
        assert_eq!(
            line(&words("reinforce --prompt a"), choice),
            words("reinforce --prompt a --layer 4 --lr 1e-3")
        );
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted("6:8"), "6:8");
    }
}
