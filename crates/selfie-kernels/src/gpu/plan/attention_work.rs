//! Decides which attention kernel takes which row of a batch.

use crate::{BatchRow, Slot};

/// The rows of a batch, sorted for attention. Made once a batch, used at every layer.
///
/// Rows of one slot at consecutive positions form a run, wherever they stand in the batch. `attention_prompt` takes a
/// run in tiles. A row of a branch that stands alone is a single, for `attention_decode`. Which of the two a row is
/// depends only on the other rows of its slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionWork {
    /// The first row in `order`, and the number of rows.
    runs: Vec<[u32; 2]>,
    /// Row numbers of the batch, run after run.
    order: Vec<u32>,
    /// Row numbers of the batch.
    singles: Vec<u32>,
    spans: Vec<Span>,
    longest: u32,
    context: u32,
}

/// The rows of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Their slot.
    pub slot: Slot,
    /// The first of their positions.
    pub first: u32,
    /// The last of their positions.
    pub last: u32,
}

impl AttentionWork {
    /// Sorts the rows of a batch.
    pub fn new(rows: &[BatchRow]) -> Self {
        let key = |i: &u32| match rows[*i as usize].slot {
            Slot::Prefix(prefix) => ((0, prefix), rows[*i as usize].position),
            Slot::Branch(slot) => ((1, slot), rows[*i as usize].position),
        };
        let mut sorted: Vec<u32> = (0..rows.len() as u32).collect();
        sorted.sort_by_key(key);
        let mut work = Self::default();
        for of_slot in sorted.chunk_by(|a, b| key(a).0 == key(b).0) {
            work.spans.push(Span {
                slot: rows[of_slot[0] as usize].slot,
                first: key(&of_slot[0]).1,
                last: key(&of_slot[of_slot.len() - 1]).1,
            });
        }
        for run in sorted.chunk_by(|a, b| (key(a).0, key(a).1 + 1) == key(b)) {
            let first = &rows[run[0] as usize];
            if run.len() == 1 && matches!(first.slot, Slot::Branch(_)) {
                work.singles.push(run[0]);
                work.context = work.context.max(first.position + 1);
            } else {
                work.runs.push([work.order.len() as u32, run.len() as u32]);
                work.order.extend(run);
                work.longest = work.longest.max(run.len() as u32);
            }
        }
        work
    }

    /// The kernels' input: `[runs]` pairs of first row and row count, the rows of the runs, the singles.
    pub fn words(&self) -> Vec<u32> {
        let runs = self.runs.iter().flatten();
        runs.chain(&self.order)
            .chain(&self.singles)
            .copied()
            .collect()
    }

    /// The most words that a batch of `rows` rows needs. A run of a prefix may have a single row.
    pub fn max_words(rows: usize) -> usize {
        3 * rows
    }

    /// The index in [`words`](Self::words) where the rows of the runs begin.
    pub(super) fn order_at(&self) -> u64 {
        2 * self.runs.len() as u64
    }

    /// The index in [`words`](Self::words) where the singles begin.
    pub(super) fn singles_at(&self) -> u64 {
        self.order_at() + self.order.len() as u64
    }

    /// Number of runs.
    pub fn runs(&self) -> u32 {
        self.runs.len() as u32
    }

    /// Number of singles.
    pub fn singles(&self) -> u32 {
        self.singles.len() as u32
    }

    /// Each slot with the range of its rows' positions. A prompt of thousands of rows is checked and recorded by span
    /// at every layer.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Rows of the longest run.
    pub fn longest(&self) -> u32 {
        self.longest
    }

    /// The most positions that a single can see.
    pub fn context(&self) -> u32 {
        self.context
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slot: Slot, position: u32) -> BatchRow {
        BatchRow {
            token: 0,
            slot,
            position,
        }
    }

    fn branch(slot: u32, position: u32) -> BatchRow {
        row(Slot::Branch(slot), position)
    }

    #[test]
    fn spans_are_all_positions_of_a_slot() {
        let rows = [
            branch(1, 5),
            row(Slot::Prefix(1), 9),
            branch(0, 7),
            branch(1, 2),
            branch(1, 3),
            row(Slot::Prefix(1), 8),
        ];
        let span = |slot, first, last| Span { slot, first, last };
        let want = [
            span(Slot::Prefix(1), 8, 9),
            span(Slot::Branch(0), 7, 7),
            span(Slot::Branch(1), 2, 5),
        ];
        assert_eq!(AttentionWork::new(&rows).spans(), want);
    }

    #[test]
    fn runs_are_found_wherever_their_rows_stand() {
        let rows = [
            branch(1, 5),
            branch(0, 7),
            branch(1, 4),
            branch(2, 9),
            branch(0, 8),
            branch(1, 6),
        ];
        let work = AttentionWork::new(&rows);
        assert_eq!(work.words(), [0, 2, 2, 3, 1, 4, 2, 0, 5, 3]);
        assert_eq!((work.runs(), work.singles()), (2, 1));
        assert_eq!((work.order_at(), work.singles_at()), (4, 9));
        assert_eq!((work.longest(), work.context()), (3, 10));
    }

    #[test]
    fn a_gap_ends_a_run() {
        let rows = [branch(3, 1), branch(3, 2), branch(3, 4), branch(4, 5)];
        let work = AttentionWork::new(&rows);
        assert_eq!(work.words(), [0, 2, 0, 1, 2, 3]);
        assert_eq!((work.longest(), work.context()), (2, 6));
    }

    #[test]
    fn rows_of_a_prefix_are_never_singles() {
        let work = AttentionWork::new(&[row(Slot::Prefix(0), 0), branch(0, 0)]);
        assert_eq!(work.words(), [0, 1, 0, 1]);
        assert_eq!((work.runs(), work.singles()), (1, 1));
    }

    #[test]
    fn a_run_is_of_one_prefix() {
        let rows = [(0, 4), (1, 5), (0, 5), (1, 6)];
        let rows = rows.map(|(prefix, position)| row(Slot::Prefix(prefix), position));
        let work = AttentionWork::new(&rows);
        assert_eq!(work.words(), [0, 2, 2, 2, 0, 2, 1, 3]);
    }

    #[test]
    fn no_rows_no_work() {
        let work = AttentionWork::new(&[]);
        assert_eq!(work, AttentionWork::default());
        assert!(work.words().is_empty());
    }

    #[test]
    fn the_words_of_any_batch_fit() {
        let rows: Vec<_> = (0..7).map(|p| row(Slot::Prefix(0), 2 * p)).collect();
        let work = AttentionWork::new(&rows);
        assert_eq!(work.words().len(), AttentionWork::max_words(rows.len()));
    }
}
