//! `selfie sweep`: many prompts into a folder.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar};
use selfie::Opened;
use selfie::interp::{Options, Released};
use selfie_sweep::{Observer, Plan, Settings, Shard, SweepFolder, read_prompts};

use crate::args::SweepRunArgs;
use crate::cells::{numbers, selector};
use crate::chat;
use crate::console::{bar, print_note, style};
use crate::error::{CliError, Result, usage};
use crate::interpret::{note_empty, options};
use crate::open::{load_with_reader, open};
use crate::prompts::{note_double_bos, note_interpretation_prompt, note_missing_template};
use crate::reader::whole_model;
use crate::stop::Stop;

/// How many prompts a note names.
const NAMED: usize = 10;
/// How often to print progress to a log that is not a terminal.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

pub(crate) fn sweep(args: &SweepRunArgs) -> Result<()> {
    let stop = Stop::listen();
    let quiet = args.model.quiet;
    let prompts = read_prompts(&args.prompts, args.column.as_deref());
    let prompts = prompts.map_err(CliError::Prompts)?;
    if let Some(dir) = &args.reader
        && let Some(released) = Released::open(dir, None)?
    {
        return usage(format!(
            "--reader {}: selfie sweep does not support a {released}; use selfie interpret --prompts",
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
    note_gaps(&plan, quiet);
    let settings = Settings::new(&opened, reader.as_ref(), &plan, &options)?;
    let mut folder = SweepFolder::open(&args.out, plan, settings)?.with_part_rows(args.part_rows);
    if folder.is_complete() {
        return finished(&mut folder, &options, quiet);
    }
    note_double_bos(&opened, folder.plan().prompts(), quiet)?;
    note_missing_template(args.sweep.interpretation_prompt.as_deref(), reads, quiet)?;
    note_interpretation_prompt(reads, &options.prompt, options.bos, quiet)?;
    let (model, reader) = load_with_reader(opened, reader, quiet)?;
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
        "{} of {} rows are in {}",
        folder.done(),
        folder.plan().rows().len(),
        folder.dir().display()
    );
    let swept = swept.map_err(|error| CliError::Stopped {
        error: Box::new(error.into()),
        done: done.clone(),
    })?;
    note_empty(swept.empty, swept.new, quiet);
    if !folder.is_complete() {
        return Err(CliError::Interrupted {
            done: format!("{done}; run the same command again to resume"),
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
    // hidden_states has one more entry than the model has layers.
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

/// Notes the gaps that the manifest counts: tokens that some prompts lack.
fn note_gaps(plan: &Plan, quiet: bool) {
    let n = plan.prompts().len();
    for gap in plan.gaps() {
        let places = places(&gap.prompts);
        print_note(
            quiet,
            format!("{}, in {} of {n} prompts: {places}", gap.what, gap.count),
        );
    }
    let without = plan.without_cells();
    if !without.is_empty() {
        let (count, places) = (without.len(), places(without));
        print_note(
            quiet,
            format!("{count} of {n} prompts have no rows: {places}"),
        );
    }
}

fn places(prompts: &[usize]) -> String {
    let first: Vec<String> = prompts.iter().take(NAMED).map(usize::to_string).collect();
    let more = if prompts.len() > NAMED {
        ", ... (manifest.json lists all)"
    } else {
        ""
    };
    first.join(", ") + more
}

/// Closes a sweep that already has all its rows.
fn finished(folder: &mut SweepFolder, options: &Options, quiet: bool) -> Result<()> {
    let options = folder.name(options)?;
    folder.close_part(&options, "an earlier run's device")?;
    let (rows, dir) = (folder.done(), folder.dir().display());
    print_note(quiet, format!("{dir} already has all {rows} rows"));
    failed(folder)
}

/// An error if some rows could not be computed.
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

/// Shows progress, and stops on Ctrl-C.
struct Progress {
    bar: ProgressBar,
    /// Rows that earlier runs computed.
    before: usize,
    /// When progress was last printed to the log.
    last_logged: Instant,
    quiet: bool,
    stop: Stop,
}

impl Progress {
    fn new(folder: &SweepFolder, stop: Stop, quiet: bool) -> Self {
        let rows = folder.plan().rows().len() as u64;
        let style = style("{bar:30} {pos}/{len} rows ({msg}/s), {elapsed} elapsed, {eta} left");
        let bar = bar(rows, quiet).with_style(style);
        bar.set_position(folder.done() as u64);
        bar.reset_eta();
        Self {
            bar,
            before: folder.done(),
            last_logged: Instant::now(),
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
        // The log of a batch job has no bar.
        if self.bar.is_hidden() && self.last_logged.elapsed() > LOG_INTERVAL {
            self.last_logged = Instant::now();
            let left = Duration::from_secs_f64((rows - done) as f64 / rate.max(1e-9));
            let left = HumanDuration(left);
            print_note(
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
            print_note(
                quiet,
                format!("no row for {cell}: its activations overflowed"),
            )
        });
    }
}
