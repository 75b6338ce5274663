//! Edits as objects.

use std::path::PathBuf;

use pyo3::prelude::*;
use selfie::control;

use crate::error::Failed;

/// The new tensors of one layer's MLP, made by control. `Model.apply` applies it to a model.
#[pyclass(frozen, name = "Edit", module = "selfie_rs")]
pub(crate) struct Edit {
    /// Its name in messages: its file, or its origin.
    pub(crate) name: String,
    pub(crate) edit: control::Edit,
}

#[pymethods]
impl Edit {
    /// Reads an edit file of `save` or `selfie control`.
    #[staticmethod]
    pub(crate) fn open(path: PathBuf) -> PyResult<Self> {
        Ok(Self {
            name: path.display().to_string(),
            edit: control::Edit::open(&path).map_err(Failed::from)?,
        })
    }

    /// Writes the edit to a file (safetensors), which the program accepts as `--edit`.
    fn save(&self, path: PathBuf) -> PyResult<()> {
        Ok(self.edit.save(&path).map_err(Failed::from)?)
    }

    /// Its name in messages.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// The layer of the controlled embeddings, hidden_states[layer]. The edited MLP is that of the layer below.
    #[getter]
    fn layer(&self) -> usize {
        self.edit.meta.layer
    }

    /// `supervised` or `reinforcement`.
    #[getter]
    fn method(&self) -> &str {
        &self.edit.meta.method
    }

    /// The number of updates in it.
    #[getter]
    fn updates(&self) -> usize {
        self.edit.meta.updates
    }

    /// All metadata in the file: options, losses, drifts, rewards, and how the run ended.
    #[getter]
    fn meta<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        from_json(py, &self.edit.meta)
    }

    fn __repr__(&self) -> String {
        let meta = &self.edit.meta;
        format!(
            "Edit({:?}: {} of layer {}, {} updates)",
            self.name, meta.method, meta.layer, meta.updates
        )
    }
}

/// Converts a value to Python through JSON.
pub(crate) fn from_json<'py>(
    py: Python<'py>,
    value: &impl serde::Serialize,
) -> PyResult<Bound<'py, PyAny>> {
    let json = serde_json::to_string(value)
        .map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))?;
    py.import("json")?.call_method1("loads", (json,))
}
