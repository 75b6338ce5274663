//! `selfie trace`.

use selfie::control::OutputFile;

use crate::args::TraceArgs;
use crate::chat;
use crate::error::{CliError, Result};
use crate::open::{load, open};
use crate::prompts::note_double_bos;

pub(crate) fn trace(args: &TraceArgs) -> Result<()> {
    let mut opened = open(&args.model)?;
    let text = chat::text(&args.prompt, &args.chat, &args.model, &mut opened)?;
    let tokens = opened.encode(&text)?.len();
    note_double_bos(&opened, &[&text], args.model.quiet)?;
    opened.config.check_context(tokens)?;
    let out = OutputFile::new(&args.out)?;
    let trace = load(opened, args.model.quiet)?.trace(&text)?;
    out.save_with(|path| trace.save(path).map_err(CliError::from))
}
