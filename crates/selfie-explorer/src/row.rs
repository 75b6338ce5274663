//! Rows of `selfie interpret`, and files of them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{ExplorerError, Result};

/// The interpretation of one embedding: the fields of a row that a picture needs. See `selfie_interp::Row`.
///
/// A `selfie_interp::Row` converts through JSON: `serde_json::from_value(serde_json::to_value(&row)?)?`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[allow(missing_docs)]
pub struct Row {
    pub prompt: String,
    pub interpretation: String,
    pub layer: Option<usize>,
    pub token: usize,
    pub token_decoded: Option<String>,
    /// One value per generated token; empty if not computed.
    pub relevancy_score: Vec<f32>,
    pub pieces: Vec<String>,
    pub inject_layer: usize,
    pub mode: String,
    pub strength: f32,
    pub model: String,
    pub key: Option<String>,
    pub reader: Option<String>,
    pub map: Option<String>,
    /// One value per generated token; empty in rows of older versions.
    #[serde(default)]
    pub logprobs: Vec<f32>,
    /// All other fields: two for each control.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Row {
    /// The controls: name, interpretation, and evidence in nats per token (`None` if not finite).
    pub fn controls(&self) -> impl Iterator<Item = (&str, &str, Option<f32>)> {
        self.rest.iter().filter_map(|(field, value)| {
            let name = field.strip_suffix("_interpretation")?;
            let evidence = self.rest.get(&format!("{name}_evidence"))?;
            Some((name, value.as_str()?, evidence.as_f64().map(|x| x as f32)))
        })
    }
}

/// The rows of a `.jsonl` or `.parquet` file, in order.
///
/// # Errors
///
/// The file cannot be read, has another extension, or contains something else.
pub fn read_rows(path: &Path) -> Result<Vec<Row>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    match extension {
        Some("jsonl" | "json") => read_jsonl(path),
        Some("parquet") => read_parquet(path),
        _ => Err(ExplorerError::Extension {
            path: path.to_owned(),
        }),
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| ExplorerError::Read {
        path: path.to_owned(),
        source,
    })
}

fn read_jsonl(path: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (index, line) in BufReader::new(open(path)?).lines().enumerate() {
        let line = line.map_err(|source| ExplorerError::Read {
            path: path.to_owned(),
            source,
        })?;
        if line.trim().is_empty() {
            continue;
        }
        rows.push(
            serde_json::from_str(&line).map_err(|error| ExplorerError::NotARow {
                path: path.to_owned(),
                place: format!("line {}", index + 1),
                reason: without_position(&error),
            })?,
        );
    }
    Ok(rows)
}

fn read_parquet(path: &Path) -> Result<Vec<Row>> {
    let not_parquet = |error: parquet::errors::ParquetError| ExplorerError::NotParquet {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let reader = SerializedFileReader::new(open(path)?).map_err(not_parquet)?;
    let mut rows = Vec::new();
    for (index, row) in reader.get_row_iter(None).map_err(not_parquet)?.enumerate() {
        let value = row.map_err(not_parquet)?.to_json_value();
        rows.push(
            serde_json::from_value(value).map_err(|error| ExplorerError::NotARow {
                path: path.to_owned(),
                place: format!("row {}", index + 1),
                reason: without_position(&error),
            })?,
        );
    }
    Ok(rows)
}

/// The message of serde without its "at line 1 column 5", since the line number is that of the file.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
