//! CSV: a header, lists as JSON.

use std::io::{self, Write};

use csv::WriterBuilder;
use selfie_interp::Row;
use serde_json::{Map, Value};

/// Writes a row, after the header when it is the `first`.
pub(super) fn write(out: &mut dyn Write, row: &Row, first: bool) -> io::Result<()> {
    // By way of text, so that numbers have the digits that the JSON lines have.
    let fields: Map<String, Value> = serde_json::from_str(&serde_json::to_string(row)?)?;
    let mut writer = WriterBuilder::new().from_writer(out);
    if first {
        writer.write_record(fields.keys())?;
    }
    writer.write_record(fields.values().map(cell))?;
    writer.flush()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
