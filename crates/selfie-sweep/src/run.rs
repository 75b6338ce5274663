//! Computes the missing rows of a folder.

use std::ops::ControlFlow;
use std::sync::Arc;

use selfie::Model;
use selfie::interp::{InterpError, Options, Row, Sink};

use crate::{Plan, Result, SweepError, SweepFolder};

/// Receives the progress of a sweep. `()` ignores it.
pub trait Observer {
    /// Reports that `done` of the folder's rows are finished; called after each row.
    fn row(&mut self, _done: usize, _rows: usize) {}

    /// Called after each pass of the model. `Break` ends the sweep after delivering the finished rows.
    fn pass(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Reports a cell without a row, because its activations overflowed.
    fn failed(&mut self, _cell: &str) {}
}

impl Observer for () {}

/// How a successful sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a stopped sweep does not have all rows"]
pub struct Swept {
    /// The number of finished rows, including failed ones.
    pub done: usize,
    /// The number of rows in the folder's plan.
    pub rows: usize,
    /// The number of rows that this call computed.
    pub new: usize,
    /// How many of these have an empty interpretation.
    pub empty: usize,
    /// The number of failed rows in all.
    pub failed: usize,
}

/// Computes the rows of a folder's plan that it lacks: the cells of all prompts together, in full batches of one
/// reader. `reader` is the model that reads, if it is another one; then the options belong to it.
///
/// # Errors
/// Errors of [`selfie::interp::interpret`] and [`SweepFolder::push`]. The finished rows are in the folder in any case.
/// Cells whose activations overflow are not errors; they are counted.
pub fn sweep(
    model: &Model,
    reader: Option<&Model>,
    options: &Options,
    folder: &mut SweepFolder,
    observer: &mut impl Observer,
) -> Result<Swept> {
    let options = folder.name(options)?;
    let plan = Arc::clone(folder.plan());
    let (cells, firsts) = plan.cells_to_do(|row| folder.is_done(row));
    let device = reader.unwrap_or(model).device().describe();
    let mut into = FolderSink {
        before: folder.done(),
        rows: plan.rows().len(),
        plan: &plan,
        firsts,
        options: &options,
        device: &device,
        folder,
        observer,
        empty: 0,
        error: None,
    };
    let texts = plan.texts();
    let swept = if cells.is_empty() {
        Ok(())
    } else {
        let swept = match reader {
            None => model.interpret(&texts, &cells, &options, &mut into),
            Some(reader) => model.interpret_by(reader, &texts, &cells, &options, &mut into),
        };
        swept.map(|_| ())
    };
    let FolderSink {
        before,
        rows,
        folder,
        empty,
        error,
        ..
    } = into;
    if let Some(error) = error {
        return Err(error);
    }
    // Close the part, so that other programs can read the rows.
    let closed = folder.close_part(&options, &device);
    match swept {
        Err(selfie::Error::Interp(error)) if matches!(*error, InterpError::NotFinite { .. }) => {}
        swept => swept?,
    }
    closed?;
    Ok(Swept {
        done: folder.done(),
        rows,
        new: folder.done() - before,
        empty,
        failed: folder.failed().count(),
    })
}

/// Adds rows to a folder.
struct FolderSink<'a, O> {
    before: usize,
    rows: usize,
    plan: &'a Plan,
    /// The number of the first row of each computed cell.
    firsts: Vec<usize>,
    options: &'a Options,
    device: &'a str,
    folder: &'a mut SweepFolder,
    observer: &'a mut O,
    empty: usize,
    error: Option<SweepError>,
}

impl<O: Observer> FolderSink<'_, O> {
    fn take(&mut self, pushed: Result<()>) -> ControlFlow<()> {
        if let Err(error) = pushed {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        self.observer.row(self.folder.done(), self.rows);
        ControlFlow::Continue(())
    }
}

impl<O: Observer> Sink for FolderSink<'_, O> {
    fn row(&mut self, mut row: Row) -> ControlFlow<()> {
        let Some(number) = self.plan.number_of(&row, self.options) else {
            let row = format!("layer {:?}, token {}", row.layer, row.token);
            return self.take(Err(SweepError::Stray { row }));
        };
        self.empty += usize::from(row.interpretation.trim().is_empty());
        row.prompt_index = row.prompt_index.map(|index| self.plan.index_of(index));
        let pushed = self.folder.push(number, row, self.options, self.device);
        self.take(pushed)
    }

    fn failed(&mut self, row: usize, cell: &str) -> ControlFlow<()> {
        self.observer.failed(cell);
        let n = self.options.injections.len();
        let number = self.firsts[row / n] + row % n;
        let pushed = self
            .folder
            .push_failed(number, cell, self.options, self.device);
        self.take(pushed)
    }

    fn progress(&mut self, _done: usize, _total: usize) -> ControlFlow<()> {
        self.observer.pass()
    }
}
