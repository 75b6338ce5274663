//! Rows of `selfie interpret` as a page, or a figure.
//!
//! `cargo run --release -p selfie-explorer --example page ROWS.jsonl OUT.html|OUT.svg`

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use selfie_explorer::{Commands, Explorer, Run, read_rows};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, out] = &args[..] else {
        return Err("give two files: ROWS.jsonl OUT.html|OUT.svg".into());
    };
    let rows = read_rows(Path::new(name))?;
    let run = Run {
        name: name.clone(),
        rows,
    };
    let explorer = Explorer::new(run, None, &Commands::FromRows)?;
    let shown = if out.ends_with(".svg") {
        explorer.to_svg()
    } else {
        explorer.to_html()?
    };
    std::fs::write(out, shown).map_err(|e| format!("cannot write {out}: {e}"))?;
    println!("{out}");
    Ok(())
}
