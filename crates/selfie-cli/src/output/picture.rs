//! A page to explore, or a figure: a grid of layers and tokens, written after the last row.

use std::io::{self, Write};

use selfie::interp::Row;
use selfie_explorer::{Commands, Explorer, ExplorerError, Run};

use super::RowFormat;
use crate::args::FormatArg;

pub(super) struct Picture<W> {
    out: W,
    format: FormatArg,
    commands: Commands,
    rows: Vec<selfie_explorer::Row>,
}

impl<W> Picture<W> {
    pub(super) fn new(out: W, format: FormatArg, commands: Commands) -> Self {
        Self {
            out,
            format,
            commands,
            rows: Vec::new(),
        }
    }

    fn render(&mut self) -> Result<String, ExplorerError> {
        let run = Run {
            name: "rows".to_owned(),
            rows: std::mem::take(&mut self.rows),
        };
        let explorer = Explorer::new(run, None, &self.commands)?;
        if self.format == FormatArg::Svg {
            Ok(explorer.to_svg())
        } else {
            explorer.to_html()
        }
    }
}

impl<W: Write> RowFormat for Picture<W> {
    fn write(&mut self, row: &Row) -> io::Result<()> {
        let row = serde_json::to_string(row).and_then(|json| serde_json::from_str(&json));
        self.rows.push(row?);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        let text = self.render().map_err(io::Error::other)?;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}
