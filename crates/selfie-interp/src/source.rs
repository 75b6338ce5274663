//! The source prompts: the embeddings that cells name.

use std::collections::HashMap;

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Capture, KvCache, Llama, Site, branch_rows};

use crate::engine::Engine;
use crate::{Cell, Result};

/// Tokens of source prompts whose keys and values are in memory at a time (a longer prompt goes alone).
const SOURCE_TOKENS: usize = 512;

/// Runs the source prompts as far as the cells need, and keeps the cells' vectors: `[vectors, d_model]`, and for
/// each cell the row of its vector.
pub(crate) fn capture<B: Backend>(
    model: &Llama<B>,
    engine: &mut Engine<'_, B>,
    sources: &[Vec<u32>],
    cells: &[Cell],
) -> Result<(B::Rows, Vec<usize>)> {
    let (backend, config) = (model.backend(), model.config());
    let layers = cells.iter().map(|cell| cell.layer).max().unwrap_or(0);
    let mut prompts: Vec<usize> = cells.iter().map(|cell| cell.prompt).collect();
    prompts.sort_unstable();
    prompts.dedup();

    let mut vectors = backend.rows(cells.len(), config.d_model)?;
    let mut places: HashMap<Cell, usize> = HashMap::new();
    while !prompts.is_empty() {
        let group = take_group(&mut prompts, sources);
        let slots: HashMap<usize, u32> = group.iter().copied().zip(0..).collect();
        let longest = group.iter().map(|&p| sources[p].len()).max().unwrap_or(0);
        let want = |cell: &Cell| {
            let slot = Slot::Branch(slots[&cell.prompt]);
            (Site::HiddenStates(cell.layer), slot, cell.token as u32)
        };
        let mut named: Vec<Cell> = cells
            .iter()
            .copied()
            .filter(|cell| slots.contains_key(&cell.prompt))
            .collect();
        named.sort_unstable();
        named.dedup();
        let wants: Vec<_> = named.iter().map(want).collect();
        let mut probe = Capture::new(backend, &wants, config.d_model)?;

        let layout = config.kv_layout(
            0,
            (0..config.n_layers)
                .map(|layer| if layer < layers { longest } else { 0 })
                .collect(),
            group.len(),
        );
        let mut cache = KvCache::new(backend, layout)?;
        let mut rows = Vec::new();
        for prompt in &group {
            rows.extend(branch_rows(slots[prompt], 0, &sources[*prompt]));
        }
        for rows in rows.chunks(engine.ws.max_rows()) {
            model.forward(&mut engine.ws, &mut cache, rows, 0..layers, &mut probe)?;
        }
        let index = wants
            .iter()
            .map(|&want| probe.index(want))
            .collect::<Result<Vec<_>, _>>()?;
        let first = backend.len(&vectors);
        backend.gather(probe.rows(), &index, &mut vectors)?;
        places.extend(named.into_iter().zip(first..));
    }
    let places = cells.iter().map(|cell| places[cell]).collect();
    Ok((vectors, places))
}

/// The next prompts that are passed together.
fn take_group(prompts: &mut Vec<usize>, sources: &[Vec<u32>]) -> Vec<usize> {
    let mut tokens = 0;
    let fit = prompts.iter().take_while(|&&prompt| {
        tokens += sources[prompt].len();
        tokens <= SOURCE_TOKENS
    });
    let count = fit.count().max(1);
    prompts.drain(..count).collect()
}
