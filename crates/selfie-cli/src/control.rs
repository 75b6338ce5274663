//! `selfie control`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use selfie::control::{
    CommandReward, ControlError, End, Judge, Observer, Outcome, Probes, Push, Reference, Reinforce,
    Reward, Supervised, Target, TargetCell, Training, Unedited, Watch, When, WordReward, Write,
    lines,
};
use selfie::interp::{InjectAt, Options, Vector};
use selfie::kernels::Backend;
use selfie::llama::{Llama, Tokenizer, generate_all};
use selfie::{AnyModel, Model, OpenOptions, Opened, Source, on};

use crate::args::{ChatArgs, ModelArgs};
use crate::cells::{list, pairs, selector, tokens};
use crate::chat;
use crate::control_args::{
    ControlCommand, InterpretationArgs, PushArg, ReinforceArgs, SupervisedArgs, TrainingArgs,
    WhenArg, WriteArg,
};
use crate::control_report::Report;
use crate::error::{Result, usage};
use crate::open::{load, load_on, open};
use crate::prompts::{
    interpretation_prompt, note_double_bos, note_interpretation_prompt, note_missing_template,
};
use crate::scan::scan;

pub(crate) fn control(command: &ControlCommand) -> Result<()> {
    match command {
        ControlCommand::Supervised(args) => supervised(args),
        ControlCommand::Reinforce(args) => reinforce(args),
        ControlCommand::Scan(args) => scan(args),
    }
}

fn supervised(args: &SupervisedArgs) -> Result<()> {
    let mut opened = open(&args.model)?;
    let (control, texts) = build_supervised(args, &mut opened)?;
    let labels = labels(&opened, &control.sources)?;
    let quiet = args.model.quiet;
    note_double_bos(&opened, &texts.prompts, quiet)?;
    if let Some(options) = &control.interpretation {
        let json = args.interpretation.interpretation_prompt.as_deref();
        note_missing_template(json, &opened, quiet)?;
        note_interpretation_prompt(&opened, &options.prompt, options.bos, quiet)?;
    }
    let mut report = Report::open(&args.training, labels, args.steps, quiet)?;
    let mut model = load(opened, quiet)?;
    let tokenizer = &model.opened.tokenizer;
    on!(&mut model.llama, llama => {
        let unedited = llama.clone();
        let outcome = control.run(llama, tokenizer, &mut report)?;
        let held = held_out(&args.training, &texts, &unedited, llama, &model.opened)?;
        report.finish(outcome, &held, args.training.dry_run)
    })
}

fn reinforce(args: &ReinforceArgs) -> Result<()> {
    let mut opened = open(&args.model)?;
    let (control, texts) = build_reinforce(args, &mut opened)?;
    let labels = labels(&opened, &control.sources)?;
    // Find a reward that cannot work before loading the weights.
    let mut reward = RewardSource::open(args, &opened)?;
    let quiet = args.model.quiet;
    note_double_bos(&opened, &texts.prompts, quiet)?;
    let json = args.interpretation.interpretation_prompt.as_deref();
    note_missing_template(json, &opened, quiet)?;
    let interpretation = &control.interpretation;
    note_interpretation_prompt(&opened, &interpretation.prompt, interpretation.bos, quiet)?;
    let mut report = Report::open(&args.training, labels, args.steps, quiet)?;
    let mut model = load(opened, quiet)?;
    let judge = reward.load_judge(&model, quiet)?;
    let tokenizer = &model.opened.tokenizer;
    on!(&mut model.llama, llama => {
        let unedited = llama.clone();
        let mut before = control.unedited(llama, tokenizer)?;
        let run = RewardedRun { control: &control, tokenizer, unedited: &mut before };
        let outcome = reward.run(run, llama, judge.as_ref(), &mut report)?;
        let held = held_out(&args.training, &texts, &unedited, llama, &model.opened)?;
        report.finish(outcome, &held, args.training.dry_run)
    })
}

/// The prompts of a run as texts to tokenize; with `--chat`, what the chat template makes of them.
pub(crate) struct Texts {
    prompts: Vec<String>,
    targets: Vec<String>,
    references: Vec<String>,
    probes: Vec<String>,
    held_out: Vec<String>,
}

impl Texts {
    fn new(
        (prompts, targets): (&[String], &[String]),
        training: &TrainingArgs,
        chat: &ChatArgs,
        model: &ModelArgs,
        opened: &mut Opened,
    ) -> Result<Self> {
        let references = match &training.reference {
            Some(path) => lines(path)?,
            None => Vec::new(),
        };
        let lists = [
            prompts,
            targets,
            &references,
            &training.probe,
            &training.held_out,
        ];
        let [prompts, targets, references, probes, held_out] =
            chat::lists(lists, chat, model, opened)?;
        Ok(Self {
            prompts,
            targets,
            references,
            probes,
            held_out,
        })
    }
}

/// Reads and checks the options of `control supervised`.
pub(crate) fn build_supervised(
    args: &SupervisedArgs,
    opened: &mut Opened,
) -> Result<(Supervised, Texts)> {
    let prompts = (&args.prompt[..], &args.target_prompt[..]);
    let texts = Texts::new(prompts, &args.training, &args.chat, &args.model, opened)?;
    let (mut layers, mut sources) = (Vec::new(), Vec::new());
    for (prompt, source) in pair_prompts("source", &texts.prompts, &args.source)? {
        for (layer, token) in pairs("source", source, opened.encode(prompt)?.len())? {
            layers.push(layer);
            sources.push((prompt.clone(), token));
        }
    }
    let layer = layers[0];
    if let Some(other) = layers.iter().find(|&&other| other != layer) {
        return usage(format!(
            "--source {}: the cells are of layers {layer} and {other}; an edit changes one layer, so give cells of \
             one layer",
            args.source.join(" --source ")
        ));
    }
    let seed = args.interpretation.sampling.seed;
    let control = Supervised {
        sources,
        layer,
        target: target(args, &texts.targets, opened)?,
        training: training(
            &args.training,
            &texts,
            args.steps,
            seed,
            opened,
            &SUPERVISED,
        )?,
        interpretation: if args.interpret {
            Some(interpretation(&args.interpretation, &args.model, opened)?)
        } else {
            None
        },
    };
    control.check(&opened.config, &opened.tokenizer)?;
    Ok((control, texts))
}

/// Reads and checks the options of `control reinforce`.
pub(crate) fn build_reinforce(
    args: &ReinforceArgs,
    opened: &mut Opened,
) -> Result<(Reinforce, Texts)> {
    let prompts = (&args.prompt[..], &[][..]);
    let texts = Texts::new(prompts, &args.training, &args.chat, &args.model, opened)?;
    let mut sources = Vec::new();
    for (prompt, wanted) in pair_prompts("tokens", &texts.prompts, &args.tokens)? {
        let found = tokens(
            &selector(wanted)?,
            std::slice::from_ref(prompt),
            opened,
            true,
        )?;
        let found = found.into_iter().flatten();
        sources.extend(found.map(|token| (prompt.clone(), token)));
    }
    let seed = args.interpretation.sampling.seed;
    let default = Defaults {
        published: args.push == PushArg::Always,
        ..REINFORCE
    };
    let mut training = training(&args.training, &texts, args.steps, seed, opened, &default)?;
    // A program chooses its own scale of rewards, so only its user knows which value is enough.
    let default = training
        .stop_reward
        .filter(|_| args.reward_command.is_none());
    training.stop_reward = args.stop_reward.or(default);
    let control = Reinforce {
        sources,
        layer: args.layer,
        interpretation: interpretation(&args.interpretation, &args.model, opened)?,
        training,
    };
    control.check(&opened.config, &opened.tokenizer)?;
    Ok((control, texts))
}

/// Pairs each prompt with its cells: the same for all prompts, or one `--{what}` per prompt.
fn pair_prompts<'a>(
    what: &str,
    prompts: &'a [String],
    cells: &'a [String],
) -> Result<Vec<(&'a String, &'a String)>> {
    if cells.len() != 1 && cells.len() != prompts.len() {
        return usage(format!(
            "{} --{what} for {} prompts: give one for all prompts, or one for each",
            cells.len(),
            prompts.len()
        ));
    }
    Ok(prompts.iter().zip(cells.iter().cycle()).collect())
}

/// Continuations of the held-out prompts before and after the edit.
fn held_out<B: Backend>(
    args: &TrainingArgs,
    texts: &Texts,
    before: &Llama<B>,
    after: &Llama<B>,
    opened: &Opened,
) -> Result<Vec<[String; 3]>> {
    let ids: Vec<Vec<u32>> = texts
        .held_out
        .iter()
        .map(|prompt| opened.encode(prompt))
        .collect::<Result<_, _>>()?;
    let decoding = opened.decoding(args.probe_tokens);
    let texts = |model: &Llama<B>| -> Result<Vec<String>> {
        let generated = generate_all(model, &ids, &decoding, |_| {})?;
        let texts = generated
            .iter()
            .map(|g| opened.tokenizer.decode(&g.new_ids));
        Ok(texts.collect::<Result<_, _>>()?)
    };
    let (before, after) = (texts(before)?, texts(after)?);
    let pairs = before.into_iter().zip(after);
    let all = args.held_out.iter().zip(pairs);
    Ok(all
        .map(|(prompt, (before, after))| [prompt.clone(), before, after])
        .collect())
}

/// Reads `--target..`.
fn target(args: &SupervisedArgs, prompts: &[String], opened: &Opened) -> Result<Target> {
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
    for prompt in prompts {
        let pairs = pairs("target", text, opened.encode(prompt)?.len())?;
        cells.extend(pairs.into_iter().map(|(layer, token)| TargetCell {
            prompt: prompt.clone(),
            layer,
            token,
        }));
    }
    Ok(Target::Cells(cells))
}

/// A method's defaults.
struct Defaults {
    lr: f64,
    beta: f64,
    /// Whether to run the published method, without stops and bounds.
    published: bool,
}

const SUPERVISED: Defaults = Defaults {
    lr: 1e-3,
    beta: 10.0,
    published: false,
};

const REINFORCE: Defaults = Defaults {
    lr: 2e-3,
    beta: 1.0,
    published: false,
};

fn training(
    args: &TrainingArgs,
    texts: &Texts,
    steps: usize,
    seed: u64,
    opened: &Opened,
    method: &Defaults,
) -> Result<Training> {
    let betas: Vec<f64> = list("betas", &args.betas)?;
    let Ok(betas) = <[f64; 2]>::try_from(betas) else {
        return usage(format!(
            "--betas {}: expected two numbers, such as 0.9,0.999",
            args.betas
        ));
    };
    let reference = args.reference.as_ref().map(|_| Reference {
        prompts: texts.references.clone(),
        beta: args.beta.unwrap_or(method.beta),
        batch: args.reference_batch,
        max_drift: args.max_drift,
    });
    if !args.probe.is_empty() && args.probe_tokens == 0 {
        return usage("--probe-tokens 0: expected at least 1");
    }
    let probes = (!args.probe.is_empty()).then(|| Probes {
        prompts: texts.probes.clone(),
        decoding: opened.decoding(args.probe_tokens),
    });
    for prompt in &texts.held_out {
        let tokens = opened.encode(prompt)?.len();
        opened.config.check_context(tokens + args.probe_tokens)?;
    }
    let steps = if args.dry_run { steps.min(1) } else { steps };
    let lr = args.lr.unwrap_or(method.lr);
    let default = if method.published {
        Training::published(steps, lr)
    } else {
        Training::new(steps, lr)
    };
    let bound = |given: f64| (given != 0.0).then_some(given);
    let watch = args.watch_tokens.or(default.watch.map(|w| w.new_tokens));
    Ok(Training {
        betas,
        seed,
        stop_below: args.stop_loss,
        patience: args.patience.unwrap_or(default.patience),
        write: match args.write {
            None => default.write,
            Some(WriteArg::Best) => Write::Best,
            Some(WriteArg::Last) => Write::Last,
        },
        max_norm_change: args.max_norm_change.map_or(default.max_norm_change, bound),
        watch: watch.filter(|&tokens| tokens > 0).map(|tokens| Watch {
            new_tokens: tokens,
            max_surprise: bound(args.max_surprise),
            ..Watch::default()
        }),
        push: if method.published {
            Push::Always
        } else {
            Push::Until
        },
        bos: opened.options.bos,
        reference,
        probes,
        ..default
    })
}

fn interpretation(
    args: &InterpretationArgs,
    model: &ModelArgs,
    opened: &Opened,
) -> Result<Options> {
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
        // Not the prompts', which a chat template may have written.
        bos: model.bos.bos(),
        ..opened.interpret_options_with(prompt)?
    })
}

/// Length of the answers in which `--answer-words` are looked for, in tokens.
const ANSWER_TOKENS: usize = 24;

/// Where rewards come from.
pub(crate) enum RewardSource {
    Words(WordReward),
    Command(CommandReward),
    /// A judge, and the model it asks until that model is loaded; `None` means the controlled model.
    Judge(Box<Judge>, Option<Box<Opened>>),
}

impl RewardSource {
    pub(crate) fn open(args: &ReinforceArgs, opened: &Opened) -> Result<Self> {
        if let Some(text) = &args.reward_words {
            let when = match args.reward_when {
                WhenArg::None => When::None,
                WhenArg::Any => When::Any,
            };
            let mut reward = WordReward::new(words(text), when)?;
            if let Some(text) = &args.answer_words {
                reward = reward.with_answers(words(text), opened.decoding(ANSWER_TOKENS))?;
            }
            return Ok(Self::Words(reward));
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
        // Editors end the last line with a newline; the prompt must not.
        let text = text.strip_suffix('\n').unwrap_or(&text).to_owned();
        let source = Source::from(dir);
        let other = if source.is_same(&opened.source) {
            None
        } else {
            let options = OpenOptions {
                edits: Vec::new(),
                bos: args.model.bos.bos(),
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
        )?
        .with_bos(args.model.bos.bos());
        Ok(Self::Judge(Box::new(judge), other))
    }

    /// Loads the judge's model, beside the controlled one.
    pub(crate) fn load_judge(
        &mut self,
        beside: &Model,
        quiet: bool,
    ) -> Result<Option<LoadedJudge>> {
        let Self::Judge(_, other) = self else {
            return Ok(None);
        };
        let Some(other) = other.take() else {
            return Ok(None);
        };
        let Model { opened, llama } = load_on(*other, beside.device(), quiet)?;
        Ok(Some(LoadedJudge {
            llama,
            tokenizer: Arc::new(opened.tokenizer),
            name: opened.name,
        }))
    }

    pub(crate) fn run<B: Backend>(
        self,
        run: RewardedRun<'_, B>,
        llama: &mut Llama<B>,
        judge_model: Option<&LoadedJudge>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome> {
        let RewardedRun {
            control,
            tokenizer,
            unedited,
        } = run;
        let mut run = |reward: &mut dyn Reward<B>| -> Result<Outcome> {
            Ok(control.run_after(llama, tokenizer, unedited, reward, observer)?)
        };
        match (self, judge_model) {
            (Self::Words(mut words), _) => run(&mut words),
            (Self::Command(mut command), _) => {
                let mut outcome = run(&mut command)?;
                // A surplus answer at the end is a wrong count like any other.
                if let (Err(error), End::Steps) = (command.finish(), &outcome.end) {
                    outcome.end = End::Failed(Box::new(error));
                }
                Ok(outcome)
            }
            (Self::Judge(mut judge, _), None) => run(&mut *judge),
            (Self::Judge(judge, _), Some(asked)) => {
                let (tokenizer, name) = (asked.tokenizer.clone(), asked.name.clone());
                on!(&asked.llama, llama => run(&mut judge.by(llama.clone(), tokenizer, name)))
            }
        }
    }
}

/// The loaded model that a judge asks.
pub(crate) struct LoadedJudge {
    llama: AnyModel,
    tokenizer: Arc<Tokenizer>,
    name: String,
}

/// What a reinforcement run needs besides its reward.
pub(crate) struct RewardedRun<'a, B: Backend> {
    pub(crate) control: &'a Reinforce,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) unedited: &'a mut Unedited<B>,
}

/// Splits a list of words.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(',').map(|word| word.trim().to_owned()).collect()
}

/// Names of the embeddings in the lines of a step.
fn labels(opened: &Opened, sources: &[(String, usize)]) -> Result<Vec<String>> {
    let labels = sources.iter();
    labels
        .map(|(prompt, token)| label(opened, prompt, *token))
        .collect()
}

/// Names a prompt's token in the lines of a step.
fn label(opened: &Opened, prompt: &str, token: usize) -> Result<String> {
    let ids = opened.encode(prompt)?;
    let piece = opened.tokenizer.decode_all(&ids[token..=token])?;
    Ok(format!("{token} {piece:?}"))
}
