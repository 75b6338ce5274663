//! The rows of a sweep: an iterator while it runs, a table when it is finished.

use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatchIterator, RecordBatchReader};
use arrow_schema::ArrowError;
use arrow_schema::ffi::FFI_ArrowSchema;
use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList};

use crate::arrow;
use crate::error::exception;
use crate::row::Row;
use crate::run::{End, Next, Run, StopOnDrop};

/// How often to check for Ctrl-C while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The rows of an interpretation, which runs in its own thread.
///
/// Iterating gives each `Row` as soon as it is finished; a second iteration starts again with the first row.
/// `len(rows)` is the number of rows if nothing stops the run, so that `tqdm(rows)` shows progress. Ctrl-C stops the
/// run and raises KeyboardInterrupt; `rows.done()` then has the rows so far. It is also an Arrow stream
/// (`__arrow_c_stream__`), which pyarrow, pandas, polars and DuckDB read directly.
#[pyclass(frozen, name = "Rows", module = "selfie_rs")]
pub(crate) struct Rows {
    held: Arc<StopOnDrop>,
    /// Creates a progress bar with tqdm's arguments, for the first iteration.
    bar: Mutex<Option<Py<PyAny>>>,
}

impl Rows {
    pub(crate) fn new(run: Arc<Run>, bar: Option<Py<PyAny>>) -> Self {
        Self {
            held: Arc::new(StopOnDrop(run)),
            bar: Mutex::new(bar),
        }
    }

    fn run(&self) -> &Run {
        &self.held.0
    }

    /// All rows; waits for them.
    fn all(&self, py: Python<'_>) -> PyResult<Vec<Arc<selfie::interp::Row>>> {
        self.wait(py)?;
        Ok(self.run().rows())
    }
}

/// The factory of progress bars that the argument `progress` asks for.
pub(crate) fn progress_bar(
    py: Python<'_>,
    progress: Option<Bound<'_, PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    let Some(progress) = progress.filter(|progress| !progress.is_none()) else {
        return Ok(None);
    };
    match progress.extract::<bool>() {
        Ok(false) => Ok(None),
        Ok(true) => {
            let tqdm = py.import("tqdm.auto").map_err(|_| {
                PyImportError::new_err(
                    "progress=True needs tqdm: run pip install tqdm, or pass a callable like tqdm",
                )
            })?;
            Ok(Some(tqdm.getattr("tqdm")?.unbind()))
        }
        Err(_) => Ok(Some(progress.unbind())),
    }
}

#[pymethods]
impl Rows {
    fn __iter__(&self, py: Python<'_>) -> PyResult<RowIterator> {
        let bar = self
            .bar
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let bar = match bar {
            None => None,
            Some(make) => {
                let arguments = PyDict::new(py);
                arguments.set_item("total", self.run().total)?;
                arguments.set_item("unit", "row")?;
                Some(make.call(py, (), Some(&arguments))?)
            }
        };
        Ok(RowIterator {
            held: Arc::clone(&self.held),
            next: 0,
            bar,
        })
    }

    fn __len__(&self) -> usize {
        self.run().total
    }

    /// The finished rows as a list; does not wait.
    fn done<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.run().rows().into_iter().map(Row))
    }

    /// The cells without rows because their activations overflowed.
    #[getter]
    fn failed(&self) -> Vec<String> {
        self.run().failed()
    }

    /// Whether the run was stopped before its last row; None while it runs, or if it failed.
    #[getter]
    fn stopped(&self) -> Option<bool> {
        self.run().swept().map(|swept| swept.stopped)
    }

    /// How many interpretations are empty because the model ended its text at once. If there are many, try an
    /// interpretation prompt that ends differently. None under the same conditions as `stopped`.
    #[getter]
    fn empty(&self) -> Option<usize> {
        self.run().swept().map(|swept| swept.empty)
    }

    /// Stops the run. Finished rows are still delivered.
    fn stop(&self) {
        self.run().stop();
    }

    /// Waits for the last row. If the run failed, raises its error; `done()` has the rows so far.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        let mut rows = self.__iter__(py)?;
        while rows.step(py)?.is_some() {}
        Ok(())
    }

    /// A `pandas.DataFrame` of all rows; waits for them.
    fn to_pandas<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let rows = self.all(py)?;
        let dicts = rows.into_iter().map(|row| Row(row).to_dict(py));
        let dicts = PyList::new(py, dicts.collect::<PyResult<Vec<_>>>()?)?;
        py.import("pandas")?.call_method1("DataFrame", (dicts,))
    }

    /// A `pyarrow.Table` of all rows; waits for them. It has the columns of the program's Parquet files.
    fn to_arrow<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("pyarrow")?.call_method1("table", (slf,))
    }

    /// The columns, as an Arrow C schema.
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = arrow::schema(&self.run().fields);
        let schema = FFI_ArrowSchema::try_from(&schema).map_err(failed)?;
        PyCapsule::new_with_value(py, schema, SCHEMA)
    }

    /// All rows, as an Arrow C stream; waits for them.
    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // The protocol lets a producer ignore this if it cannot cast.
        drop(requested_schema);
        let rows = self.all(py)?;
        let batch = arrow::batch(&rows, &self.run().fields).map_err(failed)?;
        let schema = batch.schema();
        let reader: Box<dyn RecordBatchReader + Send> =
            Box::new(RecordBatchIterator::new([Ok(batch)], schema));
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), STREAM)
    }

    fn __repr__(&self) -> String {
        format!("Rows({} of {} done)", self.run().done(), self.run().total)
    }
}

/// The names that the Arrow PyCapsule interface requires.
const SCHEMA: &CStr = c"arrow_schema";
const STREAM: &CStr = c"arrow_array_stream";

fn failed(error: ArrowError) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

/// An iterator over rows, which waits for the next one.
#[pyclass(name = "RowIterator", module = "selfie_rs")]
pub(crate) struct RowIterator {
    held: Arc<StopOnDrop>,
    next: usize,
    bar: Option<Py<PyAny>>,
}

#[pymethods]
impl RowIterator {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Row>> {
        Ok(self.step(py)?.map(Row))
    }

    /// How many rows are left.
    fn __length_hint__(&self) -> usize {
        self.held.0.total.saturating_sub(self.next)
    }
}

impl RowIterator {
    fn step(&mut self, py: Python<'_>) -> PyResult<Option<Arc<selfie::interp::Row>>> {
        let run = &self.held.0;
        loop {
            if let Err(interrupt) = py.check_signals() {
                run.stop();
                return Err(interrupt);
            }
            let index = self.next;
            match py.detach(|| run.next(index, POLL_INTERVAL)) {
                Next::Row(row) => {
                    self.next += 1;
                    if let Some(bar) = &self.bar {
                        bar.call_method1(py, "update", (1,))?;
                    }
                    return Ok(Some(row));
                }
                Next::End(end) => {
                    if let Some(bar) = self.bar.take() {
                        bar.call_method0(py, "close")?;
                    }
                    return match end {
                        End::Swept(_) => Ok(None),
                        End::Failed(kind, message) => Err(exception(kind, message)),
                    };
                }
                Next::Wait => {}
            }
        }
    }
}
