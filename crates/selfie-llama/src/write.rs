//! Writes into the residual stream, as data.

use std::collections::{BTreeMap, HashMap};

use selfie_kernels::{Backend, InjectMode, Injection, Slot};

use crate::{LlamaError, Probe, Result, Site, Visit};

/// One write of a vector into the residual stream at the input of a layer.
///
/// A write names its row by slot and position, not by its place in a pass, so it also works if the pass runs in pieces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Write {
    /// The sequence.
    pub slot: Slot,
    /// The position in the sequence.
    pub position: u32,
    /// The layer at whose input to write, in 0..n_layers.
    pub layer: usize,
    /// The row of the vectors to write.
    pub vector: usize,
    /// How to combine the vector with the existing row.
    pub mode: InjectMode,
    /// The factor of `mode`.
    pub strength: f32,
}

/// The probe that performs the writes.
pub(crate) struct Writer<'a, B: Backend> {
    vectors: &'a B::Rows,
    by_layer: BTreeMap<usize, Vec<Write>>,
    tally: &'a mut B::Tally,
    reached: usize,
}

impl<'a, B: Backend> Writer<'a, B> {
    pub(crate) fn new(vectors: &'a B::Rows, writes: &[Write], tally: &'a mut B::Tally) -> Self {
        let mut by_layer: BTreeMap<usize, Vec<Write>> = BTreeMap::new();
        for write in writes {
            by_layer.entry(write.layer).or_default().push(*write);
        }
        Self {
            vectors,
            by_layer,
            tally,
            reached: 0,
        }
    }

    /// An error unless every write has reached its row.
    pub(crate) fn finish(self) -> Result<()> {
        let named = self.by_layer.values().map(Vec::len).sum();
        if self.reached == named {
            return Ok(());
        }
        Err(LlamaError::WriteMissed {
            layers: self.by_layer.into_keys().collect(),
            named,
            reached: self.reached,
        })
    }
}

impl<B: Backend> Probe<B> for Writer<'_, B> {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::HiddenStates(layer) if self.by_layer.contains_key(&layer))
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> Result<()> {
        let Site::HiddenStates(layer) = visit.site else {
            return Ok(());
        };
        let rows: HashMap<(Slot, u32), usize> = visit
            .batch
            .iter()
            .enumerate()
            .map(|(i, row)| ((row.slot, row.position), i))
            .collect();
        let writes = self.by_layer.get(&layer).into_iter().flatten();
        let injections: Vec<Injection> = writes
            .filter_map(|write| {
                Some(Injection {
                    row: *rows.get(&(write.slot, write.position))?,
                    vector: write.vector,
                    mode: write.mode,
                    strength: write.strength,
                })
            })
            .collect();
        self.reached += injections.len();
        visit
            .backend
            .inject(self.vectors, &injections, visit.rows, self.tally)?;
        Ok(())
    }
}
