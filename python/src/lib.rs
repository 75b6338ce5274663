//! The Python module `selfie_rs._selfie`: the crate `selfie` for notebooks. Users import `selfie_rs/__init__.py`;
//! `selfie_rs/_selfie.pyi` describes this module's API in Python's terms.
#![deny(unsafe_code)]

mod arrow;
mod cells;
mod control;
mod edit;
mod error;
mod model;
mod options;
mod prompt;
mod row;
mod rows;
mod run;
mod text;
mod trace;

use pyo3::prelude::*;
use selfie_explorer::{Commands, Explorer, Run};

/// A self-contained web page that shows rows, each given as JSON.
#[pyfunction]
fn page(rows: Vec<String>, name: String) -> PyResult<String> {
    let read = |json: &String| serde_json::from_str(json);
    let rows = rows.iter().map(read).collect::<Result<_, _>>();
    let rows = rows.map_err(|error| {
        pyo3::exceptions::PyValueError::new_err(format!("not rows of an interpretation: {error}"))
    })?;
    let explorer = Explorer::new(Run { name, rows }, None, &Commands::FromRows);
    let page = explorer.and_then(|explorer| explorer.to_html());
    page.map_err(error::explorer_error)
}

/// The rows of a `.jsonl` or `.parquet` file from the program, as a web page.
#[pyfunction]
fn page_of_file(path: std::path::PathBuf) -> PyResult<String> {
    let name = path.display().to_string();
    let rows = selfie_explorer::read_rows(&path).map_err(error::explorer_error)?;
    let explorer = Explorer::new(Run { name, rows }, None, &Commands::FromRows);
    let page = explorer.and_then(|explorer| explorer.to_html());
    page.map_err(error::explorer_error)
}

#[pymodule]
fn _selfie(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::Model>()?;
    module.add_class::<text::Token>()?;
    module.add_class::<text::Text>()?;
    module.add_class::<rows::Rows>()?;
    module.add_class::<rows::RowIterator>()?;
    module.add_class::<row::Row>()?;
    module.add_class::<trace::Trace>()?;
    module.add_class::<edit::Edit>()?;
    module.add_class::<control::Outcome>()?;
    module.add_function(wrap_pyfunction!(control::supervised, module)?)?;
    module.add_function(wrap_pyfunction!(control::reinforce, module)?)?;
    module.add_function(wrap_pyfunction!(page, module)?)?;
    module.add_function(wrap_pyfunction!(page_of_file, module)?)
}
