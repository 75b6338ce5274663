//! JSON lines: one object per row.

use std::io::{self, Write};

use selfie::interp::Row;

use super::RowFormat;

pub(super) struct Jsonl<W>(pub(super) W);

impl<W: Write> RowFormat for Jsonl<W> {
    fn write(&mut self, row: &Row) -> io::Result<()> {
        writeln!(self.0, "{}", serde_json::to_string(row)?)?;
        self.0.flush()
    }
}
