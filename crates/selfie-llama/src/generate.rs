//! Continuing prompts: one as it is written, or many together.

use std::ops::ControlFlow;

use selfie_kernels::Backend;

use crate::cache::branch_rows;
use crate::{Decoder, Decoding, KvCache, Llama, LlamaError, Result, Sequence, Workspace};

/// Rows of prompts that go through the model at a time.
const PROMPT_ROWS: usize = 512;
/// Most prompts that are continued together: more make a row no cheaper.
const SLOTS: usize = 64;

/// What [`generate`] wrote.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// The new tokens, the one that ended the text included.
    pub new_ids: Vec<u32>,
    /// The log-probability of each, by the logits as they are.
    pub logprobs: Vec<f32>,
}

/// Continues a prompt of token ids. `each` is called with every new id and may stop the text there.
pub fn generate<B: Backend>(
    model: &Llama<B>,
    prompt: &[u32],
    decoding: Decoding,
    mut each: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    if prompt.is_empty() {
        return Err(LlamaError::EmptyPrompt);
    }
    let positions = prompt.len() + decoding.max_new_tokens;
    model.config().check_context(positions)?;
    let config = model.config();
    let layout = config.kv_layout(0, vec![positions; config.n_layers], 1);
    let mut cache = KvCache::new(model.backend(), layout)?;
    let mut ws = Workspace::new(model, prompt.len().min(PROMPT_ROWS), positions)?;
    let slot = cache.take(model.backend(), &vec![0; config.n_layers])?;

    let mut last_row = 0;
    for (chunk, tokens) in prompt.chunks(ws.max_rows()).enumerate() {
        let rows: Vec<_> = branch_rows(slot, chunk * ws.max_rows(), tokens).collect();
        model.forward(&mut ws, &mut cache, &rows, 0..config.n_layers, &mut ())?;
        last_row = tokens.len() - 1;
    }
    let mut decoder = Decoder::new(decoding)?;
    let sequence = Sequence::new(0, slot, prompt.len());
    let mut done = decoder.join(model, &mut ws, vec![sequence], &[last_row])?;
    loop {
        let sequence = match done.pop() {
            Some(sequence) => {
                if let Some(&id) = sequence.new_ids.last() {
                    let _ = each(id);
                }
                return Ok(sequence.into());
            }
            None => &decoder.active[0],
        };
        if sequence
            .new_ids
            .last()
            .is_some_and(|&id| each(id).is_break())
        {
            return Ok(sequence.clone().into());
        }
        done = decoder.step(model, &mut ws, &mut cache, &[])?;
    }
}

/// Continues many prompts of token ids together; the results are in the order of the prompts.
///
/// A prompt's text does not depend on the others. `finished` is told how many are done, after each pass.
pub fn generate_all<B: Backend>(
    model: &Llama<B>,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    mut finished: impl FnMut(usize),
) -> Result<Vec<Generated>> {
    if prompts.iter().any(Vec::is_empty) {
        return Err(LlamaError::EmptyPrompt);
    }
    let (backend, config) = (model.backend(), model.config());
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let positions = longest + decoding.max_new_tokens;
    config.check_context(positions)?;
    let layout = config.kv_layout(0, vec![positions; config.n_layers], 0);
    let fit = KvCache::slots_that_fit(backend, &layout, backend.memory()?.available / 2);
    let slots = fit.clamp(1, SLOTS).min(prompts.len());
    let mut cache = KvCache::new(backend, selfie_kernels::KvLayout { slots, ..layout })?;
    let mut ws = Workspace::new(
        model,
        PROMPT_ROWS.min(longest * slots).max(slots),
        positions,
    )?;
    let mut decoder = Decoder::new(decoding.clone())?;
    let mut results: Vec<Generated> = vec![Generated::default(); prompts.len()];
    let mut waiting = prompts.iter().enumerate();
    let mut count = 0;
    while count < prompts.len() {
        let mut ended = Vec::new();
        let mut rows = Vec::new();
        let mut joining = Vec::new();
        // A full group at a time, so that prompt passes stay wide.
        while cache.free_slots() > 0 && rows.len() < ws.max_rows() {
            let Some((index, prompt)) = waiting.next() else {
                break;
            };
            let slot = cache.take(backend, &vec![0; config.n_layers])?;
            rows.extend(branch_rows(slot, 0, prompt));
            joining.push((
                rows.len() - 1,
                Sequence::new(index as u64, slot, prompt.len()),
            ));
        }
        let mut joining = joining.into_iter().peekable();
        for (chunk, rows) in rows.chunks(ws.max_rows()).enumerate() {
            model.forward(&mut ws, &mut cache, rows, 0..config.n_layers, &mut ())?;
            let first = chunk * ws.max_rows();
            let mut last_rows = Vec::new();
            let mut sequences = Vec::new();
            while let Some((last, sequence)) =
                joining.next_if(|(last, _)| *last < first + rows.len())
            {
                last_rows.push(last - first);
                sequences.push(sequence);
            }
            ended.extend(decoder.join(model, &mut ws, sequences, &last_rows)?);
        }
        if decoder.active() > 0 {
            ended.extend(decoder.step(model, &mut ws, &mut cache, &[])?);
        }
        for sequence in ended {
            cache.release(sequence.slot);
            count += 1;
            let index = sequence.id as usize;
            results[index] = sequence.into();
        }
        finished(count);
    }
    Ok(results)
}

impl From<Sequence> for Generated {
    fn from(sequence: Sequence) -> Self {
        Self {
            new_ids: sequence.new_ids,
            logprobs: sequence.logprobs,
        }
    }
}
