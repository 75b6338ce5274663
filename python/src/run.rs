//! A sweep in its own thread, and the rows it has delivered. Nothing here knows Python.

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

/// A sweep that is running or has ended.
pub(crate) struct Run {
    state: Mutex<State>,
    changed: Condvar,
    stop: Arc<AtomicBool>,
    /// The number of rows if nothing stops it.
    pub(crate) total: usize,
    /// The optional fields of its rows.
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
    /// It finished, or was stopped.
    Swept(Swept),
    /// It failed after delivering some rows.
    Failed(ErrorKind, String),
}

/// The state of a row.
pub(crate) enum Next {
    Row(Arc<Row>),
    /// Not finished yet.
    Wait,
    End(End),
}

impl Run {
    /// Starts `work` in a thread, with a sink for the rows.
    pub(crate) fn start(
        total: usize,
        fields: RowFields,
        work: impl FnOnce(&mut RunSink) -> Result<Swept, Failed> + Send + 'static,
    ) -> std::io::Result<Arc<Self>> {
        let run = Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: Arc::default(),
            total,
            fields,
        });
        // Ctrl-C stops the sweep wherever Python is, which raises KeyboardInterrupt there. If no handler can be set,
        // whoever waits for rows still checks for it.
        let interrupt = signal_hook::flag::register(SIGINT, Arc::clone(&run.stop)).ok();
        let mut deliver = RunSink(Arc::clone(&run), interrupt);
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

    /// Ends the sweep. Finished rows are still delivered.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The row at `index`. Waits up to `timeout` if it is not finished.
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

    /// The finished rows.
    pub(crate) fn rows(&self) -> Vec<Arc<Row>> {
        self.state().rows.clone()
    }

    /// The cells without rows because their activations overflowed.
    pub(crate) fn failed(&self) -> Vec<String> {
        self.state().failed.clone()
    }

    /// Whether it was stopped before its last row, and how many interpretations are empty; `None` while it runs, or if
    /// it failed.
    pub(crate) fn swept(&self) -> Option<Swept> {
        match self.state().end {
            Some(End::Swept(swept)) => Some(swept),
            _ => None,
        }
    }

    /// The number of finished rows.
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

/// Receives the rows of a sweep.
pub(crate) struct RunSink(Arc<Run>, Option<SigId>);

impl Sink for RunSink {
    fn row(&mut self, row: Row) -> ControlFlow<()> {
        self.0.state().rows.push(Arc::new(row));
        self.0.changed.notify_all();
        // Finished rows are still taken after a stop; `progress` ends the sweep.
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

impl Drop for RunSink {
    /// Keeps others from waiting for a panicked thread.
    fn drop(&mut self) {
        self.1.map(signal_hook::low_level::unregister);
        let message = "the sweep ended unexpectedly: this is a bug in selfie_rs, please report it";
        self.0
            .end(End::Failed(ErrorKind::Failed, message.to_owned()));
    }
}

/// Stops a run once nothing can ask for its rows.
pub(crate) struct StopOnDrop(pub(crate) Arc<Run>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
