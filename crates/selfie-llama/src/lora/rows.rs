//! Tracks which rows of a pass have which adapter, and computes their products.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use selfie_kernels::Backend;

use super::LowRankSize;
use crate::Result;
use crate::model::Linear;

/// The adapters of a pass's rows, and the buffers of their products.
pub(crate) struct RowAdapters<B: Backend> {
    size: LowRankSize,
    /// Each adapter in use, and which rows have it; `None` if all rows do.
    active: Vec<(usize, Option<Vec<bool>>)>,
    /// The buffers for each rank.
    low: HashMap<usize, LowRank<B>>,
}

/// Buffers `[rows, rank]`.
struct LowRank<B: Backend> {
    product: B::Rows,
    masked: B::Rows,
    /// A row of zeros.
    zero: B::Rows,
    operand: B::Acts,
}

impl<B: Backend> RowAdapters<B> {
    pub(crate) fn new(size: LowRankSize) -> Self {
        Self {
            size,
            active: Vec::new(),
            low: HashMap::new(),
        }
    }

    /// Sets the adapter of each row of the next pass.
    pub(crate) fn set(&mut self, rows: &[Option<usize>]) {
        self.active.clear();
        let mut adapters: Vec<usize> = rows.iter().copied().flatten().collect();
        adapters.sort_unstable();
        adapters.dedup();
        for adapter in adapters {
            let has: Vec<bool> = rows.iter().map(|row| *row == Some(adapter)).collect();
            let all = has.iter().all(|&has| has);
            self.active.push((adapter, (!all).then_some(has)));
        }
    }

    /// Whether some row has an adapter for this linear.
    pub(crate) fn is_active(&self, linear: &Linear<B>) -> bool {
        self.active
            .iter()
            .any(|(adapter, _)| linear.adapter(*adapter).is_some())
    }

    /// Adds the products of the rows' adapters to `out`, which already holds the linear's products with `a`. Rows
    /// without an adapter get zeros added, so they are the same as without the other rows.
    pub(crate) fn add(
        &mut self,
        backend: &B,
        linear: &Linear<B>,
        a: &B::Acts,
        out: &mut B::Rows,
    ) -> Result<()> {
        for (adapter, mask) in &self.active {
            let Some(adapter) = linear.adapter(*adapter) else {
                continue;
            };
            let low = match self.low.entry(adapter.rank) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(LowRank::new(backend, adapter.rank, self.size)?)
                }
            };
            backend.linear(a, &adapter.a, None, &mut low.product)?;
            if let Some(mask) = mask {
                low.mask(backend, mask)?;
                backend.cast(&low.masked, &mut low.operand)?;
            } else {
                backend.cast(&low.product, &mut low.operand)?;
            }
            backend.linear_add(&low.operand, &adapter.b, None, out)?;
        }
        Ok(())
    }
}

impl<B: Backend> LowRank<B> {
    fn new(backend: &B, rank: usize, size: LowRankSize) -> Result<Self> {
        let mut zero = backend.rows(1, rank)?;
        backend.write_rows(&vec![0.0; rank], &mut zero)?;
        Ok(Self {
            product: backend.rows(size.rows, rank)?,
            masked: backend.rows(size.rows, rank)?,
            zero,
            operand: backend.acts(size.rows, rank, size.dtype)?,
        })
    }

    /// Fills `masked` with the product's rows that have the adapter, and with zeros for the others.
    fn mask(&mut self, backend: &B, mask: &[bool]) -> Result<()> {
        backend.clear(&mut self.masked);
        let mut first = 0;
        for run in mask.chunk_by(|a, b| a == b) {
            if run[0] {
                let rows: Vec<usize> = (first..first + run.len()).collect();
                backend.gather(&self.product, &rows, &mut self.masked)?;
            } else {
                backend.gather(&self.zero, &vec![0; run.len()], &mut self.masked)?;
            }
            first += run.len();
        }
        Ok(())
    }
}
