//! A case on the simulated device: a cache, queries, the launches of the plan, and the expected results.

use selfie_kernels::gpu::plan::{Attention, AttentionWork, KvLayer, Splits, slot_word};
use selfie_kernels::gpu::{Arg, Launch};
use selfie_kernels::{Attend, AttnShape, BatchRow, DType, Slot};
use selfie_ptxsim::{Arg as SimArg, Config, Gpu, Report};

use super::cases::Case;
use super::oracle::{Segment, Walk, Want, attend};
use selfie_testkit::cases::values;

/// Keys and values of one segment, in the cache's layout: `[kv_heads][positions][head_dim]`.
struct Content {
    keys: Vec<f32>,
    values: Vec<f32>,
    positions: usize,
}

/// A case in an element type.
pub(super) struct Problem<'a> {
    pub(super) case: &'a Case,
    pub(super) dtype: DType,
    /// The seed of a random schedule of warps.
    pub(super) schedule: Option<u64>,
    prefixes: Vec<Content>,
    own: Vec<Content>,
}

/// The device's output, and its launches.
pub(super) struct Run {
    /// For each row, `[heads * head_dim]`.
    pub(super) out: Vec<Vec<f32>>,
    pub(super) ran: Vec<(Launch, Report)>,
}

impl<'a> Problem<'a> {
    pub(super) fn new(case: &'a Case, dtype: DType) -> Self {
        let (_, kv_heads, head_dim) = case.heads;
        let content = |seed: u64, positions: u32| {
            let n = (kv_heads * positions * head_dim) as usize;
            let stored = |seed, spread: f32| -> Vec<f32> {
                let bytes = dtype.to_bytes(&values(seed, n, (-spread, spread)));
                dtype.to_f32(&bytes)
            };
            Content {
                keys: stored(2 * seed, case.spread),
                values: stored(2 * seed + 1, 1.0),
                positions: positions as usize,
            }
        };
        let prefixes = case.prefixes.iter().zip(1000..);
        let branches = case.branches.iter().zip(1..);
        Self {
            case,
            dtype,
            schedule: None,
            prefixes: prefixes
                .map(|(&[positions, _], seed)| content(seed, positions))
                .collect(),
            own: branches
                .map(|(branch, seed)| content(seed, branch.own))
                .collect(),
        }
    }

    /// The batch of the case. Slots alternate, so that the rows of a run are not neighbours.
    pub(super) fn rows(&self) -> Vec<BatchRow> {
        let case = self.case;
        let prefixes = (0..).zip(case.prefixes);
        let mut slots: Vec<_> = prefixes
            .map(|(prefix, &[positions, rows])| (Slot::Prefix(prefix), positions, rows))
            .collect();
        for (slot, branch) in (0..).zip(case.branches) {
            slots.push((Slot::Branch(slot), branch.seen + branch.own, branch.rows));
        }
        let most = slots.iter().map(|&(.., rows)| rows).max().unwrap_or(0);
        let mut rows = Vec::new();
        for i in 0..most {
            for &(slot, end, count) in &slots {
                if i < count {
                    let position = end - count + i;
                    rows.push(BatchRow {
                        token: 0,
                        slot,
                        position,
                    });
                }
            }
        }
        rows
    }

    /// The queries of a row, `[heads * head_dim]`. They depend only on its slot and position.
    fn queries(&self, row: &BatchRow) -> Vec<f32> {
        let slot = match row.slot {
            Slot::Prefix(prefix) => 1000 + u64::from(prefix),
            Slot::Branch(slot) => u64::from(slot),
        };
        let seed = 1000 * slot + u64::from(row.position) + 1_000_000;
        let (heads, _, head_dim) = self.case.heads;
        let spread = self.case.spread;
        values(seed, (heads * head_dim) as usize, (-spread, spread))
    }

    /// Runs attention for these rows of the cache on the device.
    pub(super) fn run(&self, rows: &[BatchRow], splits: Splits) -> Run {
        let (heads, kv_heads, head_dim) = self.case.heads;
        let n = rows.len() as u32;
        let mut device = Device(Gpu::new());
        if let Some(seed) = self.schedule {
            device.0.set_schedule(seed);
        }
        let kv = self.cache(&mut device);
        let work = AttentionWork::new(rows);
        let words = |f: &dyn Fn(&BatchRow) -> u32| -> Vec<u32> { rows.iter().map(f).collect() };
        let slots = words(&|row| slot_word(row.slot));
        let width = (heads + 2 * kv_heads) * head_dim;
        let row_bytes = u64::from(width) * self.dtype.size() as u64;
        let qkv = device.alloc(u64::from(n) * row_bytes);
        for (i, row) in (0..).zip(rows) {
            // The row's keys and values stay unwritten, so nothing may read them.
            let bytes = self.dtype.to_bytes(&self.queries(row));
            device.write(qkv + i * row_bytes, &bytes);
        }
        let out_bytes = u64::from(n * heads * head_dim) * self.dtype.size() as u64;
        let attend = Attend::new(AttnShape {
            heads: heads as usize,
            kv_heads: kv_heads as usize,
            head_dim: head_dim as usize,
        });
        let mut attention = Attention {
            attend: &attend,
            qkv,
            out: device.alloc(out_bytes),
            slot: device.words(&slots),
            position: device.words(&words(&|row| row.position)),
            words: device.words(&work.words()),
            scratch: 0,
            rows: &work,
            n,
            heads,
            kv,
            splits,
        };
        attention.scratch = device.alloc(attention.scratch_bytes());
        let launches = attention.launches().into_iter();
        let ran = launches.map(|launch| {
            let report = device.launch(&launch);
            (launch, report)
        });
        let ran = ran.collect();
        let mut out = vec![0; out_bytes as usize];
        device
            .0
            .read(attention.out, &mut out)
            .expect("every row is written");
        let out = self.dtype.to_f32(&out);
        let out = out.chunks_exact((heads * head_dim) as usize);
        Run {
            out: out.map(<[f32]>::to_vec).collect(),
            ran,
        }
    }

    /// The cache, with unwritten space after each segment.
    fn cache(&self, device: &mut Device) -> KvLayer {
        let (_, kv_heads, head_dim) = self.case.heads;
        let branches = self.case.branches;
        let slots = branches.len() as u32;
        // Where each prefix begins.
        let mut starts = vec![0];
        for &[positions, _] in self.case.prefixes {
            starts.push(starts[starts.len() - 1] + positions + 3);
        }
        let shared = starts[self.prefixes.len()];
        let own = branches.iter().map(|b| b.own).max().unwrap_or(0) + 2;
        let prefixes = starts[..self.prefixes.len()].iter().rev();
        let mut places: Vec<u32> = prefixes.flat_map(|&start| [start, 0]).collect();
        for branch in branches {
            places.extend([starts[branch.prefix as usize], branch.seen]);
        }
        let mut kv = KvLayer {
            keys: 0,
            values: 0,
            own_offset: KvLayer::shared_bytes(
                kv_heads as usize,
                head_dim as usize,
                shared as usize,
                self.dtype,
            ),
            places: device.words(&places) + 8 * self.prefixes.len() as u64,
            kv_heads,
            head_dim,
            shared,
            longest: shared,
            own,
            slots,
            dtype: self.dtype,
        };
        kv.keys = device.alloc(kv.bytes());
        kv.values = device.alloc(kv.bytes());
        let row = u64::from(head_dim) * self.dtype.size() as u64;
        for head in 0..kv_heads {
            for (start, content) in starts.iter().zip(&self.prefixes) {
                let at = u64::from(head * shared + start) * row;
                content.store(self, head, &kv, at, device);
            }
            for (slot, content) in (0..).zip(&self.own) {
                let at = kv.own_offset + u64::from((slot * kv_heads + head) * own) * row;
                content.store(self, head, &kv, at, device);
            }
        }
        kv
    }

    /// How the kernel for row `i` walks along the keys; `keys` is the length of a split of single rows, if there are
    /// splits.
    fn walk(&self, rows: &[BatchRow], i: usize, keys: Option<usize>) -> Walk {
        let row = &rows[i];
        let neighbour =
            |other: &BatchRow| other.slot == row.slot && other.position.abs_diff(row.position) == 1;
        let single = matches!(row.slot, Slot::Branch(_)) && !rows.iter().any(neighbour);
        match (self.dtype, keys) {
            (DType::F32, _) => Walk::F32,
            (dtype, Some(keys)) if single => Walk::Parts { dtype, keys },
            (dtype, _) => Walk::Whole(dtype),
        }
    }

    /// The expected row `i` of `rows`, `[heads * head_dim]`; for `keys` see [`walk`](Self::walk).
    pub(super) fn want(&self, rows: &[BatchRow], i: usize, keys: Option<usize>) -> Vec<Want> {
        let (heads, kv_heads, head_dim) = self.case.heads;
        let row = &rows[i];
        let position = row.position as usize;
        let queries = self.queries(row);
        let mut wants = Vec::new();
        for (head, q) in (0..).zip(queries.chunks_exact(head_dim as usize)) {
            let kv_head = (head / (heads / kv_heads)) as usize;
            let segments = match row.slot {
                Slot::Prefix(prefix) => {
                    let prefix = &self.prefixes[prefix as usize];
                    [prefix.segment(self, kv_head, position + 1), vec![]]
                }
                Slot::Branch(slot) => {
                    let branch = &self.case.branches[slot as usize];
                    let (prefix, seen) = (branch.prefix as usize, branch.seen as usize);
                    let own = &self.own[slot as usize];
                    [
                        self.prefixes[prefix].segment(self, kv_head, seen),
                        own.segment(self, kv_head, position - seen + 1),
                    ]
                }
            };
            wants.extend(attend(self.walk(rows, i, keys), q, &segments));
        }
        wants
    }
}

impl Content {
    /// The first `len` positions of a head.
    fn segment(&self, problem: &Problem<'_>, head: usize, len: usize) -> Segment<'_> {
        let head_dim = problem.case.heads.2 as usize;
        let of = |all: &[f32]| head * self.positions * head_dim..all.len();
        let keys = self.keys[of(&self.keys)].chunks_exact(head_dim);
        let values = self.values[of(&self.values)].chunks_exact(head_dim);
        keys.zip(values).take(len).collect()
    }

    /// Writes a head to `at` of the cache.
    fn store(&self, problem: &Problem<'_>, head: u32, kv: &KvLayer, at: u64, device: &mut Device) {
        let n = self.positions * problem.case.heads.2 as usize;
        let range = head as usize * n..(head as usize + 1) * n;
        device.write(
            kv.keys + at,
            &problem.dtype.to_bytes(&self.keys[range.clone()]),
        );
        device.write(kv.values + at, &problem.dtype.to_bytes(&self.values[range]));
    }
}

/// The simulator; every error is a test failure.
struct Device(Gpu);

impl Device {
    fn alloc(&mut self, bytes: u64) -> u64 {
        self.0.alloc(bytes).expect("there is memory")
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.0.write(at, bytes).expect("it lies in an allocation");
    }

    fn words(&mut self, words: &[u32]) -> u64 {
        let at = self.alloc(4 * words.len() as u64);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(at, &bytes);
        at
    }

    fn launch(&mut self, launch: &Launch) -> Report {
        let name = launch.module.name();
        let module = selfie_sim::module(launch.module).unwrap_or_else(|e| panic!("{e}"));
        let config = Config {
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.shared_bytes,
        };
        let args: Vec<SimArg> = launch
            .args
            .iter()
            .map(|&arg| match arg {
                Arg::Ptr(x) | Arg::U64(x) => SimArg::U64(x),
                Arg::U32(x) => SimArg::U32(x),
                Arg::F32(x) => SimArg::F32(x),
            })
            .collect();
        let report = self.0.launch(&module, launch.entry, &config, &args);
        report.unwrap_or_else(|e| panic!("{name}, {}: {e}", launch.entry))
    }
}
