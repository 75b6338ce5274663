//! Edits as objects.

use std::path::PathBuf;

use pyo3::prelude::*;
use selfie::control;

use crate::error::Failed;

/// New tensors of one layer's MLP, as control makes them; `Model.apply` puts it on a model.
#[pyclass(frozen, name = "Edit", module = "selfie_rs")]
pub(crate) struct Edit {
    /// What messages call it: its file, or where it comes from.
    pub(crate) name: String,
    pub(crate) edit: control::Edit,
}

#[pymethods]
impl Edit {
    /// Reads an edit file, which `save` or `selfie control` wrote.
    #[staticmethod]
    pub(crate) fn open(path: PathBuf) -> PyResult<Self> {
        Ok(Self {
            name: path.display().to_string(),
            edit: control::Edit::open(&path).map_err(Failed::from)?,
        })
    }

    /// Writes it to a file (safetensors), which the program takes as `--edit`.
    fn save(&self, path: PathBuf) -> PyResult<()> {
        Ok(self.edit.save(&path).map_err(Failed::from)?)
    }

    /// What messages call it.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// The embeddings that were controlled: hidden_states[layer]. The MLP is that of the layer below.
    #[getter]
    fn layer(&self) -> usize {
        self.edit.meta.layer
    }

    /// `supervised` or `reinforcement`.
    #[getter]
    fn method(&self) -> &str {
        &self.edit.meta.method
    }

    /// Updates that are in it.
    #[getter]
    fn updates(&self) -> usize {
        self.edit.meta.updates
    }

    /// Everything that the file says of itself: options, losses, drifts, rewards, how it ended.
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

/// What a value's JSON is in Python.
pub(crate) fn from_json<'py>(
    py: Python<'py>,
    value: &impl serde::Serialize,
) -> PyResult<Bound<'py, PyAny>> {
    let json = serde_json::to_string(value)
        .map_err(|error| pyo3::exceptions::PyRuntimeError::new_err(error.to_string()))?;
    py.import("json")?.call_method1("loads", (json,))
}
