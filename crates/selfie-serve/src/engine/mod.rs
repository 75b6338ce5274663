//! The thread that owns the model. It takes work from all clients, and one reader runs it together.

mod generating;
mod scheduler;
mod work;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use selfie::interp::ReaderSize;
use selfie::kernels::Backend;
use selfie::llama::{Llama, Tokenizer};
use selfie::{Model, Opened, on};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Result, ServeError};
use crate::problem::Problem;
use generating::Generating;
use scheduler::Scheduler;
pub(crate) use work::{
    Event, Generate, Interpret, Limit, Reply, Score, States, Steering, Stream, Work,
};

/// How many texts generate at a time; others wait.
const GENERATIONS: usize = 8;

/// The sender of work to the thread.
#[derive(Clone)]
pub(crate) struct Engine(mpsc::UnboundedSender<Work>);

impl Engine {
    /// Whether the thread is running.
    pub(crate) fn is_alive(&self) -> bool {
        !self.0.is_closed()
    }

    /// Sends work. Returns whether the thread took it.
    pub(crate) fn send(&self, work: Work) -> bool {
        self.0.send(work).is_ok()
    }
}

/// A started thread: the model's files, the sender of work, and a signal for when the thread ends.
pub(crate) struct Started {
    pub(crate) opened: Arc<Opened>,
    pub(crate) engine: Engine,
    pub(crate) end: oneshot::Receiver<()>,
}

/// Starts the thread with a model that was loaded without its edits.
pub(crate) fn start(model: Model, size: ReaderSize) -> Result<Started> {
    let Model { opened, llama } = model;
    let opened = Arc::new(opened);
    let (sender, work) = mpsc::unbounded_channel();
    let (ended, end) = oneshot::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let of_thread = Arc::clone(&opened);
    thread::Builder::new()
        .name("model".to_owned())
        .spawn(move || {
            let run = || on!(&llama, llama => run(llama, &of_thread, &size, work, &ready));
            let ran = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(ServeError::Engine));
            // A failure before the thread was ready goes to the caller that waits for it.
            if let Err(error) = ran {
                let _ = ready.send(Err(error));
            }
            drop(ended);
        })
        .map_err(ServeError::Start)?;
    is_ready.recv().map_err(|_| ServeError::Engine)??;
    Ok(Started {
        opened,
        engine: Engine(sender),
        end,
    })
}

/// Runs work until told to stop, or until there are no senders.
fn run<B: Backend>(
    llama: &Llama<B>,
    opened: &Opened,
    size: &ReaderSize,
    mut work: mpsc::UnboundedReceiver<Work>,
    ready: &std::sync::mpsc::Sender<Result<()>>,
) -> Result<()> {
    let mut edited = llama.clone();
    opened.apply_edits(&mut edited)?;
    let tokenizer = &opened.tokenizer;
    let mut state = EngineState {
        edited: Scheduler::new(&edited, tokenizer, size)?,
        unedited: if opened.edits.is_empty() {
            None
        } else {
            Some(Scheduler::new(llama, tokenizer, size)?)
        },
        tokenizer,
        generating: Vec::new(),
        waiting: VecDeque::new(),
        stopped: false,
    };
    if ready.send(Ok(())).is_err() {
        return Ok(());
    }
    loop {
        if state.is_idle() {
            match work.blocking_recv() {
                Some(work) => state.take(work),
                None => return Ok(()),
            }
        }
        while let Ok(work) = work.try_recv() {
            state.take(work);
        }
        if state.stopped {
            state.close();
            return Ok(());
        }
        state.step();
    }
}

/// All work in progress.
struct EngineState<'a, B: Backend> {
    /// The model with its edits, if there are any.
    edited: Scheduler<'a, B>,
    /// The model without its edits, if there are any.
    unedited: Option<Scheduler<'a, B>>,
    tokenizer: &'a Tokenizer,
    generating: Vec<Generating<'a, B>>,
    waiting: VecDeque<Generate>,
    stopped: bool,
}

impl<'a, B: Backend> EngineState<'a, B> {
    fn is_idle(&self) -> bool {
        !self.stopped
            && self.edited.is_idle()
            && self.unedited.as_ref().is_none_or(Scheduler::is_idle)
            && self.generating.is_empty()
            && self.waiting.is_empty()
    }

    fn scheduler(&mut self, edits: bool) -> &mut Scheduler<'a, B> {
        match &mut self.unedited {
            Some(unedited) if !edits => unedited,
            _ => &mut self.edited,
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Interpret(work) => self.scheduler(work.edits).interpret(work),
            Work::Score(work) => self.scheduler(work.edits).score(work),
            Work::States(work) => self.scheduler(work.edits).states(work),
            Work::Generate(work) => self.waiting.push_back(work),
            Work::Stop => self.stopped = true,
        }
    }

    /// Runs one pass of everything.
    fn step(&mut self) {
        self.edited.step();
        if let Some(unedited) = &mut self.unedited {
            unedited.step();
        }
        self.waiting.retain(|work| !work.stream.is_over());
        while self.generating.len() < GENERATIONS
            && let Some(work) = self.waiting.pop_front()
        {
            let (llama, tokenizer) = (self.scheduler(work.edits).llama, self.tokenizer);
            self.generating
                .extend(Generating::begin(llama, tokenizer, work));
        }
        self.generating.retain_mut(Generating::step);
    }

    /// Tells all waiting clients that the server stops.
    fn close(&mut self) {
        self.edited.close();
        if let Some(unedited) = &mut self.unedited {
            unedited.close();
        }
        let generating = self.generating.drain(..).map(Generating::into_stream);
        let waiting = self.waiting.drain(..).map(|work| work.stream);
        for stream in generating.chain(waiting) {
            stream.fail(Problem::gone());
        }
    }
}
