//! States of prompts, kept on the device.

use std::collections::HashMap;

use selfie_kernels::{Backend, Slot};

use crate::cache::branch_rows;
use crate::{Capture, KvCache, Llama, Result, Site, Workspace};

/// Tokens of prompts whose keys and values are in memory at a time (a longer prompt goes alone).
const GROUP_TOKENS: usize = 512;

/// A row that [`capture`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PromptSite {
    /// The prompt, by its index.
    pub prompt: usize,
    /// The place in the model.
    pub site: Site,
    /// The token of the prompt.
    pub token: usize,
}

/// Runs the prompts that `wants` names as far as it needs, and keeps the rows: `[wants.len(), d_model]`, in its order.
///
/// A prompt or token that does not exist is an error.
pub fn capture<B: Backend>(
    model: &Llama<B>,
    ws: &mut Workspace<B>,
    prompts: &[Vec<u32>],
    wants: &[PromptSite],
) -> Result<B::Rows> {
    let (backend, config) = (model.backend(), model.config());
    let layers = wants.iter().map(|want| layers_to(want.site)).max();
    let layers = layers.unwrap_or(0);
    let mut named: Vec<usize> = wants.iter().map(|want| want.prompt).collect();
    named.sort_unstable();
    named.dedup();
    // Rows come group by group; `places` leads from a want to its row there.
    let mut kept = backend.rows(wants.len(), config.d_model)?;
    let mut places: HashMap<PromptSite, usize> = HashMap::new();
    while !named.is_empty() {
        let group = take_group(&mut named, prompts);
        let slots: HashMap<usize, u32> = group.iter().copied().zip(0..).collect();
        let mut own: Vec<PromptSite> = wants
            .iter()
            .copied()
            .filter(|want| slots.contains_key(&want.prompt))
            .collect();
        own.sort_unstable();
        own.dedup();
        let row = |want: &PromptSite| {
            let slot = Slot::Branch(slots[&want.prompt]);
            (want.site, slot, want.token as u32)
        };
        let rows: Vec<_> = own.iter().map(row).collect();
        let mut probe = Capture::new(backend, &rows, config.d_model)?;
        let longest = group.iter().map(|&p| tokens(prompts, p).len()).max();
        let positions = longest.unwrap_or(0);
        let positions = |layer| if layer < layers { positions } else { 0 };
        let own_positions = (0..config.n_layers).map(positions).collect();
        let mut cache = KvCache::new(backend, config.kv_layout(0, own_positions, group.len()))?;
        let mut batch = Vec::new();
        for &prompt in &group {
            batch.extend(branch_rows(slots[&prompt], 0, tokens(prompts, prompt)));
        }
        for batch in batch.chunks(ws.max_rows()) {
            model.forward(ws, &mut cache, batch, 0..layers, &mut probe)?;
        }
        let index: Vec<usize> = rows
            .iter()
            .map(|&row| probe.index(row))
            .collect::<Result<_>>()?;
        let first = backend.len(&kept);
        backend.gather(probe.rows(), &index, &mut kept)?;
        places.extend(own.into_iter().zip(first..));
    }
    let order: Vec<usize> = wants.iter().map(|want| places[want]).collect();
    if order.iter().copied().eq(0..wants.len()) {
        return Ok(kept);
    }
    let mut rows = backend.rows(wants.len(), config.d_model)?;
    backend.gather(&kept, &order, &mut rows)?;
    Ok(rows)
}

/// How many layers a pass needs to come by a site.
fn layers_to(site: Site) -> usize {
    match site {
        Site::HiddenStates(layer) => layer,
        Site::Residual(layer) | Site::PreMlp(layer) => layer + 1,
    }
}

/// No tokens for a prompt that does not exist: its rows are then missed, which is an error.
fn tokens(prompts: &[Vec<u32>], prompt: usize) -> &[u32] {
    prompts.get(prompt).map_or(&[], |prompt| prompt)
}

/// The next prompts that are passed together.
fn take_group(named: &mut Vec<usize>, prompts: &[Vec<u32>]) -> Vec<usize> {
    let mut sum = 0;
    let fit = named.iter().take_while(|&&prompt| {
        sum += tokens(prompts, prompt).len();
        sum <= GROUP_TOKENS
    });
    let count = fit.count().max(1);
    named.drain(..count).collect()
}
