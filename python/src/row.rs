//! A row for Python.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use selfie::interp;

/// The interpretation of one embedding.
///
/// Fields: `prompt`, `interpretation`, `layer` (None for a given vector), `token`, `token_decoded`, `relevancy_score`
/// (a float per generated token, `|p_with - p_without|`), `new_ids`, `pieces`, `inject_layer`, `mode`, `strength`,
/// `model`, `prompt_index`, `key` (16 hexadecimal digits that identify the cell, whatever the other cells are),
/// `reader`, `map`, `logprobs`, and `controls`: for each control `(interpretation, evidence in nats per token)`.
#[pyclass(frozen, name = "Row", module = "selfie_rs")]
pub(crate) struct Row(pub(crate) Arc<interp::Row>);

#[pymethods]
impl Row {
    #[getter]
    fn prompt(&self) -> &str {
        &self.0.prompt
    }
    #[getter]
    fn interpretation(&self) -> &str {
        &self.0.interpretation
    }
    #[getter]
    fn layer(&self) -> Option<usize> {
        self.0.layer
    }
    #[getter]
    fn token(&self) -> usize {
        self.0.token
    }
    #[getter]
    fn token_decoded(&self) -> Option<&str> {
        self.0.token_decoded.as_deref()
    }
    #[getter]
    fn relevancy_score(&self) -> Vec<f32> {
        self.0.relevancy_score.clone()
    }
    #[getter]
    fn new_ids(&self) -> Vec<u32> {
        self.0.new_ids.clone()
    }
    #[getter]
    fn pieces(&self) -> Vec<String> {
        self.0.pieces.clone()
    }
    #[getter]
    fn inject_layer(&self) -> usize {
        self.0.inject_layer
    }
    #[getter]
    fn mode(&self) -> &str {
        self.0.mode.name()
    }
    #[getter]
    fn strength(&self) -> f32 {
        self.0.strength
    }
    #[getter]
    fn model(&self) -> &str {
        &self.0.model
    }
    #[getter]
    fn prompt_index(&self) -> Option<usize> {
        self.0.prompt_index
    }
    #[getter]
    fn key(&self) -> String {
        self.0.key.to_string()
    }
    #[getter]
    fn reader(&self) -> Option<&str> {
        self.0.reader.as_deref()
    }
    #[getter]
    fn map(&self) -> Option<&str> {
        self.0.map.as_deref()
    }
    #[getter]
    fn logprobs(&self) -> Vec<f32> {
        self.0.logprobs.clone()
    }
    #[getter]
    fn controls<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let controls = PyDict::new(py);
        for one in &self.0.controls {
            controls.set_item(one.control.name(), (&one.interpretation, one.evidence))?;
        }
        Ok(controls)
    }

    /// The fields as a dict, in the order of the program's JSON lines. Each control adds two: `none_interpretation` and
    /// `none_evidence`.
    pub(crate) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (row, dict) = (&*self.0, PyDict::new(py));
        dict.set_item("prompt", &row.prompt)?;
        dict.set_item("interpretation", &row.interpretation)?;
        dict.set_item("layer", row.layer)?;
        dict.set_item("token", row.token)?;
        dict.set_item("token_decoded", &row.token_decoded)?;
        dict.set_item("relevancy_score", &row.relevancy_score)?;
        dict.set_item("new_ids", &row.new_ids)?;
        dict.set_item("pieces", &row.pieces)?;
        dict.set_item("inject_layer", row.inject_layer)?;
        dict.set_item("mode", row.mode.name())?;
        dict.set_item("strength", row.strength)?;
        dict.set_item("model", &row.model)?;
        dict.set_item("prompt_index", row.prompt_index)?;
        dict.set_item("key", row.key.to_string())?;
        dict.set_item("reader", &row.reader)?;
        dict.set_item("map", &row.map)?;
        dict.set_item("logprobs", &row.logprobs)?;
        if let Some(samples) = &row.samples {
            dict.set_item("samples", &samples.samples)?;
            dict.set_item("agreement", samples.agreement)?;
            dict.set_item("mean_logprob", samples.mean_logprob)?;
        }
        for one in &row.controls {
            let name = one.control.name();
            dict.set_item(format!("{name}_interpretation"), &one.interpretation)?;
            dict.set_item(format!("{name}_evidence"), one.evidence)?;
        }
        Ok(dict)
    }

    fn __repr__(&self) -> String {
        let row = &*self.0;
        let place = match (row.layer, &row.token_decoded) {
            (Some(layer), Some(text)) => format!("layer={layer}, token={} {text:?}", row.token),
            _ => format!("vector {} of {:?}", row.token, row.prompt),
        };
        format!("Row({place}: {:?})", row.interpretation)
    }
}
