//! A sweep in a thread of its own, and what it has delivered so far. Nothing here knows Python.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use selfie::ErrorKind;
use selfie::interp::{Row, RowFields, Sink, Swept};
use signal_hook::SigId;
use signal_hook::consts::SIGINT;

use crate::error::Failed;

/// A sweep that runs, or has ended.
pub(crate) struct Run {
    state: Mutex<State>,
    changed: Condvar,
    stop: Arc<AtomicBool>,
    /// Rows that come if nothing stops it.
    pub(crate) total: usize,
    /// What its rows have.
    pub(crate) fields: RowFields,
}

#[derive(Default)]
struct State {
    rows: Vec<Arc<Row>>,
    /// Cells without a row.
    failed: Vec<String>,
    end: Option<End>,
}

/// How a sweep ended.
#[derive(Clone)]
pub(crate) enum End {
    /// It came to its end, or was stopped.
    Swept(Swept),
    /// It failed, after the rows that are there.
    Failed(ErrorKind, String),
}

/// What there is at an index.
pub(crate) enum Next {
    Row(Arc<Row>),
    /// Not yet anything.
    Wait,
    End(End),
}

impl Run {
    /// Starts `work`, which gets the sink, in a thread.
    pub(crate) fn start(
        total: usize,
        fields: RowFields,
        work: impl FnOnce(&mut Deliver) -> Result<Swept, Failed> + Send + 'static,
    ) -> std::io::Result<Arc<Self>> {
        let run = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: Arc::default(),
            total,
            fields,
        });
        // Ctrl-C stops it wherever Python is just then, which raises KeyboardInterrupt there. Without a handler, whoever
        // waits for rows still looks for it.
        let interrupt = signal_hook::flag::register(SIGINT, Arc::clone(&run.stop)).ok();
        let mut deliver = Deliver(Arc::clone(&run), interrupt);
        thread::Builder::new()
            .name("selfie-sweep".to_owned())
            .spawn(move || {
                let end = match work(&mut deliver) {
                    Ok(swept) => End::Swept(swept),
                    Err(Failed(error)) => End::Failed(error.kind(), error.to_string()),
                };
                deliver.0.end(end);
            })?;
        Ok(run)
    }

    /// Ends the sweep; rows that are finished still come.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What there is at `index`, after at most `timeout` when that is nothing yet.
    pub(crate) fn next(&self, index: usize, timeout: Duration) -> Next {
        let nothing_yet = |state: &mut State| state.rows.len() <= index && state.end.is_none();
        let waited = self
            .changed
            .wait_timeout_while(self.state(), timeout, nothing_yet);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (state.rows.get(index), &state.end) {
            (Some(row), _) => Next::Row(Arc::clone(row)),
            (None, Some(end)) => Next::End(end.clone()),
            (None, None) => Next::Wait,
        }
    }

    /// The rows that are there.
    pub(crate) fn rows(&self) -> Vec<Arc<Row>> {
        self.state().rows.clone()
    }

    /// The cells that have none, because their activations overflow.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.state().failed.clone()
    }

    /// Whether it was stopped before its last row, and how many of its interpretations are empty; `None` while it runs, and
    /// where it failed.
    pub(crate) fn swept(&self) -> Option<Swept> {
        match self.state().end {
            Some(End::Swept(swept)) => Some(swept),
            _ => None,
        }
    }

    /// How many rows are there.
    pub(crate) fn done(&self) -> usize {
        self.state().rows.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
        self.state().end.get_or_insert(end);
        self.changed.notify_all();
    }
}

/// Takes the rows of a sweep.
pub(crate) struct Deliver(Arc<Run>, Option<SigId>);

impl Sink for Deliver {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        self.0.state().rows.push(Arc::new(row));
        self.0.changed.notify_all();
        // The rows that are finished are still taken after a stop; `progress` ends the sweep.
        ControlFlow::Continue(())
    }

    fn failed(&mut self, _row: usize, cell: &str) -> ControlFlow<()> {
        self.0.state().failed.push(cell.to_owned());
        ControlFlow::Continue(())
    }

    fn progress(&mut self, _done: usize, _total: usize) -> ControlFlow<()> {
        if self.0.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

impl Drop for Deliver {
    /// Nobody waits for a thread that has panicked.
    fn drop(&mut self) {
        self.1.map(signal_hook::low_level::unregister);
        let message =
            "the sweep ended without a word: this is a bug of selfie_rs, please report it";
        self.0
            .end(End::Failed(ErrorKind::Failed, message.to_owned()));
    }
}

/// Stops a run when nobody can ask for its rows any more.
pub(crate) struct Held(pub(crate) Arc<Run>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.stop();
    }
}
