//! `selfie generate`.

use std::io::{self, Write};
use std::ops::ControlFlow;

use selfie::llama::{Decoding, GenerationConfig};
use serde::Serialize;

use crate::args::GenerateArgs;
use crate::chat;
use crate::console::print_note;
use crate::error::{CliError, Result, usage};
use crate::open::{load, open};
use crate::prompts::note_double_bos;

/// The fields of `--json`, in order.
#[derive(Serialize)]
struct Answer<'a> {
    prompt: &'a str,
    text: &'a str,
    new_ids: &'a [u32],
    logprobs: &'a [f32],
}

pub(crate) fn generate(args: &GenerateArgs) -> Result<()> {
    if args.max_new_tokens == 0 {
        return usage("--max-new-tokens 0: expected at least 1");
    }
    let mut opened = open(&args.model)?;
    let text = chat::text(&args.prompt, &args.chat, &args.model, &mut opened)?;
    let prompt = opened.encode(&text)?;
    let quiet = args.model.quiet;
    note_double_bos(&opened, &[&text], quiet)?;
    let resolved =
        GenerationConfig::resolve(opened.generation.as_ref(), &args.sampling.overrides())?;
    if let Some(taken) = &resolved.taken {
        print_note(quiet, taken);
    }
    for note in &resolved.notes {
        print_note(quiet, note);
    }
    let decoding = Decoding {
        sampling: resolved.sampling,
        ..opened.decoding(args.max_new_tokens)
    };
    let positions = prompt.len().saturating_add(args.max_new_tokens);
    opened.config.check_context(positions)?;
    let model = load(opened, quiet)?;

    let mut out = io::stdout().lock();
    if args.json {
        let got = model.generate(&text, decoding, |_| ControlFlow::Continue(()))?;
        let answer = Answer {
            prompt: &text,
            text: &got.text,
            new_ids: &got.new_ids,
            logprobs: &got.logprobs,
        };
        let json = serde_json::to_string(&answer).map_err(|e| CliError::Stdout(e.into()))?;
        return writeln!(out, "{json}").map_err(CliError::Stdout);
    }
    let mut written = Ok(());
    model.generate(&text, decoding, |piece| {
        written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    written
        .and_then(|()| writeln!(out))
        .map_err(CliError::Stdout)
}
