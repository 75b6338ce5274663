//! `selfie generate`.

use std::io::{self, Write};
use std::ops::ControlFlow;

use selfie_kernels::Backend;
use selfie_llama::{Decoding, Llama, LlamaError, generate as decode};
use serde::Serialize;

use crate::args::GenerateArgs;
use crate::device::on;
use crate::error::{CliError, Result, usage};
use crate::open::Opened;

/// The object of `--json`, in this order.
#[derive(Serialize)]
struct Answer<'a> {
    prompt: &'a str,
    text: String,
    new_ids: &'a [u32],
    logprobs: &'a [f32],
}

pub(crate) fn generate(args: &GenerateArgs) -> Result<()> {
    if args.max_new_tokens == 0 {
        return usage("--max-new-tokens 0: expected at least 1");
    }
    let opened = Opened::new(&args.model)?;
    let prompt = opened.encode(&args.prompt)?;
    let decoding = Decoding {
        max_new_tokens: args.max_new_tokens,
        eos: opened.eos(),
        sampling: args.sampling.resolve(opened.generation.as_ref())?,
    };
    opened
        .config
        .check_context(prompt.len() + args.max_new_tokens)?;
    on!(opened.load()?, model => write_text(args, &opened, &model, &prompt, decoding))
}

fn write_text<B: Backend>(
    args: &GenerateArgs,
    opened: &Opened,
    model: &Llama<B>,
    prompt: &[u32],
    decoding: Decoding,
) -> Result<()> {
    let mut out = io::stdout().lock();
    if args.json {
        let got = decode(model, prompt, decoding, |_| ControlFlow::Continue(()))?;
        let answer = Answer {
            prompt: &args.prompt,
            text: opened.tokenizer.decode(&got.new_ids)?,
            new_ids: &got.new_ids,
            logprobs: &got.logprobs,
        };
        let json = serde_json::to_string(&answer).map_err(|e| CliError::Stdout(e.into()))?;
        return writeln!(out, "{json}").map_err(CliError::Stdout);
    }
    let mut text = opened.tokenizer.stream();
    let mut failed = None;
    decode(model, prompt, decoding, |id| {
        let written = text.push(id).map_err(CliError::from).and_then(|piece| {
            out.write_all(piece.as_bytes())
                .and_then(|()| out.flush())
                .map_err(CliError::Stdout)
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let rest = text
        .finish()
        .map_err(|error: LlamaError| CliError::from(error))?;
    writeln!(out, "{rest}").map_err(CliError::Stdout)
}
