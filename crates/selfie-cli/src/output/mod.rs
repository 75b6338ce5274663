//! Where rows go: JSON lines, CSV, Parquet, a page or a figure, or a table.

mod csv;
mod jsonl;
mod picture;
mod table;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use selfie::control::OutputFile;
use selfie::interp::{Row, RowFields};
use selfie_explorer::Commands;
use selfie_sweep::ParquetRows;

use crate::args::FormatArg;
use crate::error::{CliError, Result, usage};

/// A format, with the file or stream that it writes to.
trait RowFormat {
    /// Writes a row. Where the format allows it, the operating system has the row when this returns.
    fn write(&mut self, row: &Row) -> io::Result<()>;
    /// Writes what comes after the last row.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where rows will go, checked before any row exists.
pub(crate) struct RowTarget {
    format: FormatArg,
    colours: bool,
    /// `None` is stdout.
    out: Option<OutputFile>,
    /// Metadata for formats that have a place for it, beside the program's version.
    metadata: Vec<(&'static str, String)>,
}

/// Rows as columns.
impl<W: Write + Send> RowFormat for ParquetRows<W> {
    fn write(&mut self, row: &Row) -> io::Result<()> {
        ParquetRows::write(self, row.clone())
    }

    fn finish(&mut self) -> io::Result<()> {
        ParquetRows::finish(self)
    }
}

impl RowTarget {
    /// A file, or stdout. Without `format` the file's extension decides.
    pub(crate) fn new(path: Option<&Path>, format: Option<FormatArg>) -> Result<Self> {
        let terminal = path.is_none() && io::stdout().is_terminal();
        let format = match (format, path) {
            (Some(format), _) => format,
            (None, Some(path)) => by_extension(path)?,
            (None, None) if terminal => FormatArg::Table,
            (None, None) => FormatArg::Jsonl,
        };
        Ok(Self {
            format,
            colours: terminal && std::env::var_os("NO_COLOR").is_none(),
            out: path.map(OutputFile::new).transpose()?,
            metadata: Vec::new(),
        })
    }

    /// Adds metadata.
    pub(crate) fn with_metadata(self, metadata: Vec<(&'static str, String)>) -> Self {
        Self { metadata, ..self }
    }

    /// Starts writing. Rows have these fields; `commands` reproduce them.
    pub(crate) fn open(mut self, fields: &RowFields, commands: Commands) -> Result<RowWriter> {
        let to: Box<dyn Write + Send> = match &mut self.out {
            // Not locked: a lock is bound to this thread, and formats write whole rows at a time.
            None => Box::new(BufWriter::new(io::stdout())),
            Some(out) => Box::new(BufWriter::new(out.file()?)),
        };
        let format: Box<dyn RowFormat> = match self.format {
            FormatArg::Jsonl => Box::new(jsonl::Jsonl(to)),
            FormatArg::Csv => Box::new(csv::Csv::new(to)),
            FormatArg::Html | FormatArg::Svg => {
                Box::new(picture::Picture::new(to, self.format, commands))
            }
            FormatArg::Table => Box::new(table::Table::new(to, self.colours)),
            FormatArg::Parquet => {
                let version = ("selfie.version", env!("CARGO_PKG_VERSION").to_owned());
                let metadata = [&[version], &*self.metadata].concat();
                let parquet = ParquetRows::new(to, fields, &metadata);
                Box::new(parquet.map_err(|error| failed(self.out.as_ref(), error))?)
            }
        };
        Ok(RowWriter {
            format,
            out: self.out,
            broken: false,
        })
    }
}

/// Writes rows to a file or to stdout. If dropped without `finish` or `keep`, it leaves no file.
pub(crate) struct RowWriter {
    format: Box<dyn RowFormat>,
    out: Option<OutputFile>,
    /// Whether writing a row failed, possibly in the middle.
    broken: bool,
}

impl RowWriter {
    pub(crate) fn write(&mut self, row: &Row) -> Result<()> {
        let written = self.format.write(row);
        self.broken |= written.is_err();
        written.map_err(|error| failed(self.out.as_ref(), error))
    }

    /// Ends the output after the last row: the file takes its place.
    pub(crate) fn finish(mut self) -> Result<()> {
        let finished = self.format.finish();
        let finished = finished.map_err(|error| failed(self.out.as_ref(), error));
        match (finished, self.out) {
            (Ok(()), Some(out)) => Ok(out.finish()?),
            (finished, None) => finished,
            (Err(error), Some(out)) => Err(match out.leave() {
                Some(partial) => CliError::Stopped {
                    error: Box::new(error),
                    done: format!("the rows written so far are in {}", partial.display()),
                },
                None => error,
            }),
        }
    }

    /// Ends the output before the last row: makes a readable file of the rows so far. Returns where it is, as the end
    /// of a sentence.
    pub(crate) fn keep(mut self) -> String {
        self.broken |= self.format.finish().is_err();
        let Some(out) = self.out else {
            return String::new();
        };
        let path = out.path().display().to_string();
        if self.broken {
            // Not in place of a readable file.
            let partial = out.leave().map(|partial| partial.display().to_string());
            return format!(
                " to {}; the last rows may be cut off",
                partial.unwrap_or(path)
            );
        }
        match out.keep() {
            Ok(None) => format!(" to {path}"),
            Ok(Some(partial)) => format!(" to {} (the older {path} was kept)", partial.display()),
            Err(error) => format!("; {error}"),
        }
    }
}

fn failed(out: Option<&OutputFile>, error: io::Error) -> CliError {
    match out {
        None => CliError::Stdout(error),
        Some(out) => out.failed(error).into(),
    }
}

fn by_extension(path: &Path) -> Result<FormatArg> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl" | "json") => Ok(FormatArg::Jsonl),
        Some("csv") => Ok(FormatArg::Csv),
        Some("parquet") => Ok(FormatArg::Parquet),
        Some("html" | "htm") => Ok(FormatArg::Html),
        Some("svg") => Ok(FormatArg::Svg),
        Some("txt") => Ok(FormatArg::Table),
        _ => usage(format!(
            "--out {}: the name must end in .jsonl, .csv, .parquet, .html, .svg or .txt; or give --format",
            path.display()
        )),
    }
}
