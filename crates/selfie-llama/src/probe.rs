//! Reading and writing the residual stream during a forward pass.

use std::collections::HashMap;

use selfie_kernels::{Backend, BatchRow, Slot};

use crate::{LlamaError, Result};

/// A place in the model that a probe can visit. Layers count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// `hidden_states[l]`: the residual stream at the input of layer `l`; 0 is the embeddings. For `l = n_layers` it is
    /// the stream after the final norm. The probe gets a copy of that one, and writes to it are lost.
    HiddenStates(usize),
    /// `residual[l]`: the residual stream to which the output of layer `l`'s MLP is added.
    Residual(usize),
    /// `pre_mlp[l]`: the input of layer `l`'s MLP, after its norm, in f32. A copy, as above.
    PreMlp(usize),
    /// The residual stream after the last layer and before the final norm: the input of the head.
    Output,
}

/// A probe's view of a site.
pub struct Visit<'a, B: Backend> {
    /// The backend; its row ops read and write `rows`.
    pub backend: &'a B,
    /// The site being visited.
    pub site: Site,
    /// The rows of the batch.
    pub batch: &'a [BatchRow],
    /// Their values at the site, `[batch.len(), d_model]`.
    pub rows: &'a mut B::Rows,
}

/// Reads or writes the residual stream while a [`Session`](crate::Session) runs rows.
///
/// A long prompt runs in pieces, and the probe is called for each piece; `batch` says which rows it has. A site that no
/// probe wants costs nothing. With the backend's row ops, no data leaves the device.
pub trait Probe<B: Backend> {
    /// Whether to call [`visit`](Probe::visit) at `site`.
    fn wants(&self, site: Site) -> bool;
    /// Reads or writes the rows of a site. Called once per batch, in the order of the pass.
    fn visit(&mut self, visit: Visit<'_, B>) -> Result<()>;
}

/// The empty probe.
impl<B: Backend> Probe<B> for () {
    fn wants(&self, _: Site) -> bool {
        false
    }

    fn visit(&mut self, _: Visit<'_, B>) -> Result<()> {
        Ok(())
    }
}

impl<B: Backend, P: Probe<B> + ?Sized> Probe<B> for &mut P {
    fn wants(&self, site: Site) -> bool {
        (**self).wants(site)
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> Result<()> {
        (**self).visit(visit)
    }
}

/// Two probes, one after the other at each site.
impl<B: Backend, P: Probe<B>, Q: Probe<B>> Probe<B> for (P, Q) {
    fn wants(&self, site: Site) -> bool {
        self.0.wants(site) || self.1.wants(site)
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> Result<()> {
        if self.0.wants(visit.site) {
            self.0.visit(Visit {
                backend: visit.backend,
                site: visit.site,
                batch: visit.batch,
                rows: visit.rows,
            })?;
        }
        if self.1.wants(visit.site) {
            self.1.visit(visit)?;
        }
        Ok(())
    }
}

/// A row to capture: a site, and the slot and position of the row.
pub type Want = (Site, Slot, u32);

/// A probe that captures requested rows and keeps them on the device.
///
/// It can be used for several passes: each row is captured when its slot and position occur.
pub struct Capture<B: Backend> {
    wants: HashMap<Site, Vec<(Slot, u32)>>,
    found: HashMap<Want, usize>,
    rows: B::Rows,
}

impl<B: Backend> Capture<B> {
    /// Makes room for the rows in `wants`, of `width` values each. A row named twice is kept once.
    pub fn new(backend: &B, wants: &[Want], width: usize) -> Result<Self> {
        let mut sites: HashMap<Site, Vec<(Slot, u32)>> = HashMap::new();
        let mut capacity = 0;
        for &(site, slot, position) in wants {
            let rows = sites.entry(site).or_default();
            rows.push((slot, position));
            capacity += 1;
        }
        Ok(Self {
            wants: sites,
            found: HashMap::new(),
            rows: backend.rows(capacity, width)?,
        })
    }

    /// The rows captured so far, `[rows, width]`.
    pub fn rows(&self) -> &B::Rows {
        &self.rows
    }

    /// The index of a row in [`rows`](Capture::rows). An error if no batch has had it yet.
    pub fn index(&self, want: Want) -> Result<usize> {
        self.found
            .get(&want)
            .copied()
            .ok_or(LlamaError::NotCaptured {
                site: want.0,
                position: want.2,
            })
    }
}

impl<B: Backend> Probe<B> for Capture<B> {
    fn wants(&self, site: Site) -> bool {
        self.wants.contains_key(&site)
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> Result<()> {
        let Some(wanted) = self.wants.get(&visit.site) else {
            return Ok(());
        };
        let places: HashMap<(Slot, u32), usize> = visit
            .batch
            .iter()
            .enumerate()
            .map(|(i, row)| ((row.slot, row.position), i))
            .collect();
        let mut index = Vec::new();
        let mut next = visit.backend.len(&self.rows);
        for &(slot, position) in wanted {
            let Some(&row) = places.get(&(slot, position)) else {
                continue;
            };
            if self.found.contains_key(&(visit.site, slot, position)) {
                continue;
            }
            self.found.insert((visit.site, slot, position), next);
            index.push(row);
            next += 1;
        }
        visit.backend.gather(visit.rows, &index, &mut self.rows)?;
        Ok(())
    }
}
