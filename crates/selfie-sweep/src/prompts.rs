//! Files of prompts: text, CSV, JSON lines, Parquet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::{Map, Value};

use crate::error::read_error;
use crate::{Result, SweepError};

/// The default column of prompts.
const COLUMN: &str = "prompt";

/// Reads the prompts of a file, or of stdin for `-`. The extension decides the format:
///
/// - `.csv`, `.jsonl`, `.parquet`: one prompt per record, in the given column. Without a column name, it is `prompt`,
///   or the only column. A missing value is an empty prompt, so that indices match the records. A list or an object
///   (the messages of a chat) becomes its JSON. A line of `.jsonl` may also be a string.
/// - anything else: one prompt per line. Lines that are JSON strings are decoded, blank lines are skipped.
///
/// # Errors
/// The file cannot be read, does not match its extension, lacks the column, or has no prompts.
pub fn read_prompts(path: &Path, column: Option<&str>) -> Result<Vec<String>> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let prompts = match extension {
        Some("csv") => csv(path, column)?,
        Some("jsonl" | "ndjson") => jsonl(path, column)?,
        Some("parquet") => parquet(path, column)?,
        _ => lines(path)?,
    };
    if prompts.iter().all(String::is_empty) {
        return Err(SweepError::NoPrompts {
            path: path.to_owned(),
        });
    }
    Ok(prompts)
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut text)
    } else {
        File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    }
    .map_err(read_error(path))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    // A JSON string is decoded, so that a prompt can have line breaks; any other line is the prompt itself.
    Ok(lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.to_owned()))
        .collect())
}

fn csv(path: &Path, column: Option<&str>) -> Result<Vec<String>> {
    let wrong = |error: csv::Error| SweepError::Prompts {
        path: path.to_owned(),
        place: match error.position() {
            Some(position) => format!("line {}", position.line()),
            None => "CSV".to_owned(),
        },
        reason: error.to_string(),
    };
    let mut reader = csv::Reader::from_reader(File::open(path).map_err(read_error(path))?);
    let names: Vec<String> = reader
        .headers()
        .map_err(wrong)?
        .iter()
        .map(str::to_owned)
        .collect();
    let at = column_of(path, &names, column)?;
    let prompt = |record: csv::Result<csv::StringRecord>| {
        let record = record.map_err(wrong)?;
        Ok(record.get(at).unwrap_or_default().to_owned())
    };
    reader.records().map(prompt).collect()
}

fn jsonl(path: &Path, column: Option<&str>) -> Result<Vec<String>> {
    let mut prompts = Vec::new();
    let lines = BufReader::new(File::open(path).map_err(read_error(path))?).lines();
    for (index, line) in lines.enumerate() {
        let line = line.map_err(read_error(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |reason: String| SweepError::Prompts {
            path: path.to_owned(),
            place: format!("line {}", index + 1),
            reason,
        };
        let value = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
        prompts.push(match value {
            Value::String(prompt) => prompt,
            Value::Object(mut record) => {
                let names: Vec<String> = record.keys().cloned().collect();
                // A record may leave out the value of a named column.
                match column {
                    Some(name) if index > 0 => record.remove(name).map_or_else(String::new, text),
                    _ => take(&mut record, &names[column_of(path, &names, column)?]),
                }
            }
            other => {
                return Err(wrong(format!(
                    "expected an object or a string, found {other}"
                )));
            }
        });
    }
    Ok(prompts)
}

fn take(record: &mut Map<String, Value>, name: &str) -> String {
    record.remove(name).map_or_else(String::new, text)
}

fn text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn parquet(path: &Path, column: Option<&str>) -> Result<Vec<String>> {
    let file = File::open(path).map_err(read_error(path))?;
    let wrong = |error: parquet::errors::ParquetError| SweepError::Prompts {
        path: path.to_owned(),
        place: "Parquet".to_owned(),
        reason: error.to_string(),
    };
    let reader = SerializedFileReader::new(file).map_err(wrong)?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<String> = schema
        .get_fields()
        .iter()
        .map(|field| field.name().to_owned())
        .collect();
    let at = column_of(path, &names, column)?;
    let mut prompts = Vec::new();
    for record in reader.get_row_iter(None).map_err(wrong)? {
        let record = record.map_err(wrong)?;
        prompts.push(match record.get_column_iter().nth(at) {
            None | Some((_, Field::Null)) => String::new(),
            Some((_, Field::Str(prompt))) => prompt.clone(),
            Some((_, other)) => text(other.to_json_value()),
        });
    }
    Ok(prompts)
}

/// The index of the column.
fn column_of(path: &Path, names: &[String], column: Option<&str>) -> Result<usize> {
    let wanted = column.unwrap_or(COLUMN);
    match (names.iter().position(|name| name == wanted), column) {
        (Some(at), _) => Ok(at),
        (None, None) if names.len() == 1 => Ok(0),
        _ => Err(SweepError::Column {
            path: path.to_owned(),
            column: wanted.to_owned(),
            found: names.to_vec(),
        }),
    }
}
