//! The prompts that are given: where they come from, and what is told of them.

use selfie::Opened;
use selfie::interp::{InterpretationPrompt, LocatedPrompt};
use selfie::llama::Bos;
use selfie_sweep::read_prompts;

use crate::args::{BosArg, InterpretArgs, ModelArgs};
use crate::console::tell;
use crate::error::{CliError, Result, usage};

/// The prompts of `--prompt`, or those of `--prompts`.
pub(crate) fn prompts(args: &InterpretArgs) -> Result<Vec<String>> {
    match &args.prompts {
        None => Ok(args.prompt.clone()),
        Some(path) => read_prompts(path, args.column.as_deref()).map_err(CliError::Prompts),
    }
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

/// The interpretation prompt of `--interpretation-prompt`, or of `--template`, as it is for a reader.
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

/// Tells of what is wrong with the rows of an interpretation prompt's placeholders, and of a second bos.
pub(crate) fn tell_of_interpretation_prompt(
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
        tell(quiet, format!("the interpretation prompt: {note}"));
    }
    Ok(located)
}

/// Tells that an interpretation prompt by name is not in the form that the reader was trained on.
pub(crate) fn tell_of_name(json: Option<&str>, reader: &Opened, quiet: bool) -> Result<()> {
    if json.is_none() && reader.chat_template()?.is_none() {
        tell(
            quiet,
            "the model has no chat template: the interpretation prompt is in LLaMA 2's form, with [INST]; \
             --interpretation-prompt takes another",
        );
    }
    Ok(())
}

/// An error for a command whose prompts begin as the checkpoint says.
pub(crate) fn only_auto_bos(args: &ModelArgs) -> Result<()> {
    if args.bos == BosArg::Auto {
        return Ok(());
    }
    usage("--bos: this command knows only auto, as the checkpoint says")
}
