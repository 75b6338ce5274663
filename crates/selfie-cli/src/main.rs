//! The `selfie` program.
#![forbid(unsafe_code)]

mod args;
mod cells;
mod chat;
mod console;
mod control;
mod control_args;
mod control_report;
#[cfg(test)]
mod docs;
mod drift;
mod edit;
mod error;
mod eval;
mod generate;
mod info;
mod interpret;
mod map;
mod merge;
mod open;
mod output;
mod prompts;
mod random;
mod reader;
mod reader_args;
mod report;
mod reproduce;
mod scan;
mod scan_runs;
mod score;
mod serve;
mod stop;
mod sweep;
mod trace;

use std::io;
use std::panic;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use error::{CliError, Result};
use selfie::kernels::LastWords;

#[global_allocator]
static ALLOCATOR: LastWords = LastWords;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // A panic is a bug: print one line, and no backtrace, on the user's terminal.
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(|| run(cli.command));
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if error.is_closed_pipe() => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            eprintln!("error: internal error, please report it: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    // Rayon would start its threads at their first use, and panic if it cannot.
    rayon::ThreadPoolBuilder::new()
        .build_global()
        .map_err(|error| CliError::Threads(io::Error::other(error)))?;
    match command {
        Command::Info(args) => info::info(&args),
        Command::Tokens(args) => info::tokens(&args),
        Command::Generate(args) => generate::generate(&args),
        Command::Trace(args) => trace::trace(&args),
        Command::Interpret(args) => interpret::interpret(&args),
        Command::InterpretVectors(args) => interpret::interpret_vectors(&args),
        Command::Sweep(args) => sweep::sweep(&args),
        Command::Merge(args) => merge::merge(&args),
        Command::Report(args) => report::report(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Control(command) => control::control(&command),
        Command::Edit(command) => edit::edit(&command),
        Command::Eval(command) => eval::eval(&command),
        Command::Reader(command) => reader::reader(&command),
        Command::Score(args) => score::score(&args),
        Command::Map(command) => map::map(&command),
        Command::RandomCheckpoint(args) => random::random_checkpoint(&args),
    }
}

/// Prints help in full, and errors on one line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return ExitCode::from(error.exit_code() as u8);
    }
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or(&text);
    let line: Vec<&str> = message.split_whitespace().collect();
    eprintln!("{} (see --help)", line.join(" "));
    ExitCode::from(2)
}
