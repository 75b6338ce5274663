//! `selfie report`: existing rows as a page or a figure.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use selfie::control::OutputFile;
use selfie_explorer::{Commands, Explorer, Row, Run, read_rows};

use crate::args::ReportArgs;
use crate::cells::{numbers, selector};
use crate::error::{Result, usage};

pub(crate) fn report(args: &ReportArgs) -> Result<()> {
    let figure = match args
        .out
        .extension()
        .and_then(|extension| extension.to_str())
    {
        Some("html" | "htm") => false,
        Some("svg") => true,
        _ => {
            return usage(format!(
                "--out {}: the name must end in .html (a page) or .svg (a figure)",
                args.out.display()
            ));
        }
    };
    let mut out = OutputFile::new(&args.out)?;
    let run = run(&args.rows, args)?;
    let against = match &args.against[..] {
        [] => None,
        files => Some(self::run(files, args)?),
    };
    let explorer = Explorer::new(run, against, &Commands::FromRows)?;
    let text = if figure {
        explorer.to_svg()
    } else {
        explorer.to_html()?
    };
    let written = out.file()?.write_all(text.as_bytes());
    written.map_err(|error| out.failed(error))?;
    Ok(out.finish()?)
}

/// The rows of some files that `--layers` and `--tokens` select.
fn run(files: &[PathBuf], args: &ReportArgs) -> Result<Run> {
    let mut rows = Vec::new();
    for file in files {
        if !file.is_dir() {
            rows.extend(read_rows(file)?);
            continue;
        }
        let parts = selfie_sweep::files_of(file)?;
        if parts.is_empty() {
            return usage(format!(
                "{}: the folder has no rows of a sweep yet",
                file.display()
            ));
        }
        for part in parts {
            rows.extend(read_rows(&part)?);
        }
    }
    let everywhere = args.rows.iter().chain(&args.against);
    let name = |file: &PathBuf| {
        let same = everywhere
            .clone()
            .filter(|other| other.file_name() == file.file_name());
        match file.file_name() {
            Some(name) if same.count() == 1 => Path::new(name).display().to_string(),
            _ => file.display().to_string(),
        }
    };
    let names: Vec<String> = files.iter().map(name).collect();
    Ok(Run {
        name: names.join(", "),
        rows: chosen(rows, args)?,
    })
}

fn chosen(mut rows: Vec<Row>, args: &ReportArgs) -> Result<Vec<Row>> {
    if args.layers != "all" {
        let layers = rows.iter().filter_map(|row| row.layer);
        let layers = numbers(
            "layers",
            &args.layers,
            layers.max().map_or(0, |last| last + 1),
        )?;
        rows.retain(|row| row.layer.is_some_and(|layer| layers.contains(&layer)));
    }
    if args.tokens == "all" {
        return Ok(rows);
    }
    let mut lengths: HashMap<String, usize> = HashMap::new();
    for row in &rows {
        let length = lengths.entry(row.prompt.clone()).or_default();
        *length = (*length).max(row.token + 1);
    }
    let selector = selector(&args.tokens)?;
    if selector.needs_text() {
        return usage(format!(
            "--tokens {selector}: rows do not hold all tokens of their prompts, so words cannot be found; give numbers"
        ));
    }
    let mut chosen: HashMap<String, Vec<usize>> = HashMap::new();
    for (prompt, length) in lengths {
        let selected = selector.select("", &vec![0..0; length]);
        if let Some(missed) = selected.missed.first() {
            return usage(format!("--tokens {selector}: {missed}"));
        }
        chosen.insert(prompt, selected.tokens);
    }
    rows.retain(|row| {
        chosen
            .get(&row.prompt)
            .is_some_and(|tokens| tokens.contains(&row.token))
    });
    Ok(rows)
}
