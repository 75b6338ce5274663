//! Decides which series of work to send as a graph.

use std::collections::{HashMap, VecDeque};

use crate::gpu::Gemm;

/// One piece of work for the device.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Work {
    Kernel(Kernel),
    Product(Gemm),
}

/// A launch, with the number of its function.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kernel {
    pub(super) function: usize,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared_bytes: u32,
    /// The bits of each argument; a 32-bit one is in the lower half.
    pub(super) args: Box<[u64]>,
}

/// A shorter series is not worth a graph.
const SHORTEST: usize = 8;
/// The most graphs to keep. A step is several graphs, and each number of sequences that decode together has its own.
const MOST_GRAPHS: usize = 512;
/// The most series to remember having seen.
const MOST_SEEN: usize = 4096;

/// What to do with a series.
#[derive(Debug, PartialEq)]
pub(super) enum Next<'a, G> {
    /// Send it piece by piece: it is new and may never come again.
    Send,
    /// Capture it as a graph, and [insert](Graphs::insert) that.
    Capture,
    /// Send this graph, captured from the same series.
    Replay(&'a G),
}

/// The graphs, and the series seen once. A series becomes a graph when it comes a second time.
///
/// A graph is replayed only if the work is the same down to the last argument, so it always does what the work would
/// do.
pub(super) struct Graphs<G> {
    graphs: HashMap<u64, Entry<G>>,
    seen: VecDeque<u64>,
    clock: u64,
}

struct Entry<G> {
    work: Vec<Work>,
    graph: G,
    used: u64,
}

impl<G> Graphs<G> {
    pub(super) fn new() -> Self {
        Self {
            graphs: HashMap::new(),
            seen: VecDeque::new(),
            clock: 0,
        }
    }

    pub(super) fn next(&mut self, work: &[Work]) -> Next<'_, G> {
        if work.len() < SHORTEST {
            return Next::Send;
        }
        self.clock += 1;
        let key = signature(work);
        if let Some(entry) = self.graphs.get_mut(&key) {
            if entry.work != work {
                return Next::Send;
            }
            entry.used = self.clock;
            return Next::Replay(&entry.graph);
        }
        if self.seen.contains(&key) {
            return Next::Capture;
        }
        if self.seen.len() == MOST_SEEN {
            self.seen.pop_front();
        }
        self.seen.push_back(key);
        Next::Send
    }

    /// Keeps the graph of a series. If there are too many, the least recently used one goes.
    pub(super) fn insert(&mut self, work: Vec<Work>, graph: G) {
        if self.graphs.len() == MOST_GRAPHS {
            let oldest = self.graphs.iter().min_by_key(|(_, entry)| entry.used);
            if let Some((&key, _)) = oldest {
                self.graphs.remove(&key);
            }
        }
        let key = signature(&work);
        let used = self.clock;
        self.graphs.insert(key, Entry { work, graph, used });
    }
}

/// A hash that different series rarely share.
fn signature(work: &[Work]) -> u64 {
    let mut hash = work.len() as u64;
    // Like rustc's FxHash: a series has thousands of words and is hashed once a step.
    let mut add = |word: u64| {
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    };
    for work in work {
        match work {
            Work::Kernel(kernel) => {
                add(kernel.function as u64);
                for &size in kernel.grid.iter().chain(&kernel.block) {
                    add(size.into());
                }
                kernel.args.iter().for_each(|&arg| add(arg));
            }
            Work::Product(gemm) => {
                for word in [gemm.a, gemm.w, gemm.out, gemm.m as u64] {
                    add(word);
                }
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A series of `length` launches, with `arg` as its last argument.
    fn series(length: usize, arg: u64) -> Vec<Work> {
        let kernel = |last: bool| {
            Work::Kernel(Kernel {
                function: 3,
                grid: [64, 1, 1],
                block: [256, 1, 1],
                shared_bytes: 0,
                args: Box::new([7, if last { arg } else { 0 }]),
            })
        };
        (1..=length).map(|i| kernel(i == length)).collect()
    }

    #[test]
    fn what_comes_a_second_time_is_captured_and_then_replayed() {
        let mut graphs = Graphs::new();
        assert_eq!(graphs.next(&series(20, 1)), Next::Send);
        assert_eq!(graphs.next(&series(20, 2)), Next::Send);
        assert_eq!(graphs.next(&series(20, 1)), Next::Capture);
        graphs.insert(series(20, 1), 'a');
        assert_eq!(graphs.next(&series(20, 1)), Next::Replay(&'a'));
        assert_eq!(graphs.next(&series(20, 2)), Next::Capture);
        assert_eq!(graphs.next(&series(21, 1)), Next::Send);
    }

    #[test]
    fn a_graph_is_never_replayed_for_other_work() {
        let mut graphs = Graphs::new();
        graphs.insert(series(20, 1), 'a');
        // Simulates two series with the same signature.
        let entry = graphs.graphs.remove(&signature(&series(20, 1))).unwrap();
        graphs.graphs.insert(signature(&series(20, 2)), entry);
        assert_eq!(graphs.next(&series(20, 2)), Next::Send);
    }

    #[test]
    fn short_series_are_sent() {
        let mut graphs: Graphs<char> = Graphs::new();
        for _ in 0..3 {
            assert_eq!(graphs.next(&series(SHORTEST - 1, 1)), Next::Send);
        }
    }

    #[test]
    fn the_graph_that_was_not_used_goes() {
        let mut graphs = Graphs::new();
        for i in 0..MOST_GRAPHS as u64 {
            graphs.next(&series(20, i));
            graphs.insert(series(20, i), i);
        }
        assert_eq!(graphs.next(&series(20, 0)), Next::Replay(&0));
        graphs.insert(series(20, 1000), 1000);
        assert_eq!(graphs.graphs.len(), MOST_GRAPHS);
        assert_eq!(graphs.next(&series(20, 0)), Next::Replay(&0));
        assert_eq!(graphs.next(&series(20, 1)), Next::Capture);
    }
}
