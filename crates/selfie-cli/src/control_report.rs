//! What `selfie control` reports about a run.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;

use indicatif::ProgressBar;
use selfie::control::{End, Observer, Outcome, OutputFile, Step};
use selfie_explorer::clean;

use crate::console::{bar, style};
use crate::control_args::TrainingArgs;
use crate::error::{CliError, Result};
use crate::stop::Stop;

/// Reports each step: a line on stdout, an object in the log, the bar on stderr. Ctrl-C ends the run and keeps the edit
/// so far.
pub(crate) struct Report {
    labels: Vec<String>,
    log: Option<(OutputFile, File)>,
    edit: Option<OutputFile>,
    bar: ProgressBar,
    quiet: bool,
    stop: Stop,
    error: Option<CliError>,
    /// The latest continuations of the controlled prompts.
    written: Vec<String>,
}

impl Report {
    pub(crate) fn open(
        args: &TrainingArgs,
        labels: Vec<String>,
        steps: usize,
        quiet: bool,
    ) -> Result<Self> {
        // Before the files appear, since someone may be waiting for them to send a signal.
        let stop = Stop::listen();
        let (mut edit, mut log) = (None, None);
        if !args.dry_run {
            edit = args.out.as_deref().map(OutputFile::new).transpose()?;
            if let Some(path) = &args.log {
                let mut out = OutputFile::new(path)?;
                let file = out.file()?;
                log = Some((out, file));
            }
        }
        let bar = bar(steps as u64, quiet).with_style(style(
            "{bar:30} step {pos}/{len} {elapsed} elapsed, {eta} left",
        ));
        Ok(Self {
            labels,
            log,
            edit,
            bar,
            quiet,
            stop,
            error: None,
            written: Vec::new(),
        })
    }

    fn write(&mut self, step: &Step) -> Result<()> {
        if let Some((out, file)) = &mut self.log {
            let written = serde_json::to_string(step)
                .map_err(io::Error::from)
                .and_then(|json| writeln!(file, "{json}"));
            written.map_err(|source| out.failed(source))?;
        }
        let text = self.lines(step);
        if let Some(watched) = &step.watched {
            self.written.clone_from(&watched.written.texts);
        }
        let printed = self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        });
        printed.map_err(CliError::Stdout)
    }

    fn lines(&self, step: &Step) -> String {
        let mut text = format!("step {:<4} loss {:<12.6}", step.step, step.loss);
        if let (Some(keep), Some(drift)) = (step.keep_loss, step.drift) {
            text += &format!(" keep {keep:<12.6} drift {drift:<10.6}");
        }
        text += &format!(" norm {:<8.3}", step.norm_change);
        if let Some(watched) = &step.watched {
            let written = &watched.written;
            text += &format!(" surprise {:<8.3}", written.surprise);
        }
        text = text.trim_end().to_owned() + "\n";
        for (index, (label, said)) in self.labels.iter().zip(&step.interpretations).enumerate() {
            let reward = match step.rewards.get(index) {
                Some(_) if step.undecided.contains(&index) => "    ?".to_owned(),
                Some(reward) => format!("{reward:>5}"),
                None => String::new(),
            };
            text += &format!("  {reward} {label:16} {}\n", clean(said.trim()));
        }
        if let Some(watched) = &step.watched
            && watched.written.texts != self.written
        {
            for said in &watched.written.texts {
                text += &format!("  writes: {}\n", clean(said.trim()));
            }
        }
        for said in &step.probes {
            text += &format!("  probe: {}\n", clean(said.trim()));
        }
        text
    }

    /// Writes the edit and reports how the run ended.
    pub(crate) fn finish(
        mut self,
        outcome: Outcome,
        held_out: &[[String; 3]],
        dry_run: bool,
    ) -> Result<()> {
        self.bar.finish_and_clear();
        let updates = outcome.updates();
        let complete = self.error.is_none()
            && match outcome.end {
                End::Steps | End::LossBelow { .. } | End::Reward { .. } => true,
                End::Drift { .. } | End::Surprise { .. } | End::Norm { .. } => updates > 0,
                _ => false,
            };
        let mut kept = match self.edit.take() {
            _ if dry_run => "dry run: nothing was written".to_owned(),
            Some(out) if updates > 0 => {
                let place = write_edit(out, &outcome, complete)?;
                format!("the edit of {updates} updates is in {place}")
            }
            _ if outcome.steps.len() > 1 => {
                "no step was better than the unedited model: no edit was written".to_owned()
            }
            _ => "there was no update: no edit was written".to_owned(),
        };
        if let Some((out, _)) = self.log.take()
            && !outcome.steps.is_empty()
        {
            let older = out.path().display().to_string();
            let place = put(out, complete)?;
            if place != older {
                kept += &format!("; the log is in {place}");
            }
        }
        let mut failed = self.error.take();
        match outcome.end {
            _ if failed.is_some() => {}
            End::Failed(error) => failed = Some((*error).into()),
            End::Drift { drift, bound } if updates == 0 && outcome.steps.len() <= 2 => {
                return Err(CliError::NoUpdate { drift, bound });
            }
            End::Steps => {}
            end if !self.quiet => eprintln!("note: {end}"),
            _ => {}
        }
        if let Some(error) = failed {
            return Err(CliError::Stopped {
                error: Box::new(error),
                done: kept,
            });
        }
        let meta = &outcome.edit.meta;
        let mut text = format!("after {updates} updates:");
        if updates + 1 < outcome.steps.len() {
            text = format!("step {updates} was the best, after {updates} updates:");
        }
        for (name, value) in [
            ("loss", meta.final_loss),
            ("keep", meta.final_keep_loss),
            ("drift", meta.final_drift),
            ("reward", meta.final_reward),
        ] {
            if let Some(value) = value {
                text += &format!(" {name} {value:.6}");
            }
        }
        if outcome.steps.iter().any(|step| step.watched.is_some()) {
            text += &format!("\n{:52} {:>10} {:>10}", "", "before", "after");
            for figure in &meta.report {
                let (name, before, after) = (&figure.name, figure.before, figure.after);
                text += &format!("\n{name:52} {before:>10.4} {after:>10.4}");
            }
        }
        for [prompt, before, after] in held_out {
            let [prompt, before, after] = [prompt, before, after].map(|t| clean(t.trim()));
            text += &format!("\nheld out: {prompt}\n  before: {before}\n  after:  {after}");
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}\n{kept}").map_err(CliError::Stdout)?;
        if self.stop.is_asked_for() {
            return Err(CliError::ControlInterrupted { updates });
        }
        Ok(())
    }
}

/// Writes the edit and returns where it is.
fn write_edit(mut out: OutputFile, outcome: &Outcome, complete: bool) -> Result<String> {
    let mut file = out.file()?;
    let written = outcome
        .edit
        .to_bytes()
        .and_then(|bytes| file.write_all(&bytes));
    written.map_err(|source| out.failed(source))?;
    put(out, complete)
}

/// Moves a file into place. The result of a failed run replaces no older file. Returns where the file is.
fn put(out: OutputFile, complete: bool) -> Result<String> {
    let path = out.path().display().to_string();
    if complete {
        out.finish()?;
        return Ok(path);
    }
    Ok(match out.keep()? {
        Some(partial) => format!("{} (the older {path} was kept)", partial.display()),
        None => path,
    })
}

impl Observer for Report {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        if let Err(error) = self.write(step) {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        self.bar.set_position(step.step as u64 + 1);
        let empty = |text: &&String| text.trim().is_empty();
        let empty = step.interpretations.iter().filter(empty).count();
        if empty > 0 && 2 * empty >= step.interpretations.len() && step.step == 0 && !self.quiet {
            let all = step.interpretations.len();
            self.bar.suspend(|| {
                eprintln!(
                    "note: {empty} of {all} interpretations are empty at the first step: the model ended the text at \
                     once, and the reward sees empty texts; try an interpretation prompt that ends differently"
                );
            });
        }
        if self.stop.is_asked_for() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
