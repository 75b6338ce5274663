//! All states of a prompt, as numpy arrays.

use numpy::ndarray::{Array2, Array3, ShapeError};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArray3};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use selfie::llama;

/// All states of the residual stream for a prompt, in f32: numpy arrays that own the model's output without a copy. T
/// is the number of tokens, L of layers, D is d_model, V the vocabulary size.
#[pyclass(frozen, get_all, name = "Trace", module = "selfie_rs")]
pub(crate) struct Trace {
    /// The tokens, `[T]`, uint32.
    input_ids: Py<PyArray1<u32>>,
    /// The residual stream at the input of each layer, and after the final norm: `[L + 1, T, D]`.
    hidden_states: Py<PyArray3<f32>>,
    /// The input of each layer's MLP, after its norm: `[L, T, D]`.
    pre_mlp: Py<PyArray3<f32>>,
    /// The residual stream that each layer's MLP output is added to: `[L, T, D]`.
    residual: Py<PyArray3<f32>>,
    /// The logits, `[T, V]`.
    logits: Py<PyArray2<f32>>,
}

impl Trace {
    pub(crate) fn new(py: Python<'_>, trace: llama::Trace, layers: usize) -> PyResult<Self> {
        let tokens = trace.input_ids.len();
        let width = trace.hidden_states.len() / ((layers + 1) * tokens);
        let vocab = trace.logits.len() / tokens;
        let states = |layers, values| {
            let array = Array3::from_shape_vec((layers, tokens, width), values);
            array.map(|array| array.into_pyarray(py).unbind())
        };
        let shaped = || -> Result<Self, ShapeError> {
            Ok(Self {
                input_ids: trace.input_ids.into_pyarray(py).unbind(),
                hidden_states: states(layers + 1, trace.hidden_states)?,
                pre_mlp: states(layers, trace.pre_mlp)?,
                residual: states(layers, trace.residual)?,
                logits: Array2::from_shape_vec((tokens, vocab), trace.logits)?
                    .into_pyarray(py)
                    .unbind(),
            })
        };
        shaped().map_err(|error| PyRuntimeError::new_err(error.to_string()))
    }
}
