//! `selfie control`.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;
use selfie::control::{
    CommandReward, ControlError, End, Judge, Observer, Outcome, OutputFile, Probes, Reference,
    Reinforce, Reward, Step, Supervised, Target, TargetCell, Training, When, WordReward, lines,
};
use selfie::interp::{InjectAt, Options, Vector};
use selfie::kernels::Backend;
use selfie::llama::{Llama, Tokenizer};
use selfie::{Model, OpenOptions, Opened, Source, on};

use crate::cells::{list, pairs, tokens};
use crate::console::{bar, style};
use crate::control_args::{
    ControlCommand, InterpretationArgs, ReinforceArgs, SupervisedArgs, TrainingArgs, WhenArg,
};
use crate::error::{CliError, Result, usage};
use crate::open::{load, load_on, open};
use crate::prompts::{
    interpretation_prompt, only_auto_bos, tell_of_interpretation_prompt, tell_of_name,
    tell_of_prompts,
};
use crate::stop::Stop;
use crate::text::clean;

pub(crate) fn control(command: &ControlCommand) -> Result<()> {
    match command {
        ControlCommand::Supervised(args) => supervised(args),
        ControlCommand::Reinforce(args) => reinforce(args),
    }
}

fn supervised(args: &SupervisedArgs) -> Result<()> {
    only_auto_bos(&args.model)?;
    let opened = open(&args.model)?;
    let (mut layers, mut sources) = (Vec::new(), Vec::new());
    for prompt in &args.prompt {
        for (layer, token) in pairs("source", &args.source, opened.encode(prompt)?.len())? {
            layers.push(layer);
            sources.push((prompt.clone(), token));
        }
    }
    let layer = layers[0];
    if let Some(other) = layers.iter().find(|&&other| other != layer) {
        return usage(format!(
            "--source {}: layers {layer} and {other}; an edit changes one layer, so give cells of one",
            args.source
        ));
    }
    let control = Supervised {
        sources,
        layer,
        target: target(args, &opened)?,
        training: training(
            &args.training,
            args.steps,
            args.interpretation.sampling.seed,
            &opened,
        )?,
        interpretation: if args.interpret {
            Some(interpretation(&args.interpretation, &opened)?)
        } else {
            None
        },
    };
    control.check(&opened.config, &opened.tokenizer)?;
    let labels = control
        .sources
        .iter()
        .map(|(prompt, token)| label(&opened, prompt, *token));
    let labels = labels.collect::<Result<_>>()?;
    let quiet = args.model.quiet;
    tell_of_prompts(&opened, &args.prompt, quiet)?;
    if let Some(options) = &control.interpretation {
        let json = args.interpretation.interpretation_prompt.as_deref();
        tell_of_name(json, &opened, quiet)?;
        tell_of_interpretation_prompt(&opened, &options.prompt, options.bos, quiet)?;
    }
    let mut report = Report::open(&args.training, labels, args.steps, quiet)?;
    let mut model = load(opened, quiet)?;
    let tokenizer = &model.opened.tokenizer;
    let outcome = on!(&mut model.llama, llama => control.run(llama, tokenizer, &mut report))?;
    report.finish(outcome, args.training.dry_run)
}

fn reinforce(args: &ReinforceArgs) -> Result<()> {
    only_auto_bos(&args.model)?;
    let opened = open(&args.model)?;
    let count = opened.encode(&args.prompt)?.len();
    let tokens = tokens("tokens", &args.tokens, count)?;
    let seed = args.interpretation.sampling.seed;
    let control = Reinforce {
        prompt: args.prompt.clone(),
        layer: args.layer,
        tokens: Some(tokens.clone()),
        interpretation: interpretation(&args.interpretation, &opened)?,
        training: training(&args.training, args.steps, seed, &opened)?,
    };
    control.check(&opened.config, &opened.tokenizer)?;
    let labels = tokens
        .iter()
        .map(|&token| label(&opened, &args.prompt, token));
    let labels = labels.collect::<Result<_>>()?;
    // A reward that cannot work is found before the weights are loaded.
    let mut reward = RewardSource::open(args, &opened)?;
    let quiet = args.model.quiet;
    tell_of_prompts(&opened, &[&args.prompt], quiet)?;
    let json = args.interpretation.interpretation_prompt.as_deref();
    tell_of_name(json, &opened, quiet)?;
    let interpretation = &control.interpretation;
    tell_of_interpretation_prompt(&opened, &interpretation.prompt, interpretation.bos, quiet)?;
    let mut report = Report::open(&args.training, labels, args.steps, quiet)?;
    let mut model = load(opened, quiet)?;
    let judge = reward.load_judge(&model, quiet)?;
    let tokenizer = &model.opened.tokenizer;
    let outcome = on!(&mut model.llama, llama => {
        reward.run(&control, llama, tokenizer, judge, &mut report)?
    });
    report.finish(outcome, args.training.dry_run)
}

/// What `--target..` asks for.
fn target(args: &SupervisedArgs, opened: &Opened) -> Result<Target> {
    if let Some(path) = &args.target_vector {
        let width = opened.config.d_model;
        let vectors = Vector::read_file(path, args.tensor.as_deref(), width)?;
        return Ok(Target::Vectors {
            name: path.display().to_string(),
            vectors: vectors.into_iter().map(|vector| vector.values).collect(),
        });
    }
    let text = args.target.as_deref().unwrap_or("");
    let mut cells = Vec::new();
    for prompt in &args.target_prompt {
        let pairs = pairs("target", text, opened.encode(prompt)?.len())?;
        cells.extend(pairs.into_iter().map(|(layer, token)| TargetCell {
            prompt: prompt.clone(),
            layer,
            token,
        }));
    }
    Ok(Target::Cells(cells))
}

fn training(args: &TrainingArgs, steps: usize, seed: u64, opened: &Opened) -> Result<Training> {
    let betas: Vec<f64> = list("betas", &args.betas)?;
    let Ok(betas) = <[f64; 2]>::try_from(betas) else {
        return usage(format!(
            "--betas {}: expected two numbers, such as 0.9,0.999",
            args.betas
        ));
    };
    let reference = match &args.reference {
        None => None,
        Some(path) => Some(Reference {
            prompts: lines(path)?,
            beta: args.beta.unwrap_or(10.0),
            batch: args.reference_batch,
            max_drift: args.max_drift,
        }),
    };
    if !args.probe.is_empty() && args.probe_tokens == 0 {
        return usage("--probe-tokens 0: expected at least 1");
    }
    let probes = (!args.probe.is_empty()).then(|| Probes {
        prompts: args.probe.clone(),
        decoding: opened.decoding(args.probe_tokens),
    });
    Ok(Training {
        betas,
        seed,
        stop_below: args.stop_loss,
        reference,
        probes,
        ..Training::new(if args.dry_run { steps.min(1) } else { steps }, args.lr)
    })
}

fn interpretation(args: &InterpretationArgs, opened: &Opened) -> Result<Options> {
    let (json, template) = (&args.interpretation_prompt, &args.template);
    let prompt = interpretation_prompt(json.as_deref(), template.as_deref(), opened)?;
    Ok(Options {
        injections: vec![InjectAt {
            layer: args.inject_layer,
            mode: args.mode,
            strength: args.strength,
        }],
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling.alone()?,
        relevancy: false,
        ..opened.interpret_options_with(prompt)?
    })
}

/// Where rewards come from.
enum RewardSource {
    Words(WordReward),
    Command(CommandReward),
    /// A judge, and the model that it asks until that is loaded; `None` is the controlled model.
    Judge(Box<Judge>, Option<Box<Opened>>),
}

impl RewardSource {
    fn open(args: &ReinforceArgs, opened: &Opened) -> Result<Self> {
        if let Some(text) = &args.reward_words {
            let when = match args.reward_when {
                WhenArg::None => When::None,
                WhenArg::Any => When::Any,
            };
            return Ok(Self::Words(WordReward::new(words(text), when)?));
        }
        if let Some(command) = &args.reward_command {
            let seconds = Duration::try_from_secs_f64(args.reward_timeout);
            let Ok(timeout) = seconds else {
                return usage(format!(
                    "--reward-timeout {}: expected a number of seconds",
                    args.reward_timeout
                ));
            };
            return Ok(Self::Command(CommandReward::start(command, timeout)?));
        }
        let (Some(dir), Some(template)) = (&args.judge, &args.judge_template) else {
            return usage(
                "give a reward: --reward-words, --judge with --judge-template, or --reward-command",
            );
        };
        Self::judge(args, opened, dir, template)
    }

    fn judge(args: &ReinforceArgs, opened: &Opened, dir: &Path, template: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(template).map_err(|source| ControlError::Read {
            path: template.to_owned(),
            source,
        })?;
        // An editor ends the last line; the prompt does not.
        let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
        let source = Source::from(dir);
        let other = if source.is_same(&opened.source) {
            None
        } else {
            let options = OpenOptions {
                edits: Vec::new(),
                ..opened.options.clone()
            };
            Some(Box::new(Opened::new(source, options)?))
        };
        let judge = Judge::new(
            text,
            words(&args.judge_good),
            words(&args.judge_bad),
            other
                .as_deref()
                .unwrap_or(opened)
                .decoding(args.judge_tokens.max(1)),
        )?;
        Ok(Self::Judge(Box::new(judge), other))
    }

    /// Loads the model that a judge asks, beside the one that is controlled.
    fn load_judge(&mut self, beside: &Model, quiet: bool) -> Result<Option<Model>> {
        let Self::Judge(_, other) = self else {
            return Ok(None);
        };
        let load = |other: Box<Opened>| load_on(*other, beside.device(), quiet);
        other.take().map(load).transpose()
    }

    fn run<B: Backend>(
        self,
        control: &Reinforce,
        llama: &mut Llama<B>,
        tokenizer: &Tokenizer,
        judge_model: Option<Model>,
        report: &mut Report,
    ) -> Result<Outcome> {
        let mut run = |reward: &mut dyn Reward<B>| -> Result<Outcome> {
            Ok(control.run(llama, tokenizer, reward, report)?)
        };
        match (self, judge_model) {
            (Self::Words(mut words), _) => run(&mut words),
            (Self::Command(mut command), _) => {
                let mut outcome = run(&mut command)?;
                // An answer too many at the end is a wrong count like any other.
                if let (Err(error), End::Steps) = (command.finish(), &outcome.end) {
                    outcome.end = End::Failed(Box::new(error));
                }
                Ok(outcome)
            }
            (Self::Judge(mut judge, _), None) => run(&mut *judge),
            (Self::Judge(judge, _), Some(Model { opened, llama })) => {
                on!(llama, llama => run(&mut judge.by(llama, opened.tokenizer, opened.name)))
            }
        }
    }
}

/// A list of words.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).collect()
}

/// A token of a prompt, as a step's line calls it.
fn label(opened: &Opened, prompt: &str, token: usize) -> Result<String> {
    let ids = opened.tokenizer.encode(prompt)?;
    let piece = opened.tokenizer.decode_all(&ids[token..=token])?;
    Ok(format!("{token} {piece:?}"))
}

/// Tells of each step: a line on stdout, an object in the log, the bar on stderr. Ctrl-C ends the run and keeps the edit so far.
struct Report {
    labels: Vec<String>,
    log: Option<(OutputFile, File)>,
    edit: Option<OutputFile>,
    bar: ProgressBar,
    quiet: bool,
    stop: Stop,
    error: Option<CliError>,
}

impl Report {
    fn open(args: &TrainingArgs, labels: Vec<String>, steps: usize, quiet: bool) -> Result<Self> {
        // Before there is a file that somebody who waits for it could see.
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
            "{bar:30} step {pos}/{len} {elapsed} gone, {eta} left",
        ));
        Ok(Self {
            labels,
            log,
            edit,
            bar,
            quiet,
            stop,
            error: None,
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
        text = text.trim_end().to_owned() + "\n";
        for (index, (label, said)) in self.labels.iter().zip(&step.interpretations).enumerate() {
            let reward = match step.rewards.get(index) {
                Some(_) if step.undecided.contains(&index) => "    ?".to_owned(),
                Some(reward) => format!("{reward:>5}"),
                None => String::new(),
            };
            text += &format!("  {reward} {label:16} {}\n", clean(said.trim()));
        }
        for said in &step.probes {
            text += &format!("  probe: {}\n", clean(said.trim()));
        }
        text
    }

    /// Writes the edit and says how it ended.
    fn finish(mut self, outcome: Outcome, dry_run: bool) -> Result<()> {
        self.bar.finish_and_clear();
        let updates = outcome.updates();
        let complete = self.error.is_none()
            && match outcome.end {
                End::Steps | End::LossBelow { .. } => true,
                End::Drift { .. } => updates > 0,
                _ => false,
            };
        let mut kept = match self.edit.take() {
            _ if dry_run => "dry run: nothing is written".to_owned(),
            Some(out) if updates > 0 => {
                let place = write_edit(out, &outcome, complete)?;
                format!("the edit of {updates} updates is in {place}")
            }
            _ => "there was no update: no edit is written".to_owned(),
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
            End::Drift { drift, bound } if updates == 0 => {
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
        for (name, value) in [
            ("loss", meta.final_loss),
            ("keep", meta.final_keep_loss),
            ("drift", meta.final_drift),
        ] {
            if let Some(value) = value {
                text += &format!(" {name} {value:.6}");
            }
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}\n{kept}").map_err(CliError::Stdout)?;
        if self.stop.is_asked_for() {
            return Err(CliError::ControlInterrupted { updates });
        }
        Ok(())
    }
}

/// Writes the edit, and says where it is.
fn write_edit(mut out: OutputFile, outcome: &Outcome, complete: bool) -> Result<String> {
    let mut file = out.file()?;
    let written = outcome
        .edit
        .to_bytes()
        .and_then(|bytes| file.write_all(&bytes));
    written.map_err(|source| out.failed(source))?;
    put(out, complete)
}

/// Puts a file in its place; the result of a run that failed only where there is no older one. Says where it is.
fn put(out: OutputFile, complete: bool) -> Result<String> {
    let path = out.path().display().to_string();
    if complete {
        out.finish()?;
        return Ok(path);
    }
    Ok(match out.keep()? {
        Some(partial) => format!("{}, beside the older {path}", partial.display()),
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
                     once, and that is what is rewarded; another end of the interpretation prompt may help"
                );
            });
        }
        if self.stop.is_asked_for() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
