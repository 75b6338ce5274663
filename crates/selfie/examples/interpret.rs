//! Opens a model and interprets the last token of a prompt at every layer.
//!
//! `cargo run --release -p selfie --example interpret PROMPT [MODEL]`
//!
//! MODEL is a Hugging Face folder, a `.gguf` file, or `org/name` in the local cache; without it, it is the demo
//! checkpoint.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use selfie::interp::{Cell, Row};
use selfie::{Error, Model, OpenOptions, Source};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(prompt) = args.next() else {
        eprintln!("error: give a prompt, and a model if it is not the demo: PROMPT [MODEL]");
        return ExitCode::FAILURE;
    };
    let source = args
        .next()
        .map_or(Source::Demo, |model| Source::from(Path::new(&model)));
    match run(&prompt, source) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(prompt: &str, source: Source) -> Result<(), Error> {
    // `()` hears of no progress; an `Observer` of yours would.
    let model = Model::open(source, OpenOptions::default(), &mut ())?;
    let last = model.tokens(prompt)?.len() - 1;
    let cell = |layer| Cell {
        prompt: 0,
        layer,
        token: last,
    };
    let cells: Vec<Cell> = (0..=model.opened.config.n_layers).map(cell).collect();
    let options = model.opened.interpret_options()?;
    let swept = model.interpret(&[prompt], &cells, &options, &mut |row: Row| {
        println!("{:3} {}", row.layer.unwrap_or_default(), row.interpretation);
        ControlFlow::Continue(())
    })?;
    eprintln!("{} rows", swept.rows);
    Ok(())
}
