//! `selfie trace`.

use selfie::control::OutputFile;

use crate::args::TraceArgs;
use crate::error::{CliError, Result};
use crate::open::{load, open};
use crate::prompts::tell_of_prompts;

pub(crate) fn trace(args: &TraceArgs) -> Result<()> {
    let opened = open(&args.model)?;
    let tokens = opened.encode(&args.prompt)?.len();
    tell_of_prompts(&opened, &[&args.prompt], args.model.quiet)?;
    opened.config.check_context(tokens)?;
    let out = OutputFile::new(&args.out)?;
    let trace = load(opened, args.model.quiet)?.trace(&args.prompt)?;
    out.save_with(|path| trace.save(path).map_err(CliError::from))
}
