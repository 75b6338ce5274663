//! CSV: a header, and lists as JSON.

use std::io::{self, Write};

use csv::Writer;
use selfie::interp::Row;
use serde_json::{Map, Value};

use super::RowFormat;

pub(super) struct Csv<W: Write> {
    writer: Writer<W>,
    header_written: bool,
}

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            writer: Writer::from_writer(out),
            header_written: false,
        }
    }
}

impl<W: Write> RowFormat for Csv<W> {
    fn write(&mut self, row: &Row) -> io::Result<()> {
        // Go through text, so that numbers have the same digits as in the JSON lines.
        let fields: Map<String, Value> = serde_json::from_str(&serde_json::to_string(row)?)?;
        if !self.header_written {
            self.writer.write_record(fields.keys())?;
            self.header_written = true;
        }
        self.writer.write_record(fields.values().map(cell))?;
        self.writer.flush()
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
