//! The program accepts every command in README and the book. `tests/book.rs` runs those that need no real model.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::args::Cli;

/// The words of each `selfie` command in the shell blocks of a page.
fn commands(page: &str) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut in_shell = false;
    let mut command = String::new();
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            in_shell = language.split(',').next() == Some("sh");
        } else if in_shell {
            match line.strip_suffix('\\') {
                Some(begun) => command += begun,
                None => {
                    command += line;
                    commands.extend(words(&std::mem::take(&mut command)));
                }
            }
        }
    }
    commands
}

/// The words of a command, if it runs this program.
fn words(command: &str) -> Option<Vec<String>> {
    let own = command
        .strip_prefix("cargo run --release -- ")
        .map(|rest| format!("selfie {rest}"));
    let command = own.as_deref().unwrap_or(command);
    if !command.starts_with("selfie ") {
        return None;
    }
    let words = shlex::split(command);
    Some(words.unwrap_or_else(|| panic!("a quotation mark is missing: {command}")))
}

/// README, and the pages in a folder of the book and the folders below it.
fn pages(root: &Path) -> Vec<PathBuf> {
    let mut pages = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs/src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

#[test]
fn the_program_accepts_every_documented_command() {
    let mut seen = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for page in pages(&root) {
        for mut words in commands(&fs::read_to_string(&page).unwrap()) {
            // A page may elide options.
            words.retain(|word| word != "...");
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{}: {}\n{error}", page.display(), words.join(" "));
            }
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} commands were found");
}
