//! Running a model on texts: their states, their continuations, and what embeddings say.

use std::ops::ControlFlow;

use selfie_interp::{Options, Row, Vector, interpret_vectors};
use selfie_kernels::Backend;
use selfie_llama::{Bos, Decoding, Llama, Sampling, Tokenizer, generate_all};

use crate::Result;
use crate::run::StepContext;

/// The ids of texts.
pub(crate) fn encode_all(
    tokenizer: &Tokenizer,
    texts: &[impl AsRef<str>],
    bos: Bos,
) -> Result<Vec<Vec<u32>>> {
    let ids = texts
        .iter()
        .map(|text| Ok(tokenizer.encode_as(text.as_ref(), bos)?));
    ids.collect()
}

/// The continuation of each prompt, without special tokens.
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

/// The interpretation of each embedding (`[n, d_model]`).
pub(crate) fn interpret_embeddings<B: Backend>(
    context: &StepContext<'_, B>,
    embeddings: &[f32],
    options: &Options,
) -> Result<Vec<String>> {
    let width = context.model.config().d_model;
    let vector = |(index, values): (usize, &[f32])| Vector {
        name: format!("embedding of step {}", context.step),
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
            seed: context.draw,
            ..s
        }),
        ..options.clone()
    };
    let mut texts = Vec::new();
    let mut keep = |row: Row| {
        texts.push(row.interpretation);
        ControlFlow::Continue(())
    };
    let swept = interpret_vectors(
        context.model,
        context.tokenizer,
        &vectors,
        &options,
        &mut keep,
    )?;
    debug_assert_eq!(swept.rows, vectors.len());
    Ok(texts)
}
