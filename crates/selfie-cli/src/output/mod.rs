//! Where rows go: JSON lines, CSV, or a table.

mod csv;
mod table;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use selfie_interp::Row;

use crate::args::FormatArg;
use crate::error::{CliError, Result, usage};
use table::Table;

/// Writes rows to a file or to stdout, each one at once.
pub(crate) struct RowWriter {
    out: Box<dyn Write>,
    /// `None` is stdout.
    path: Option<PathBuf>,
    format: Format,
}

enum Format {
    Jsonl,
    Csv { header_written: bool },
    Table(Table),
}

impl RowWriter {
    /// Creates the file, or takes stdout. Without `format` the file's name decides.
    pub(crate) fn open(path: Option<&Path>, format: Option<FormatArg>) -> Result<Self> {
        let terminal = path.is_none() && io::stdout().is_terminal();
        let format = match (format, path) {
            (Some(format), _) => format,
            (None, Some(path)) => by_extension(path)?,
            (None, None) if terminal => FormatArg::Table,
            (None, None) => FormatArg::Jsonl,
        };
        let format = match format {
            FormatArg::Jsonl => Format::Jsonl,
            FormatArg::Csv => Format::Csv {
                header_written: false,
            },
            FormatArg::Table => {
                let colours = terminal && std::env::var_os("NO_COLOR").is_none();
                Format::Table(Table::new(colours))
            }
        };
        let out: Box<dyn Write> = match path {
            None => Box::new(io::stdout().lock()),
            Some(path) => {
                let file = File::create(path).map_err(|source| CliError::Write {
                    path: path.to_owned(),
                    source,
                })?;
                Box::new(BufWriter::new(file))
            }
        };
        Ok(Self {
            out,
            path: path.map(Path::to_owned),
            format,
        })
    }

    pub(crate) fn write(&mut self, row: &Row) -> Result<()> {
        let out = &mut self.out;
        let written = match &mut self.format {
            Format::Jsonl => serde_json::to_string(row)
                .map_err(io::Error::from)
                .and_then(|json| writeln!(out, "{json}")),
            Format::Csv { header_written } => {
                let first = !std::mem::replace(header_written, true);
                csv::write(out, row, first)
            }
            Format::Table(table) => table.write(out, row),
        };
        written
            .and_then(|()| self.out.flush())
            .map_err(|source| self.failed(source))
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> CliError {
        match &self.path {
            None => CliError::Stdout(source),
            Some(path) => CliError::Write {
                path: path.clone(),
                source,
            },
        }
    }
}

/// An error now rather than after the work, and nothing changed in a file that is there.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let existed = path.exists();
    let opened = OpenOptions::new().append(true).create(true).open(path);
    if let Err(source) = opened {
        return Err(CliError::Write {
            path: path.to_owned(),
            source,
        });
    }
    if !existed {
        // Only this call can have made it.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn by_extension(path: &Path) -> Result<FormatArg> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "json") => Ok(FormatArg::Jsonl),
        Some("csv") => Ok(FormatArg::Csv),
        Some("txt") => Ok(FormatArg::Table),
        _ => usage(format!(
            "--out {}: the name has to end in .jsonl, .csv or .txt, or give --format",
            path.display()
        )),
    }
}
