//! Computing what a folder does not have yet.

use std::ops::ControlFlow;
use std::sync::Arc;

use selfie::Model;
use selfie::interp::{InterpError, Options, Row, Sink};

use crate::{Plan, Result, SweepError, SweepFolder};

/// Who is told how a sweep goes. `()` hears nothing.
pub trait Observer {
    /// So many of the folder's rows are done; called after each.
    fn row(&mut self, _done: usize, _rows: usize) {}

    /// Called after each pass of the model. `Break` ends the sweep, after the rows that are finished.
    fn pass(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A cell has no row: its activations overflow.
    fn failed(&mut self, _cell: &str) {}
}

impl Observer for () {}

/// How a sweep ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a sweep that was stopped has not all rows"]
pub struct Swept {
    /// Rows that are done, failed ones among them.
    pub done: usize,
    /// Rows that the folder is to have.
    pub rows: usize,
    /// Rows that this call computed.
    pub new: usize,
    /// Rows among these whose interpretation is empty.
    pub empty: usize,
    /// Rows that have failed, in all.
    pub failed: usize,
}

/// Computes the rows of a folder's plan that it does not have: all prompts' cells together, in full batches of one reader. `reader` is the
/// model that reads, where it is another one; the options are its own.
///
/// # Errors
/// What [`selfie::interp::interpret`] and [`SweepFolder::push`] report. The rows that were done are in the folder whatever happens.
/// Cells whose activations overflow are no error: they are counted.
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
    let mut into = Into {
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
    let Into {
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
    // A part, so that other programs can read what is there.
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

/// Puts rows into a folder.
struct Into<'a, O> {
    before: usize,
    rows: usize,
    plan: &'a Plan,
    /// The numbers of the first row of each cell that is computed.
    firsts: Vec<usize>,
    options: &'a Options,
    device: &'a str,
    folder: &'a mut SweepFolder,
    observer: &'a mut O,
    empty: usize,
    error: Option<SweepError>,
}

impl<O: Observer> Into<'_, O> {
    fn take(&mut self, pushed: Result<()>) -> ControlFlow<()> {
        if let Err(error) = pushed {
            self.error = Some(error);
            return ControlFlow::Break(());
        }
        self.observer.row(self.folder.done(), self.rows);
        ControlFlow::Continue(())
    }
}

impl<O: Observer> Sink for Into<'_, O> {
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
