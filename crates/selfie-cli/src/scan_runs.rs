//! The runs of a scan, several at a time.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use selfie::control::{Outcome, Reinforce, Step, Supervised, Unedited};
use selfie::kernels::Backend;
use selfie::llama::{Llama, Tokenizer};
use selfie::{Model, Opened, on};

use crate::control::{LoadedJudge, RewardSource, RewardedRun};
use crate::control_args::ReinforceArgs;
use crate::error::{CliError, Result};
use crate::stop::Stop;

/// The runs in the order of their choices, and the judge's model if there is one.
pub(crate) struct Runs<'a> {
    pub(crate) runs: Vec<Run<'a>>,
    pub(crate) judge: Option<LoadedJudge>,
}

pub(crate) enum Run<'a> {
    Supervised(Supervised),
    /// With the arguments that define the rewards.
    Reinforce(Reinforce, &'a ReinforceArgs),
}

impl Runs<'_> {
    /// Does the runs `open`, `jobs` at a time, and passes each outcome to `each`. A failed run ends the others.
    pub(crate) fn work(
        &self,
        model: &Model,
        open: &[usize],
        jobs: usize,
        stop: &Stop,
        each: &mut dyn FnMut(usize, Outcome) -> Result<()>,
    ) -> Result<()> {
        on!(&model.llama, llama => self.work_on(llama, &model.opened, open, jobs, stop, each))
    }

    fn work_on<B: Backend>(
        &self,
        llama: &Llama<B>,
        opened: &Opened,
        open: &[usize],
        jobs: usize,
        stop: &Stop,
        each: &mut dyn FnMut(usize, Outcome) -> Result<()>,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let ended = || stop.is_asked_for() || failed.load(Ordering::Relaxed);
        let worker = |done: mpsc::Sender<(usize, Result<Outcome>)>| {
            // Consecutive runs are of one layer, and share the unedited model's answers to their prompts.
            let mut unedited: Option<Unedited<B>> = None;
            while let Some(&at) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                if ended() {
                    break;
                }
                let mut observer = |_: &Step| {
                    if ended() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                };
                let outcome = self.runs[at].run(
                    llama,
                    opened,
                    self.judge.as_ref(),
                    &mut unedited,
                    &mut observer,
                );
                // An interrupted run is not finished, and is done again next time.
                if ended() || done.send((at, outcome)).is_err() {
                    break;
                }
            }
        };
        thread::scope(|scope| {
            let (done, outcomes) = mpsc::channel();
            for _ in 0..jobs {
                let done = done.clone();
                let started = thread::Builder::new().spawn_scoped(scope, || worker(done));
                if let Err(error) = started {
                    failed.store(true, Ordering::Relaxed);
                    return Err(CliError::Threads(error));
                }
            }
            drop(done);
            let mut result = Ok(());
            for (at, outcome) in outcomes {
                if result.is_ok() {
                    result = outcome.and_then(|outcome| each(at, outcome));
                    failed.store(result.is_err(), Ordering::Relaxed);
                }
            }
            result
        })
    }
}

impl Run<'_> {
    /// Does one run on its own handle; keeps `unedited` for the next run that can use it.
    fn run<B: Backend>(
        &self,
        llama: &Llama<B>,
        opened: &Opened,
        judge: Option<&LoadedJudge>,
        unedited: &mut Option<Unedited<B>>,
        observer: &mut dyn FnMut(&Step) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        let mut observer = |step: &Step| observer(step);
        let tokenizer = &opened.tokenizer;
        let mut model = llama.clone();
        let unedited = self.unedited(llama, tokenizer, unedited)?;
        match self {
            Self::Supervised(control) => {
                Ok(control.run_after(&mut model, tokenizer, unedited, &mut observer)?)
            }
            Self::Reinforce(control, args) => {
                let reward = RewardSource::open(args, opened)?;
                let run = RewardedRun {
                    control,
                    tokenizer,
                    unedited,
                };
                reward.run(run, &mut model, judge, &mut observer)
            }
        }
    }

    /// The unedited model's answers to the run's prompts; reuses the given ones if they fit.
    fn unedited<'u, B: Backend>(
        &self,
        llama: &Llama<B>,
        tokenizer: &Tokenizer,
        kept: &'u mut Option<Unedited<B>>,
    ) -> Result<&'u mut Unedited<B>> {
        let made = match (self, kept.take()) {
            (Self::Supervised(control), Some(kept)) if control.fits(&kept) => kept,
            (Self::Reinforce(control, _), Some(kept)) if control.fits(&kept) => kept,
            (Self::Supervised(control), _) => control.unedited(llama, tokenizer)?,
            (Self::Reinforce(control, _), _) => control.unedited(llama, tokenizer)?,
        };
        Ok(kept.insert(made))
    }
}
