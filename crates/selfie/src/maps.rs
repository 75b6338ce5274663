//! Fits maps between the states of two models, or of two layers of one model.

use std::collections::HashMap;

use selfie_interp::{Embeddings, Fit, Fitted};
use selfie_llama::{PromptSite, Site};

use crate::{Error, Model, Result, on};

/// One of this many prompts is held out.
const HELD_OUT: usize = 5;

/// Fits an affine map from `hidden_states[from]` of a subject to `hidden_states[to]` of a reader, on the tokens of some
/// prompts. Uses ridge regression ([`Fit::solve`]) and holds out every fifth prompt to judge the map.
///
/// The two models may have different tokenizers: two tokens are a pair if they end at the same byte of a prompt. Tokens
/// added before a text (bos) are left out, because their states are unlike any others.
pub fn fit_map(
    subject: (&Model, usize),
    reader: (&Model, usize),
    prompts: &[impl AsRef<str>],
    ridge: f64,
) -> Result<Fitted> {
    let width = |model: &Model| model.opened.config.d_model;
    let mut fit = Fit::new(width(subject.0), width(reader.0));
    for (model, layer) in [subject, reader] {
        let n_layers = model.opened.config.n_layers;
        if layer > n_layers {
            return Err(selfie_interp::InterpError::LayerRange { layer, n_layers }.into());
        }
    }
    for (index, prompt) in prompts.iter().enumerate() {
        let text = prompt.as_ref();
        let (from, to) = (ends(subject.0, text)?, ends(reader.0, text)?);
        let at: HashMap<usize, usize> = to.iter().enumerate().map(|(i, &end)| (end, i)).collect();
        let pairs = from.iter().enumerate();
        let pairs: Vec<(usize, usize)> = pairs
            .filter_map(|(i, end)| Some((i, *at.get(end)?)))
            .collect();
        if pairs.is_empty() {
            continue;
        }
        let (from, to): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
        let x = states(subject, text, &from)?;
        let y = states(reader, text, &to)?;
        fit.add(&x, &y, index % HELD_OUT == HELD_OUT - 1);
    }
    Ok(fit.solve(ridge)?)
}

/// The byte at which each token of a text ends. Tokens added before the text are left out.
fn ends(model: &Model, text: &str) -> Result<Vec<usize>> {
    if text.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let spans = model.opened.tokenizer.encode_spans(text)?;
    Ok(spans.into_iter().map(|(_, span)| span.end).collect())
}

/// The states of some tokens of a text, `[tokens.len(), d_model]`.
fn states((model, layer): (&Model, usize), text: &str, tokens: &[usize]) -> Result<Vec<f32>> {
    let begin = model
        .opened
        .tokenizer
        .begin(model.opened.options.bos)?
        .len();
    let ids = vec![model.opened.encode(text)?];
    model.opened.config.check_context(ids[0].len())?;
    let site = |&token: &usize| PromptSite {
        prompt: 0,
        site: Site::HiddenStates(layer),
        token: begin + token,
    };
    let sites: Vec<PromptSite> = tokens.iter().map(site).collect();
    Ok(on!(&model.llama, llama => {
        Embeddings::capture(llama, &ids, &sites)?.to_host(llama.backend())
    })?)
}
