//! The cells of a call: listed, or all pairs of selected layers and tokens.

use pyo3::prelude::*;
use pyo3::types::{PySlice, PyString};
use selfie::Opened;
use selfie::interp::Cell;

use crate::error::{Result, value_error};
use crate::prompt::Prompts;

/// All pairs of layers and tokens, by prompt and then layer.
pub(crate) fn grid(
    opened: &Opened,
    prompts: &Prompts,
    layers: Option<&Bound<'_, PyAny>>,
    tokens: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<Cell>> {
    let layers = selection("layers", layers, opened.config.n_layers + 1)?;
    let mut cells = Vec::new();
    for (prompt, len) in lens(opened, prompts)?.into_iter().enumerate() {
        let tokens = selection("tokens", tokens, len)?;
        for &layer in &layers {
            cells.extend(tokens.iter().map(|&token| Cell {
                prompt,
                layer,
                token,
            }));
        }
    }
    Ok(cells)
}

/// Cells listed one by one: `(layer, token)` of every prompt, or `(prompt, layer, token)`.
pub(crate) fn listed(
    opened: &Opened,
    prompts: &Prompts,
    cells: &[Vec<isize>],
) -> PyResult<Vec<Cell>> {
    let lens = lens(opened, prompts)?;
    let layers = opened.config.n_layers + 1;
    let mut listed = Vec::new();
    let mut push = |prompt: usize, layer, token| -> PyResult<()> {
        listed.push(Cell {
            prompt,
            layer: from_end("layers", layer, layers)?,
            // A missing prompt is reported with the other errors.
            token: from_end("tokens", token, lens.get(prompt).copied().unwrap_or(0))?,
        });
        Ok(())
    };
    for prompt in 0..lens.len() {
        for cell in cells {
            if let &[layer, token] = &cell[..] {
                push(prompt, layer, token)?;
            }
        }
    }
    for cell in cells {
        match cell[..] {
            [_, _] => {}
            [prompt, layer, token] => {
                push(from_end("prompts", prompt, lens.len())?, layer, token)?;
            }
            _ => {
                return value_error("cells: expected (layer, token) or (prompt, layer, token)");
            }
        }
    }
    Ok(listed)
}

/// Selects from `0..len`: everything (`None` or `"all"`), a number, a slice, or any iterable of numbers. A negative
/// number counts from the end.
pub(crate) fn selection(
    name: &str,
    chosen: Option<&Bound<'_, PyAny>>,
    len: usize,
) -> PyResult<Vec<usize>> {
    let Some(chosen) = chosen.filter(|chosen| !chosen.is_none()) else {
        return Ok((0..len).collect());
    };
    if let Ok(slice) = chosen.cast::<PySlice>() {
        let all = pyo3::types::PyRange::new(chosen.py(), 0, len as isize)?;
        return selection(name, Some(&all.get_item(slice)?), len);
    }
    if chosen.is_instance_of::<PyString>() {
        return match &*chosen.extract::<String>()? {
            "all" => Ok((0..len).collect()),
            other => value_error(format!(
                "{name}=\"{other}\": expected \"all\", a number, a slice, or numbers"
            )),
        };
    }
    match chosen.try_iter() {
        Err(_) => Ok(vec![from_end(name, chosen.extract()?, len)?]),
        Ok(numbers) => numbers
            .map(|number| from_end(name, number?.extract()?, len))
            .collect(),
    }
}

/// Resolves an index; negative ones count from the end of `0..len`. The crates below check the upper bound.
pub(crate) fn from_end(name: &str, number: isize, len: usize) -> PyResult<usize> {
    let index = match usize::try_from(number) {
        Ok(index) => Some(index),
        Err(_) => len.checked_sub(number.unsigned_abs()),
    };
    match index {
        Some(index) => Ok(index),
        None => value_error(format!("{name}: {number} is out of range; there are {len}")),
    }
}

/// The number of tokens of each prompt.
fn lens(opened: &Opened, prompts: &Prompts) -> Result<Vec<usize>> {
    let len = |text: &String| Ok(opened.encode_as(text, prompts.bos)?.len());
    prompts.texts.iter().map(len).collect()
}
