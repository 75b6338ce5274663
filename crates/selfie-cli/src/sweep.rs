//! `selfie sweep`: many prompts, into a folder.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar};
use selfie::Opened;
use selfie::interp::{Options, Released};
use selfie_sweep::{Observer, Plan, Settings, Shard, SweepFolder, read_prompts};

use crate::args::SweepRunArgs;
use crate::cells::{numbers, selector};
use crate::chat;
use crate::console::{bar, style, tell};
use crate::error::{CliError, Result, usage};
use crate::interpret::{options, tell_of_empty};
use crate::open::{load, load_on, open};
use crate::prompts::{tell_of_interpretation_prompt, tell_of_name, tell_of_prompts};
use crate::reader::whole_model;
use crate::stop::Stop;

/// Prompts that a note names.
const NAMED: usize = 10;
/// How often a log that is no terminal hears of the progress.
const TELL: Duration = Duration::from_secs(60);

pub(crate) fn sweep(args: &SweepRunArgs) -> Result<()> {
    let stop = Stop::listen();
    let quiet = args.model.quiet;
    let prompts = read_prompts(&args.prompts, args.column.as_deref());
    let prompts = prompts.map_err(CliError::Prompts)?;
    if let Some(dir) = &args.reader
        && let Some(released) = Released::open(dir, None)?
    {
        return usage(format!(
            "--reader {}: selfie sweep does not take a {released}; use selfie interpret --prompts",
            dir.display()
        ));
    }
    args.sweep.reading.check_whole_model("selfie sweep")?;
    let mut opened = open(&args.model)?;
    let reader = match &args.reader {
        Some(dir) => Some(whole_model(dir, &opened)?),
        None => None,
    };
    let options = options(&args.sweep, reader.as_ref().unwrap_or(&opened))?;
    let prompts = chat::texts(prompts, &args.chat, &args.model, &mut opened)?;
    let options = Options {
        prompts_bos: Some(opened.options.bos),
        model_name: opened.name.clone(),
        reader_name: reader.as_ref().map(|reader| reader.name.clone()),
        ..options
    };
    let plan = plan(args, prompts, &opened, &options)?;
    let reads = reader.as_ref().unwrap_or(&opened);
    plan.check(&opened, reads, &options)?;
    tell_of_gaps(&plan, quiet);
    let settings = Settings::new(&opened, reader.as_ref(), &plan, &options)?;
    let mut folder = SweepFolder::open(&args.out, plan, settings)?.with_part_rows(args.part_rows);
    if folder.is_complete() {
        return finished(&mut folder, &options, quiet);
    }
    tell_of_prompts(&opened, folder.plan().prompts(), quiet)?;
    tell_of_name(args.sweep.interpretation_prompt.as_deref(), reads, quiet)?;
    tell_of_interpretation_prompt(reads, &options.prompt, options.bos, quiet)?;
    let model = load(opened, quiet)?;
    let reader = match reader {
        Some(reader) => Some(load_on(reader, model.device(), quiet)?),
        None => None,
    };
    let mut progress = Progress::new(&folder, stop, quiet);
    let swept = selfie_sweep::sweep(
        &model,
        reader.as_ref(),
        &options,
        &mut folder,
        &mut progress,
    );
    progress.bar.finish_and_clear();
    let done = format!(
        "{} of {} rows are done in {}",
        folder.done(),
        folder.plan().rows().len(),
        folder.dir().display()
    );
    let swept = swept.map_err(|error| CliError::Stopped {
        error: Box::new(error.into()),
        done: done.clone(),
    })?;
    tell_of_empty(swept.empty, swept.new, quiet);
    if !folder.is_complete() {
        return Err(CliError::Interrupted {
            done: format!("{done}; the same command goes on from there"),
        });
    }
    failed(&folder)
}

fn plan(
    args: &SweepRunArgs,
    prompts: Vec<String>,
    opened: &Opened,
    options: &Options,
) -> Result<Plan> {
    // hidden_states has one more entry than there are layers.
    let layers = numbers("layers", &args.layers, opened.config.n_layers + 1)?;
    let tokens = selector(&args.tokens)?;
    let shard = match &args.shard {
        None => Shard::ALL,
        Some(shard) => shard.parse()?,
    };
    Ok(Plan::new(
        opened, prompts, &layers, &tokens, options, shard,
    )?)
}

/// Tells what the manifest counts: what is not in all prompts.
fn tell_of_gaps(plan: &Plan, quiet: bool) {
    let n = plan.prompts().len();
    for gap in plan.gaps() {
        let places = places(&gap.prompts);
        tell(
            quiet,
            format!("{}, in {} of {n} prompts: {places}", gap.what, gap.count),
        );
    }
    let without = plan.without_cells();
    if !without.is_empty() {
        let (count, places) = (without.len(), places(without));
        tell(
            quiet,
            format!("{count} of {n} prompts have no rows: {places}"),
        );
    }
}

fn places(prompts: &[usize]) -> String {
    let first: Vec<String> = prompts.iter().take(NAMED).map(usize::to_string).collect();
    let more = if prompts.len() > NAMED {
        ", ... (all are in manifest.json)"
    } else {
        ""
    };
    first.join(", ") + more
}

/// All rows are there already.
fn finished(folder: &mut SweepFolder, options: &Options, quiet: bool) -> Result<()> {
    let options = folder.name(options)?;
    folder.close_part(&options, "an earlier run's device")?;
    let (rows, dir) = (folder.done(), folder.dir().display());
    tell(quiet, format!("all {rows} rows are in {dir} already"));
    failed(folder)
}

/// An error if there are rows that cannot be computed.
fn failed(folder: &SweepFolder) -> Result<()> {
    let mut failed = folder.failed();
    match failed.next() {
        None => Ok(()),
        Some(first) => Err(selfie::interp::InterpError::NotFinite {
            first: first.cell.clone(),
            failed: 1 + failed.count(),
            rows: folder.plan().rows().len(),
        }
        .into()),
    }
}

/// Shows progress, and stops at Ctrl-C.
struct Progress {
    bar: ProgressBar,
    /// Rows that an earlier run has computed.
    before: usize,
    /// When the log was told last.
    told: Instant,
    quiet: bool,
    stop: Stop,
}

impl Progress {
    fn new(folder: &SweepFolder, stop: Stop, quiet: bool) -> Self {
        let rows = folder.plan().rows().len() as u64;
        let style = style("{bar:30} {pos}/{len} rows ({msg}/s), {elapsed} gone, {eta} left");
        let bar = bar(rows, quiet).with_style(style);
        bar.set_position(folder.done() as u64);
        bar.reset_eta();
        Self {
            bar,
            before: folder.done(),
            told: Instant::now(),
            quiet,
            stop,
        }
    }
}

impl Observer for Progress {
    fn row(&mut self, done: usize, rows: usize) {
        let seconds = self.bar.elapsed().as_secs_f64().max(1e-9);
        let rate = (done - self.before) as f64 / seconds;
        self.bar.set_message(format!("{rate:.1}"));
        self.bar.set_position(done as u64);
        // A job's log has no bar.
        if self.bar.is_hidden() && self.told.elapsed() > TELL {
            self.told = Instant::now();
            let left = Duration::from_secs_f64((rows - done) as f64 / rate.max(1e-9));
            let left = HumanDuration(left);
            tell(
                self.quiet,
                format!("{done}/{rows} rows ({rate:.1}/s), {left} left"),
            );
        }
    }

    fn pass(&mut self) -> ControlFlow<()> {
        if self.stop.is_asked_for() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn failed(&mut self, cell: &str) {
        let quiet = self.quiet;
        self.bar.suspend(|| {
            tell(
                quiet,
                format!("no row for {cell}: its activations overflow"),
            )
        });
    }
}
