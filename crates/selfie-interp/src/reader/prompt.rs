//! An interpretation prompt that has run.

use std::collections::BTreeMap;

use selfie_kernels::{Backend, Slot};
use selfie_llama::{Capture, Feed, Pass, Session, Site, Want};

use crate::Result;

/// A prompt that is a prefix of the session, with the states that jobs start from.
pub(super) struct ReaderPrompt<B: Backend> {
    pub(super) ids: Vec<u32>,
    pub(super) prefix: Slot,
    /// Its last row before the final norm, `[1, d_model]`. The first token of a text without writes comes from it.
    pub(super) last: B::Rows,
    /// Its rows at the input of each layer above 0 that jobs start at, `[m, d_model]` each.
    states: BTreeMap<usize, B::Rows>,
}

impl<B: Backend> ReaderPrompt<B> {
    /// Runs a prompt in an open prefix, and keeps its rows at `layers`.
    pub(super) fn new(
        session: &mut Session<B>,
        prefix: Slot,
        ids: &[u32],
        layers: &[usize],
    ) -> Result<Self> {
        let backend = session.model().backend().clone();
        let width = session.model().config().d_model;
        let mut layers: Vec<usize> = layers.iter().copied().filter(|&l| l > 0).collect();
        layers.sort_unstable();
        layers.dedup();
        let last = (Site::Output, prefix, ids.len() as u32 - 1);
        let mut wants = vec![last];
        for &layer in &layers {
            wants.extend(rows_of(prefix, ids, layer));
        }
        let mut capture = Capture::new(&backend, &wants, width)?;
        let model = session.model().clone();
        let feeds = [Feed::new(prefix, ids)];
        session.run(&Pass::new(&model, &feeds), &mut capture)?;
        let mut states = BTreeMap::new();
        for &layer in &layers {
            let wants: Vec<Want> = rows_of(prefix, ids, layer).collect();
            states.insert(layer, take(&backend, &capture, &wants, width)?);
        }
        Ok(Self {
            ids: ids.to_vec(),
            prefix,
            last: take(&backend, &capture, &[last], width)?,
            states,
        })
    }

    /// Makes sure that jobs can start at `layer`.
    pub(super) fn ensure_layer(&mut self, session: &mut Session<B>, layer: usize) -> Result<()> {
        if layer == 0 || self.states.contains_key(&layer) {
            return Ok(());
        }
        let model = session.model().clone();
        let (backend, width) = (model.backend(), model.config().d_model);
        let wants: Vec<Want> = rows_of(self.prefix, &self.ids, layer).collect();
        let mut capture = Capture::new(backend, &wants, width)?;
        // This computes the same keys and values again, so jobs that share them see no difference.
        let end = session.position(self.prefix)?;
        session.rewind(self.prefix, 0)?;
        let feeds = [Feed::new(self.prefix, &self.ids)];
        session.run(&Pass::new(&model, &feeds), &mut capture)?;
        debug_assert_eq!(session.position(self.prefix)?, end);
        self.states
            .insert(layer, take(backend, &capture, &wants, width)?);
        Ok(())
    }

    /// The rows that jobs start with at a layer; at layer 0 they start with their tokens.
    pub(super) fn states(&self, layer: usize) -> Option<&B::Rows> {
        self.states.get(&layer)
    }
}

fn rows_of(prefix: Slot, ids: &[u32], layer: usize) -> impl Iterator<Item = Want> {
    let site = Site::HiddenStates(layer);
    (0..ids.len() as u32).map(move |position| (site, prefix, position))
}

/// The captured rows, in their own buffer.
fn take<B: Backend>(
    backend: &B,
    capture: &Capture<B>,
    wants: &[Want],
    width: usize,
) -> Result<B::Rows> {
    let index = wants.iter().map(|&want| capture.index(want));
    let index = index.collect::<Result<Vec<_>, _>>()?;
    let mut rows = backend.rows(wants.len(), width)?;
    backend.gather(capture.rows(), &index, &mut rows)?;
    Ok(rows)
}
