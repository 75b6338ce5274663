//! The prompts that are given: where they come from, and what is told of them.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use selfie::Opened;
use selfie::interp::{InterpretationPrompt, LocatedPrompt};

use crate::args::{BosArg, InterpretArgs, ModelArgs};
use crate::console::tell;
use crate::error::{CliError, Result, usage};

/// The prompts of `--prompt`, or those of `--prompts`.
pub(crate) fn prompts(args: &InterpretArgs) -> Result<Vec<String>> {
    let Some(path) = &args.prompts else {
        return Ok(args.prompt.clone());
    };
    let text = read(path).map_err(|source| CliError::ReadPrompts {
        path: path.clone(),
        source,
    })?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let prompts: Vec<String> = lines.map(prompt_of_line).collect();
    if prompts.is_empty() {
        return usage(format!(
            "--prompts {}: there is no prompt in it",
            path.display()
        ));
    }
    Ok(prompts)
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}

/// A JSON string is what it stands for, such as a prompt with line breaks; any other line is the prompt itself.
fn prompt_of_line(line: &str) -> String {
    serde_json::from_str(line).unwrap_or_else(|_| line.to_owned())
}

/// Tells of each prompt that has bos twice; of several, by its index.
pub(crate) fn tell_of_prompts(
    opened: &Opened,
    prompts: &[impl AsRef<str>],
    quiet: bool,
) -> Result<()> {
    for (index, prompt) in prompts.iter().enumerate() {
        match opened.prompt_note(prompt.as_ref())? {
            Some(note) if prompts.len() > 1 => tell(quiet, format!("prompt {index}: {note}")),
            Some(note) => tell(quiet, note),
            None => {}
        }
    }
    Ok(())
}

/// The interpretation prompt of `--interpretation-prompt`, or of `--template`.
pub(crate) fn interpretation_prompt(
    json: Option<&str>,
    template: Option<&str>,
) -> Result<InterpretationPrompt> {
    Ok(match json {
        Some(json) => json.parse()?,
        None => InterpretationPrompt::template(template.unwrap_or("summarize"))?,
    })
}

/// Tells of what is wrong with the rows of an interpretation prompt's placeholders, and of a second bos.
pub(crate) fn tell_of_interpretation_prompt(
    reader: &Opened,
    prompt: &InterpretationPrompt,
    quiet: bool,
) -> Result<LocatedPrompt> {
    let located = prompt.locate_as(&reader.tokenizer, reader.options.bos)?;
    let bos = reader.prompt_note(&located.text)?;
    let bos = bos.map(|note| note.to_string());
    for note in located.notes().chain(bos.as_deref()) {
        tell(quiet, format!("the interpretation prompt: {note}"));
    }
    Ok(located)
}

/// An error for a command whose prompts begin as the checkpoint says.
pub(crate) fn only_auto_bos(args: &ModelArgs) -> Result<()> {
    if args.bos == BosArg::Auto {
        return Ok(());
    }
    usage("--bos: this command knows only auto, as the checkpoint says")
}
