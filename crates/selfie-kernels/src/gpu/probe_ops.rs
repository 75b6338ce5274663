//! What a probe does with rows: gather, scatter, inject.

use std::collections::HashSet;

use super::backend::small;
use super::buffers::GpuRows;
use super::plan::{GatherRows, Inject, injection_list};
use super::{Driver, Gpu};
use crate::error::{check_index, check_shape};
use crate::{Injection, Result};

impl<D: Driver> Gpu<D> {
    pub(super) fn gather_rows(
        &self,
        src: &GpuRows<D>,
        index: &[usize],
        dst: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "gather";
        check_shape(OP, "width of the target", src.width, dst.width)?;
        for &i in index {
            check_index(OP, "row", i, src.len)?;
        }
        let first = dst.len;
        dst.set_len(OP, first + index.len())?;
        let pairs = index.iter().enumerate().map(|(n, &i)| (i, first + n));
        self.copy_rows(OP, src, &pairs.collect::<Vec<_>>(), dst)
    }

    pub(super) fn scatter_rows(
        &self,
        src: &GpuRows<D>,
        index: &[usize],
        dst: &mut GpuRows<D>,
        at: &[usize],
    ) -> Result<()> {
        const OP: &str = "scatter";
        check_shape(OP, "width of the target", src.width, dst.width)?;
        check_shape(OP, "number of targets", index.len(), at.len())?;
        let pairs: Vec<(usize, usize)> = index.iter().copied().zip(at.iter().copied()).collect();
        for &(from, to) in &pairs {
            check_index(OP, "row of the source", from, src.len)?;
            check_index(OP, "row of the target", to, dst.len)?;
        }
        self.copy_rows(OP, src, &pairs, dst)
    }

    /// Copies rows; both of each pair have been checked.
    fn copy_rows(
        &self,
        op: &'static str,
        src: &GpuRows<D>,
        pairs: &[(usize, usize)],
        dst: &mut GpuRows<D>,
    ) -> Result<()> {
        if src.width == 0 {
            return Ok(());
        }
        let scratch = self.scratch();
        for pairs in waves(pairs, scratch.list_len(8), |&(_, to)| to) {
            let words = pairs
                .iter()
                .flat_map(|&(from, to)| [from as u32, to as u32]);
            let list: Vec<u32> = words.collect();
            scratch.list.write(0, bytemuck::cast_slice(&list))?;
            let plan = GatherRows {
                src: src.address(),
                dst: dst.address(),
                list: scratch.list.address(),
                n: small(op, pairs.len())?,
                width: small(op, src.width)?,
            };
            // SAFETY: the list was uploaded before, and its rows are in their buffers; no row is written twice.
            unsafe { self.driver.launch(&plan.launch())? };
        }
        Ok(())
    }

    pub(super) fn inject_rows(
        &self,
        vectors: &GpuRows<D>,
        writes: &[Injection],
        rows: &mut GpuRows<D>,
    ) -> Result<usize> {
        const OP: &str = "inject";
        check_shape(OP, "width of the vectors", rows.width, vectors.width)?;
        for write in writes {
            check_index(OP, "row", write.row, rows.len)?;
            check_index(OP, "vector", write.vector, vectors.len)?;
        }
        if rows.width == 0 {
            return Ok(writes.len());
        }
        let mut scratch = self.scratch();
        for writes in waves(writes, scratch.list_len(16) - 1, |write| write.row) {
            scratch.list.write(0, &injection_list(writes))?;
            let plan = Inject {
                rows: rows.address(),
                vectors: vectors.address(),
                list: scratch.list.address(),
                written: scratch.injections.counter(),
                n_rows: small(OP, rows.len)?,
                n_vectors: small(OP, vectors.len)?,
                width: small(OP, rows.width)?,
                blocks: small(OP, writes.len())?,
            };
            scratch.injections.ask(writes.len());
            // SAFETY: the list was uploaded before; rows and vectors have their lengths and one width.
            unsafe { self.driver.launch(&plan.launch())? };
        }
        Ok(writes.len())
    }
}

/// Cuts `items` into runs of at most `most` in which no target comes twice, so that the rows of a run can be written in
/// any order.
fn waves<T>(items: &[T], most: usize, target: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut waves = Vec::new();
    let mut seen = HashSet::new();
    let mut start = 0;
    for (i, item) in items.iter().enumerate() {
        if i - start == most || !seen.insert(target(item)) {
            waves.push(&items[start..i]);
            start = i;
            seen.clear();
            seen.insert(target(item));
        }
    }
    if start < items.len() {
        waves.push(&items[start..]);
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::waves;

    #[test]
    fn no_target_comes_twice_in_a_wave() {
        let items = [3, 1, 4, 1, 5, 1, 1, 2];
        let cut = waves(&items, 3, |&x| x);
        let want: [&[usize]; 4] = [&[3, 1, 4], &[1, 5], &[1], &[1, 2]];
        assert_eq!(cut, want);
        assert_eq!(cut.concat(), items);
        assert!(waves(&[], 3, |&x: &usize| x).is_empty());
    }
}
