//! Reading prompts, and notes about them.

use selfie::Opened;
use selfie::interp::{InterpretationPrompt, LocatedPrompt};
use selfie::llama::Bos;
use selfie_sweep::read_prompts;

use crate::args::InterpretArgs;
use crate::console::print_note;
use crate::error::{CliError, Result};

/// The prompts of `--prompt` or `--prompts`.
pub(crate) fn prompts(args: &InterpretArgs) -> Result<Vec<String>> {
    match &args.prompts {
        None => Ok(args.prompt.clone()),
        Some(path) => read_prompts(path, args.column.as_deref()).map_err(CliError::Prompts),
    }
}

/// Notes each prompt that has bos twice, with its index if there are several.
pub(crate) fn note_double_bos(
    opened: &Opened,
    prompts: &[impl AsRef<str>],
    quiet: bool,
) -> Result<()> {
    for (index, prompt) in prompts.iter().enumerate() {
        match opened.prompt_note(prompt.as_ref())? {
            Some(note) if prompts.len() > 1 => print_note(quiet, format!("prompt {index}: {note}")),
            Some(note) => print_note(quiet, note),
            None => {}
        }
    }
    Ok(())
}

/// The interpretation prompt that `--interpretation-prompt` or `--template` gives for this reader.
pub(crate) fn interpretation_prompt(
    json: Option<&str>,
    template: Option<&str>,
    reader: &Opened,
) -> Result<InterpretationPrompt> {
    let Some(json) = json else {
        return Ok(reader.interpretation_prompt(template.unwrap_or("summarize"))?);
    };
    Ok(reader.read_interpretation_prompt(json)?)
}

/// Notes problems with an interpretation prompt's placeholders, and a second bos.
pub(crate) fn note_interpretation_prompt(
    reader: &Opened,
    prompt: &InterpretationPrompt,
    bos: Bos,
    quiet: bool,
) -> Result<LocatedPrompt> {
    let located = prompt.locate_as(&reader.tokenizer, bos)?;
    let bos = if prompt.rendered { Bos::Given } else { bos };
    let bos = reader.tokenizer.bos_note(&located.text, bos)?;
    let bos = bos.map(|note| note.to_string());
    for note in located.notes().chain(bos.as_deref()) {
        print_note(quiet, format!("interpretation prompt: {note}"));
    }
    Ok(located)
}

/// Notes that the reader has no chat template to format a named interpretation prompt with.
pub(crate) fn note_missing_template(
    json: Option<&str>,
    reader: &Opened,
    quiet: bool,
) -> Result<()> {
    if json.is_none() && reader.chat_template()?.is_none() {
        print_note(
            quiet,
            "the model has no chat template: the interpretation prompt uses LLaMA 2's format, with [INST]; \
             --interpretation-prompt sets another",
        );
    }
    Ok(())
}
