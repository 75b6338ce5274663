//! Keyword arguments of interpretations.

use std::path::PathBuf;

use pyo3::conversion::FromPyObjectOwned;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use selfie::Opened;
use selfie::interp::{Control, Cut, InjectAt, Map, Options};
use selfie::kernels::InjectMode;
use selfie::llama::{GenerationConfig, SamplingOverrides};

use crate::error::{Failed, value_error};

/// Keyword arguments, taken one by one. Any that remain are unknown.
pub(crate) struct Keywords<'py> {
    left: Bound<'py, PyDict>,
}

impl<'py> Keywords<'py> {
    pub(crate) fn new(py: Python<'py>, given: Option<&Bound<'py, PyDict>>) -> PyResult<Self> {
        let left = match given {
            Some(given) => given.copy()?,
            None => PyDict::new(py),
        };
        Ok(Self { left })
    }

    /// The argument with this name; `None` if it is missing or None.
    pub(crate) fn take<T: FromPyObjectOwned<'py>>(&mut self, name: &str) -> PyResult<Option<T>> {
        let Some(value) = self.left.get_item(name)? else {
            return Ok(None);
        };
        self.left.del_item(name)?;
        if value.is_none() {
            return Ok(None);
        }
        let wrong = |error: T::Error| {
            let error: PyErr = error.into();
            let error = error.value(value.py()).to_string();
            PyTypeError::new_err(format!("argument '{name}': {error}"))
        };
        value.extract().map(Some).map_err(wrong)
    }

    /// One value, or several.
    fn take_list<T: FromPyObjectOwned<'py>>(&mut self, name: &str) -> PyResult<Option<Vec<T>>> {
        let is_one = |value: &Bound<'py, PyAny>| {
            value.is_none() || value.is_instance_of::<PyString>() || value.try_iter().is_err()
        };
        match self.left.get_item(name)? {
            Some(value) if !is_one(&value) => {
                let list = pyo3::types::PyList::new(
                    value.py(),
                    value.try_iter()?.collect::<PyResult<Vec<_>>>()?,
                )?;
                self.left.set_item(name, list)?;
                self.take(name)
            }
            _ => Ok(self.take(name)?.map(|one| vec![one])),
        }
    }

    /// An error if any arguments remain.
    pub(crate) fn finish(self) -> PyResult<()> {
        match self.left.keys().get_item(0) {
            Err(_) => Ok(()),
            Ok(name) => Err(PyTypeError::new_err(format!(
                "unexpected keyword argument '{name}'; the docstring lists all arguments"
            ))),
        }
    }

    /// The sampling arguments.
    pub(crate) fn sampling(&mut self) -> PyResult<SamplingOverrides> {
        Ok(SamplingOverrides {
            temperature: self.take("temperature")?,
            top_k: self.take("top_k")?,
            top_p: self.take("top_p")?,
            min_p: self.take("min_p")?,
            repetition_penalty: self.take("repetition_penalty")?,
            seed: self.take("seed")?.unwrap_or(0),
        })
    }
}

/// A caller's defaults, in place of SelfIE's.
pub(crate) struct Defaults {
    pub(crate) inject_layer: usize,
    pub(crate) max_new_tokens: usize,
    pub(crate) relevancy: bool,
}

/// Interpretation options for the reader `opened`, from keyword arguments.
pub(crate) fn interpretation(
    opened: &Opened,
    keywords: &mut Keywords<'_>,
    defaults: &Defaults,
) -> PyResult<Options> {
    let prompt = match keywords.take::<Bound<'_, PyAny>>("interpretation_prompt")? {
        None => opened.interpretation_prompt("summarize"),
        Some(name) if name.is_instance_of::<PyString>() => {
            opened.interpretation_prompt(&name.extract::<String>()?)
        }
        Some(parts) => {
            // An InterpretationPrompt of the drop-in package has its parts as a field.
            let parts = parts.getattr("parts").unwrap_or(parts);
            let json = parts.py().import("json")?.call_method1("dumps", (parts,))?;
            opened.read_interpretation_prompt(&json.extract::<String>()?)
        }
    };
    let mut prompt = prompt.map_err(Failed::from)?;
    if let Some(token) = keywords.take::<String>("placeholder")? {
        prompt = prompt.with_marker(&token).map_err(Failed::from)?;
    }
    let map = keywords.take::<PathBuf>("map")?;
    let map = map
        .map(|path| Map::open(&path))
        .transpose()
        .map_err(Failed::from)?;
    let layers = keywords.take_list("inject_layer")?.unwrap_or_else(|| {
        let of_map = map.as_ref().and_then(Map::writes_at);
        vec![of_map.unwrap_or(defaults.inject_layer)]
    });
    let strengths = keywords.take_list("strength")?.unwrap_or_else(|| vec![1.0]);
    let mode = match keywords.take::<String>("mode")? {
        None => InjectMode::Replace,
        Some(name) => match name.parse() {
            Ok(mode) => mode,
            Err(error) => return value_error(format!("{error}")),
        },
    };
    let controls = keywords
        .take_list::<String>("controls")?
        .unwrap_or_default();
    let controls = controls.iter().map(|name| name.parse::<Control>());
    let sampling = keywords.sampling()?;
    let drawn = GenerationConfig::resolve(None, &sampling).map_err(Failed::from)?;
    let mut injections = Vec::new();
    for layer in layers {
        injections.extend(strengths.iter().map(|&strength| InjectAt {
            layer,
            mode,
            strength,
        }));
    }
    Ok(Options {
        injections,
        max_new_tokens: keywords
            .take("max_new_tokens")?
            .unwrap_or(defaults.max_new_tokens),
        sampling: drawn.sampling,
        relevancy: keywords.take("relevancy")?.unwrap_or(defaults.relevancy),
        batch_size: keywords.take("batch_size")?,
        controls: controls.collect::<Result<_, _>>().map_err(Failed::from)?,
        control_seed: sampling.seed,
        map,
        samples: keywords.take("samples")?.unwrap_or(1),
        span: keywords.take("span")?.unwrap_or(1),
        cut: keywords.take("stop")?.map(Cut::BeforeLast),
        ..opened
            .interpret_options_with(prompt)
            .map_err(Failed::from)?
    })
}
