//! Running a model on texts: their states, how they go on, what an embedding says.

use std::ops::ControlFlow;

use selfie_interp::{Options, Row, Vector, interpret_vectors};
use selfie_kernels::Backend;
use selfie_llama::{
    Decoding, Llama, PromptSite, Sampling, Site, Tokenizer, Workspace, capture, generate_all,
};

use crate::Result;
use crate::run::Now;

/// Rows of prompts that go through the model at a time.
const PASS_ROWS: usize = 512;

/// Runs prompts as far as `wants` needs, and keeps the rows.
pub(crate) fn capture_rows<B: Backend>(
    model: &Llama<B>,
    prompts: &[Vec<u32>],
    wants: &[PromptSite],
) -> Result<B::Rows> {
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let tokens: usize = prompts.iter().map(Vec::len).sum();
    let mut ws = Workspace::new(model, PASS_ROWS.min(tokens), longest)?;
    Ok(capture(model, &mut ws, prompts, wants)?)
}

/// Every token of every prompt at one site.
pub(crate) fn all_tokens(prompts: &[Vec<u32>], site: Site) -> Vec<PromptSite> {
    let of_prompt = |(prompt, ids): (usize, &Vec<u32>)| {
        (0..ids.len()).map(move |token| PromptSite {
            prompt,
            site,
            token,
        })
    };
    prompts.iter().enumerate().flat_map(of_prompt).collect()
}

/// The ids of texts.
pub(crate) fn encode_all(tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    let ids = texts.iter().map(|text| Ok(tokenizer.encode(text)?));
    ids.collect()
}

/// What each prompt goes on with, without special tokens.
pub(crate) fn continue_all<B: Backend>(
    model: &Llama<B>,
    tokenizer: &Tokenizer,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    finished: impl FnMut(usize),
) -> Result<Vec<String>> {
    let generated = generate_all(model, prompts, decoding, finished)?;
    let text = generated.iter().map(|g| Ok(tokenizer.decode(&g.new_ids)?));
    text.collect()
}

/// What each embedding (`[n, d_model]`) says.
pub(crate) fn interpret_embeddings<B: Backend>(
    now: &Now<'_, B>,
    embeddings: &[f32],
    options: &Options,
) -> Result<Vec<String>> {
    let width = now.model.config().d_model;
    let vector = |(index, values): (usize, &[f32])| Vector {
        name: format!("embedding of step {}", now.step),
        index,
        values: values.to_vec(),
    };
    let vectors: Vec<Vector> = embeddings
        .chunks_exact(width)
        .enumerate()
        .map(vector)
        .collect();
    let options = Options {
        relevancy: false,
        sampling: options.sampling.map(|s| Sampling {
            seed: now.draw,
            ..s
        }),
        ..options.clone()
    };
    let mut texts = Vec::new();
    let mut keep = |row: Row| {
        texts.push(row.interpretation);
        ControlFlow::Continue(())
    };
    interpret_vectors(now.model, now.tokenizer, &vectors, &options, &mut keep)?;
    Ok(texts)
}
