//! `selfie serve`.

use std::io::{self, Write};

use selfie_serve::{Address, Limits, Server};

use crate::args::ServeArgs;
use crate::console::print_note;
use crate::error::{CliError, Result};
use crate::interpret::batch_size;
use crate::open::{load_unedited, open};
use crate::reproduce::interpret_command;
use crate::stop::Stop;

pub(crate) fn serve(args: &ServeArgs) -> Result<()> {
    let limits = Limits {
        requests: args.queue,
        prompt_tokens: args.max_prompt_tokens,
        max_new_tokens: args.max_new_tokens,
        batch_size: batch_size(&args.batch_size)?,
        seconds: args.timeout,
        ..Limits::default()
    };
    let address = Address {
        host: args.host,
        port: args.port,
        names: args.allow_host.clone(),
    };
    let quiet = args.model.quiet;
    let model = load_unedited(open(&args.model)?, quiet)?;
    let server = Server::bind(model, &address, limits, interpret_command())?;
    if !args.host.is_loopback() {
        let at = server.address();
        print_note(
            quiet,
            format!("anyone who reaches {at} can use the model: there is no password (--host)"),
        );
    }
    let stop = Stop::listen();
    let mut out = io::stdout().lock();
    writeln!(out, "http://{}/ (Ctrl-C to stop)", server.address()).map_err(CliError::Stdout)?;
    out.flush().map_err(CliError::Stdout)?;
    drop(out);
    Ok(server.run(|| stop.is_asked_for())?)
}
