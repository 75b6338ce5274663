//! `selfie trace`.

use selfie_llama::Trace;

use crate::args::TraceArgs;
use crate::device::on;
use crate::error::Result;
use crate::open::Opened;
use crate::output::check_writable;

pub(crate) fn trace(args: &TraceArgs) -> Result<()> {
    let opened = Opened::new(&args.model)?;
    let prompt = opened.encode(&args.prompt)?;
    opened.config.check_context(prompt.len())?;
    check_writable(&args.out)?;
    on!(opened.load()?, model => Trace::new(&model, &prompt))?.save(&args.out)?;
    Ok(())
}
