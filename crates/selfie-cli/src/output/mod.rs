//! Where rows go: JSON lines, CSV, Parquet, a web page, or a table.

mod csv;
mod html;
mod jsonl;
mod parquet;
mod table;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use selfie_interp::{Control, Row};

use crate::args::FormatArg;
use crate::error::{CliError, Result, usage};

/// A format, with the file or stream that it writes to.
trait RowFormat {
    /// Writes a row; when it returns the row is with the operating system, where the format allows that.
    fn write(&mut self, row: &Row) -> io::Result<()>;
    /// Writes what comes after the last row.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes rows to a file or to stdout.
pub(crate) struct RowWriter {
    format: Box<dyn RowFormat>,
    /// `None` is stdout.
    path: Option<PathBuf>,
}

impl RowWriter {
    /// Creates the file, or takes stdout. Without `format` the file's name decides. Rows come with these controls.
    pub(crate) fn open(
        path: Option<&Path>,
        format: Option<FormatArg>,
        controls: &[Control],
    ) -> Result<Self> {
        let terminal = path.is_none() && io::stdout().is_terminal();
        let format = match (format, path) {
            (Some(format), _) => format,
            (None, Some(path)) => by_extension(path)?,
            (None, None) if terminal => FormatArg::Table,
            (None, None) => FormatArg::Jsonl,
        };
        let out: Box<dyn Write + Send> = match path {
            // Not locked: a lock is bound to this thread. Formats write whole rows at a time.
            None => Box::new(BufWriter::new(io::stdout())),
            Some(path) => {
                let file = File::create(path).map_err(|source| failed(Some(path), source))?;
                Box::new(BufWriter::new(file))
            }
        };
        let format: Box<dyn RowFormat> = match format {
            FormatArg::Jsonl => Box::new(jsonl::Jsonl(out)),
            FormatArg::Csv => Box::new(csv::Csv::new(out)),
            FormatArg::Html => Box::new(html::Html::new(out)),
            FormatArg::Parquet => {
                let parquet = parquet::Parquet::new(out, controls);
                Box::new(parquet.map_err(|source| failed(path, source))?)
            }
            FormatArg::Table => {
                let colours = terminal && std::env::var_os("NO_COLOR").is_none();
                Box::new(table::Table::new(out, colours))
            }
        };
        Ok(Self {
            format,
            path: path.map(Path::to_owned),
        })
    }

    pub(crate) fn write(&mut self, row: &Row) -> Result<()> {
        let written = self.format.write(row);
        written.map_err(|source| failed(self.path.as_deref(), source))
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        let finished = self.format.finish();
        finished.map_err(|source| failed(self.path.as_deref(), source))
    }
}

fn failed(path: Option<&Path>, source: io::Error) -> CliError {
    match path {
        None => CliError::Stdout(source),
        Some(path) => CliError::Write {
            path: path.to_owned(),
            source,
        },
    }
}

/// An error now rather than after the work, and nothing changed in a file that is there.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let existed = path.exists();
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|source| failed(Some(path), source))?;
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
        Some("parquet") => Ok(FormatArg::Parquet),
        Some("html" | "htm") => Ok(FormatArg::Html),
        Some("txt") => Ok(FormatArg::Table),
        _ => usage(format!(
            "--out {}: the name has to end in .jsonl, .csv, .parquet, .html or .txt, or give --format",
            path.display()
        )),
    }
}
