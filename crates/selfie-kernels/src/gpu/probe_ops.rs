//! The row operations of a probe: gather and inject.

use super::backend::to_u32;
use super::buffers::GpuRows;
use super::plan::{GatherRows, Inject, WRITE_BYTES, injection_list};
use super::tally::GpuTally;
use super::{Driver, Gpu};
use crate::checks::check_injections;
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
        let pairs: Vec<(usize, usize)> = pairs.collect();
        if src.width == 0 {
            return Ok(());
        }
        let mut scratch = self.scratch();
        for pairs in pairs.chunks(scratch.list_len(8)) {
            let words = pairs
                .iter()
                .flat_map(|&(from, to)| [from as u32, to as u32]);
            let list: Vec<u32> = words.collect();
            let list = scratch.list.put(bytemuck::cast_slice(&list))?;
            let plan = GatherRows {
                src: src.f32(OP)?,
                dst: dst.f32(OP)?,
                list,
                n: to_u32(OP, pairs.len())?,
                width: to_u32(OP, src.width)?,
            };
            // SAFETY: the list is on the device, and its rows lie in their buffers.
            unsafe { self.driver.launch(&plan.launch())? };
        }
        Ok(())
    }

    pub(super) fn inject_rows(
        &self,
        vectors: &GpuRows<D>,
        writes: &[Injection],
        rows: &mut GpuRows<D>,
        tally: &mut GpuTally<D>,
    ) -> Result<()> {
        const OP: &str = "inject";
        check_injections(writes, (vectors.len, vectors.width), (rows.len, rows.width))?;
        if rows.width == 0 {
            return Ok(());
        }
        let mut scratch = self.scratch();
        let most = scratch.list_len(WRITE_BYTES) - 1;
        for writes in waves(writes, most, rows.len, |write| write.row) {
            let list = scratch.list.put(&injection_list(writes))?;
            let plan = Inject {
                rows: rows.f32(OP)?,
                vectors: vectors.f32(OP)?,
                list,
                written: tally.counter(),
                n_rows: to_u32(OP, rows.len)?,
                n_vectors: to_u32(OP, vectors.len)?,
                width: to_u32(OP, rows.width)?,
                blocks: to_u32(OP, writes.len())?,
            };
            tally.ask(writes.len());
            // SAFETY: the list is on the device, rows and vectors have these lengths, and their widths agree.
            unsafe { self.driver.launch(&plan.launch())? };
        }
        Ok(())
    }
}

/// Cuts `items` into runs of at most `most`. No target occurs twice in a run, so its rows can be written in any order.
/// Targets are below `targets`.
fn waves<T>(items: &[T], most: usize, targets: usize, target: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut waves = Vec::new();
    // The last wave, counted from 1, in which each target occurred.
    let mut seen = vec![0usize; targets];
    let mut start = 0;
    for (i, item) in items.iter().enumerate() {
        let wave = waves.len() + 1;
        let seen = &mut seen[target(item)];
        if i - start == most || *seen == wave {
            waves.push(&items[start..i]);
            start = i;
        }
        *seen = waves.len() + 1;
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
        let cut = waves(&items, 3, 6, |&x| x);
        let want: [&[usize]; 4] = [&[3, 1, 4], &[1, 5], &[1], &[1, 2]];
        assert_eq!(cut, want);
        assert_eq!(cut.concat(), items);
        assert!(waves(&[], 3, 0, |&x: &usize| x).is_empty());
    }
}
