//! `selfie control`.

use std::fs::File;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::ProgressBar;
use selfie_control::{
    CommandReward, ControlError, End, Judge, Observer, Outcome, Probes, Reference, Reinforce,
    Reward, Step, Supervised, Target, TargetCell, Training, When, WordReward, lines,
};
use selfie_interp::{InjectAt, InterpretationPrompt, Options, Vector};
use selfie_kernels::{Backend, Cpu, InjectMode};
use selfie_llama::{Decoding, Llama};

use crate::args::ModeArg;
use crate::cells::{list, numbers, pairs};
use crate::control_args::{
    ControlCommand, InterpretationArgs, ReinforceArgs, SupervisedArgs, TrainingArgs, WhenArg,
};
use crate::device::on;
use crate::error::{CliError, Result, usage};
use crate::open::{Files, Opened, bar, style};
use crate::output::check_writable;

pub(crate) fn control(command: &ControlCommand) -> Result<()> {
    match command {
        ControlCommand::Supervised(args) => supervised(args),
        ControlCommand::Reinforce(args) => reinforce(args),
    }
}

fn supervised(args: &SupervisedArgs) -> Result<()> {
    let opened = Opened::new(&args.model)?;
    let cells = pairs("source", &args.source)?;
    let layer = cells[0].0;
    if let Some((other, _)) = cells.iter().find(|cell| cell.0 != layer) {
        return usage(format!(
            "--source {}: layers {layer} and {other}; an edit changes one layer, so give cells of one",
            args.source
        ));
    }
    let mut sources = Vec::new();
    for prompt in &args.prompt {
        sources.extend(cells.iter().map(|&(_, token)| (prompt.clone(), token)));
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
        interpretation: match args.interpret {
            true => Some(interpretation(&args.interpretation, &opened)?),
            false => None,
        },
    };
    control.check(&opened.config, &opened.tokenizer)?;
    let labels = control
        .sources
        .iter()
        .map(|(prompt, token)| label(&opened, prompt, *token));
    let labels = labels.collect::<Result<_>>()?;
    let mut report = Report::open(&args.training, labels, args.steps, &opened)?;
    let tokenizer = &opened.tokenizer;
    let outcome = on!(opened.load()?, mut model => {
        control.run(&mut model, tokenizer, &mut report)?
    });
    report.finish(outcome, &args.training)
}

fn reinforce(args: &ReinforceArgs) -> Result<()> {
    let opened = Opened::new(&args.model)?;
    let count = opened.encode(&args.prompt)?.len();
    let tokens = numbers("tokens", &args.tokens, count)?;
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
    let reward = RewardSource::open(args, &opened)?;
    let mut report = Report::open(&args.training, labels, args.steps, &opened)?;
    let outcome = on!(opened.load()?, mut model => {
        reward.run(&control, &mut model, &opened, &mut report)?
    });
    report.finish(outcome, &args.training)
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
    let cells = pairs("target", args.target.as_deref().unwrap_or(""))?;
    let of_prompt = |prompt: &String| {
        let cell = |&(layer, token): &(usize, usize)| TargetCell {
            prompt: prompt.clone(),
            layer,
            token,
        };
        cells.iter().map(cell).collect::<Vec<_>>()
    };
    Ok(Target::Cells(
        args.target_prompt.iter().flat_map(of_prompt).collect(),
    ))
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
        decoding: Decoding {
            max_new_tokens: args.probe_tokens,
            eos: opened.eos(),
            sampling: None,
        },
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
    let prompt: InterpretationPrompt = match (&args.interpretation_prompt, &args.template) {
        (Some(json), _) => json.parse()?,
        (None, Some(name)) => InterpretationPrompt::template(name)?,
        (None, None) => InterpretationPrompt::template("summarize")?,
    };
    Ok(Options {
        prompt,
        injections: vec![InjectAt {
            layer: args.inject_layer,
            mode: match args.mode {
                ModeArg::Replace => InjectMode::Replace,
                ModeArg::Add => InjectMode::Add,
            },
            strength: args.strength,
        }],
        max_new_tokens: args.max_new_tokens,
        eos: opened.eos(),
        sampling: args.sampling.resolve(None)?,
        relevancy: false,
        batch_size: None,
        model_name: opened.name(),
        controls: Vec::new(),
        control_seed: 0,
    })
}

/// Where rewards come from.
enum RewardSource {
    Words(WordReward),
    Command(CommandReward),
    /// A judge, and the checkpoint that it is loaded from; `None` is the controlled model.
    Judge(Box<Judge<Cpu>>, Option<Box<Opened>>),
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
        let same = |dir: &Path| std::fs::canonicalize(dir).ok();
        let itself = match &opened.files {
            Files::Folder(own) => same(dir).is_some() && same(dir) == same(own),
            Files::Demo => false,
        };
        let other = match itself {
            true => None,
            false => Some(Box::new(opened.another(dir)?)),
        };
        let decoding = Decoding {
            max_new_tokens: args.judge_tokens.max(1),
            eos: other.as_deref().unwrap_or(opened).eos(),
            sampling: None,
        };
        let judge = Judge::new(
            text,
            words(&args.judge_good),
            words(&args.judge_bad),
            decoding,
        )?;
        Ok(Self::Judge(Box::new(judge), other))
    }

    fn run<B: Backend>(
        self,
        control: &Reinforce,
        model: &mut Llama<B>,
        opened: &Opened,
        report: &mut Report,
    ) -> Result<Outcome> {
        let tokenizer = &opened.tokenizer;
        let mut run = |reward: &mut dyn Reward<B>| -> Result<Outcome> {
            Ok(control.run(model, tokenizer, reward, report)?)
        };
        match self {
            Self::Words(mut words) => run(&mut words),
            Self::Command(mut command) => {
                let mut outcome = run(&mut command)?;
                // An answer too many at the end is a wrong count like any other.
                if let (Err(error), End::Steps) = (command.finish(), &outcome.end) {
                    outcome.end = End::Failed(Box::new(error));
                }
                Ok(outcome)
            }
            Self::Judge(mut judge, None) => run(&mut *judge),
            Self::Judge(judge, Some(other)) => {
                let (name, judging) = (other.name(), other.load()?);
                on!(judging, model => run(&mut judge.by(model, other.tokenizer, name)))
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
    log: Option<(PathBuf, File)>,
    bar: ProgressBar,
    quiet: bool,
    stop: Arc<AtomicBool>,
    error: Option<CliError>,
}

impl Report {
    fn open(
        args: &TrainingArgs,
        labels: Vec<String>,
        steps: usize,
        opened: &Opened,
    ) -> Result<Self> {
        let mut log = None;
        if !args.dry_run {
            if let Some(out) = &args.out {
                check_writable(out)?;
            }
            if let Some(path) = &args.log {
                let file = File::create(path).map_err(|source| CliError::Write {
                    path: path.clone(),
                    source,
                })?;
                log = Some((path.clone(), file));
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let pressed = Arc::clone(&stop);
        // Without a handler Ctrl-C ends the program as ever.
        let _ = ctrlc::set_handler(move || {
            if pressed.swap(true, Ordering::Relaxed) {
                std::process::exit(1);
            }
        });
        let bar = bar(steps as u64, opened.quiet).with_style(style(
            "{bar:30} step {pos}/{len} {elapsed} gone, {eta} left",
        ));
        Ok(Self {
            labels,
            log,
            bar,
            quiet: opened.quiet,
            stop,
            error: None,
        })
    }

    fn write(&mut self, step: &Step) -> Result<()> {
        if let Some((path, file)) = &mut self.log {
            let written = serde_json::to_string(step)
                .map_err(io::Error::from)
                .and_then(|json| writeln!(file, "{json}"));
            written.map_err(|source| CliError::Write {
                path: path.clone(),
                source,
            })?;
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
            text += &format!("  {reward} {label:16} {}\n", clean(said));
        }
        for said in &step.probes {
            text += &format!("  probe: {}\n", clean(said));
        }
        text
    }

    /// Writes the edit and says how it ended.
    fn finish(mut self, outcome: Outcome, args: &TrainingArgs) -> Result<()> {
        self.bar.finish_and_clear();
        let updates = outcome.updates();
        let kept = self.keep(&outcome, args)?;
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if let End::Failed(error) = outcome.end {
            return Err(CliError::Stopped { error, kept });
        }
        if let End::Drift { drift, bound } = outcome.end
            && updates == 0
        {
            return Err(CliError::NoUpdate { drift, bound });
        }
        if !self.quiet && !matches!(outcome.end, End::Steps) {
            eprintln!("note: {}", outcome.end);
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
        if self.stop.load(Ordering::Relaxed) {
            return Err(CliError::ControlInterrupted { updates });
        }
        Ok(())
    }

    /// Writes the edit, if there is one to write; says what became of it.
    fn keep(&self, outcome: &Outcome, args: &TrainingArgs) -> Result<String> {
        let updates = outcome.updates();
        match &args.out {
            _ if args.dry_run => Ok("dry run: nothing is written".to_owned()),
            Some(out) if updates > 0 => {
                outcome.edit.save(out)?;
                Ok(format!(
                    "the edit of {updates} updates is in {}",
                    out.display()
                ))
            }
            _ => Ok("there was no update: no edit is written".to_owned()),
        }
    }
}

impl Observer for Report {
    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        if let Err(error) = self.write(step) {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        self.bar.set_position(step.step as u64 + 1);
        match self.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

/// Text that stays on its line and cannot steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' => '⏎',
        c if c.is_control() => '·',
        c => c,
    };
    text.trim().chars().map(visible).collect()
}
