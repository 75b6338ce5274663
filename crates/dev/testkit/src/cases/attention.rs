//! Rotation, the cache and attention.

use selfie_kernels::{Attend, AttnShape, Backend, BatchRow, KvLayout, Slot, reference};

use super::tables::{ATTEND, AttendCase, FORK, Fork, Heads, PLAIN, ROPE, RULES, Rope, Rule};
use super::*;

const THETA: f64 = 10_000.0;

fn shape((heads, kv_heads, head_dim): Heads) -> AttnShape {
    AttnShape {
        heads,
        kv_heads,
        head_dim,
    }
}

/// A row; its token does not matter.
fn row(slot: Slot, position: usize) -> BatchRow {
    BatchRow {
        token: 0,
        slot,
        position: position as u32,
    }
}

fn batch_of<B: Backend>(backend: &B, rows: &[BatchRow]) -> B::Batch {
    let mut batch = must("batch", backend.batch(rows.len()));
    must("load_batch", backend.load_batch(rows, &mut batch));
    batch
}

/// Rotates every head of `heads` (`[n * head_dim]`).
fn rotated(heads: &[f32], table: &[f32], head_dim: usize) -> Vec<f32> {
    let mut heads = heads.to_vec();
    for head in heads.chunks_exact_mut(head_dim) {
        reference::rope(head, table);
    }
    heads
}

/// The sum of the magnitudes of both products of each rotated value; the magnitudes of the others.
fn rotated_magnitude(heads: &[f32], table: &[f32], head_dim: usize) -> Vec<f32> {
    let mut table = abs(table);
    let half = table.len() / 2;
    // With the sign of the second term flipped, the first half is a sum too; the second half already is one.
    let sum = rotated(&abs(heads), &table, head_dim);
    table[half..].iter_mut().for_each(|sin| *sin = -*sin);
    let mut out = rotated(&abs(heads), &table, head_dim);
    for (out, sum) in out
        .chunks_exact_mut(head_dim)
        .zip(sum.chunks_exact(head_dim))
    {
        out[half..].copy_from_slice(&sum[half..]);
    }
    out
}

/// Checks the queries and the values; the contents of `qkv`'s other columns are unspecified. [`check_attend`] sees the
/// keys.
pub fn check_rope_append<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "rope_append");
    for dtype in projection_dtypes::<B>() {
        for (seed, case) in ROPE.iter().enumerate() {
            check_rotation(backend, seed, case, dtype, &mut errors);
        }
    }
    errors.finish();
}

/// A case, with queries, keys and values and the cache in `dtype`.
fn check_rotation<B: Backend>(
    backend: &B,
    seed: usize,
    case: &Rope,
    dtype: DType,
    errors: &mut Errors,
) {
    let shape = shape(case.heads);
    let (q_dim, width) = (shape.q_dim(), shape.qkv_dim());
    let positions = case.positions.iter().max().map_or(0, |&p| p as usize + 1);
    let layout = KvLayout {
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        prefixes: vec![],
        own: vec![positions],
        slots: case.positions.len(),
        dtype,
    };
    let rows: Vec<BatchRow> = case
        .positions
        .iter()
        .enumerate()
        .map(|(slot, &position)| row(Slot::Branch(slot as u32), position as usize))
        .collect();
    let batch = batch_of(backend, &rows);
    let before = values(seed as u64, rows.len() * width, (-2.0, 2.0));
    let before = rounded(dtype, &before);
    // All columns of a head, some of them, or none.
    let part = (shape.head_dim / 4 * 2).max(2);
    for rotated_columns in [shape.head_dim, part, 0] {
        let table = reference::rope_table(positions, rotated_columns, THETA);
        let rope = (rotated_columns > 0).then(|| rows_of(backend, &table, rotated_columns));
        let rope = rope.as_ref();
        let mut qkv = projections_of(backend, &before, width, dtype);
        let mut kv = must("kv", backend.kv(&layout));
        let result = backend.rope_append(&shape, rope, &batch, 0, &mut qkv, &mut kv);
        must("rope_append", result);
        let after = read_all(backend, &qkv);
        let rows = before.chunks_exact(width).zip(after.chunks_exact(width));
        for (&position, (before, after)) in case.positions.iter().zip(rows) {
            let name = format!("{dtype} {shape:?} at {position}, {rotated_columns} rotated");
            let table = &table[position as usize * rotated_columns..][..rotated_columns];
            let (q, got) = (&before[..q_dim], &after[..q_dim]);
            if rope.is_some() {
                let dim = shape.head_dim;
                let magnitude = rotated_magnitude(q, table, dim);
                let bound = |i: usize| 3.0 * U * f64::from(magnitude[i]);
                let name = format_args!("{name}, queries");
                errors.compare_acts(name, dtype, got, &rotated(q, table, dim), bound);
            } else {
                errors.compare(format_args!("{name}, queries"), got, q, |_| 0.0);
            }
            let v = q_dim + shape.kv_dim();
            let name = format_args!("{name}, values");
            errors.compare(name, &after[v..], &before[v..], |_| 0.0);
        }
    }
}

/// A slot that continues one of several prefixes has the same bits as in a cache with that prefix alone, whatever its
/// neighbours in the batch continue.
pub fn check_prefixes<B: Operands>(backend: &B) {
    const PREFIXES: [usize; 3] = [17, 70, 1];
    /// The prefix, how many of its positions are seen, and the end of the positions after them.
    const SLOTS: [(u32, usize, usize); 6] = [
        (1, 70, 74),
        (0, 17, 18),
        (2, 1, 9),
        (1, 66, 67),
        (0, 5, 25),
        (1, 70, 71),
    ];
    let shape = shape((4, 2, 16));
    let mut errors = Errors::new(backend, "several prefixes");
    for &dtype in B::KV {
        let run = |prefixes: &[u32], slots: &[usize]| {
            let layout = KvLayout {
                kv_heads: shape.kv_heads,
                head_dim: shape.head_dim,
                prefixes: prefixes.iter().map(|&p| PREFIXES[p as usize]).collect(),
                own: vec![30],
                slots: slots.len(),
                dtype,
            };
            let mut cache = Cache {
                shape,
                dtype,
                kv: must("kv", backend.kv(&layout)),
            };
            for (at, &prefix) in (0..).zip(prefixes) {
                let rows = (0..PREFIXES[prefix as usize]).map(|p| row(Slot::Prefix(at), p));
                cache.attend(
                    backend,
                    0,
                    &rows.collect::<Vec<_>>(),
                    10 + u64::from(prefix),
                );
            }
            let mut rows: [Vec<(BatchRow, u64)>; 2] = [vec![], vec![]];
            for (at, &slot) in slots.iter().enumerate() {
                let (prefix, seen, end) = SLOTS[slot];
                let prefix = prefixes.iter().position(|&p| p == prefix);
                let prefix = prefix.map_or(0, |p| p as u32);
                let shared = backend.kv_share(&mut cache.kv, at, prefix, &[seen]);
                must("kv_share", shared);
                let row = |p| (row(Slot::Branch(at as u32), p), slot as u64);
                rows[0].extend((seen..end).map(row));
                rows[1].push(row(end));
            }
            // All rows of the prefixes, then one more row of each slot.
            rows.map(|rows| {
                let width = shape.q_dim();
                let values = cache.attend_rows(backend, 0, &rows);
                let values = values.chunks_exact(width).map(<[f32]>::to_vec);
                let of_slot = rows.iter().map(|&(row, slot)| (slot, row.position));
                of_slot.zip(values).collect::<Vec<_>>()
            })
        };
        let together = run(&[0, 1, 2], &[0, 1, 2, 3, 4, 5]);
        for (slot, &(prefix, ..)) in SLOTS.iter().enumerate() {
            let alone = run(&[prefix], &[slot]);
            for (together, alone) in together.iter().zip(alone) {
                let own = together.iter().filter(|((of, _), _)| *of == slot as u64);
                let got: Vec<_> = own.cloned().collect();
                errors.equal(format_args!("{dtype}, slot {slot}"), got, alone);
            }
        }
    }
    errors.finish();
}

/// What is past the largest f16 in a cache of f16 becomes NaN, and so does every row that sees it. An infinite key
/// could hide: its score may be -inf, or be capped. The same holds for queries where they are rounded.
pub fn check_f16_overflow<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "attend, past the largest f16");
    let shape = shape((2, 1, 16));
    let (q_dim, width) = (shape.q_dim(), shape.qkv_dim());
    let queries = B::operand(DType::F16) == DType::F16;
    // The column that overflows at position 1, and the first row and column of the output that are NaN. A value that a
    // row does not see may be multiplied by a weight of 0, so only a key leaves earlier rows unaffected.
    let cases = [
        ("a query", 0, queries.then_some(1..2)),
        ("a key", q_dim, Some(1..4)),
        ("a value", q_dim + shape.kv_dim(), Some(1..4)),
    ];
    for (what, column, nan_rows) in cases {
        for softcap in [None, Some(20.0)] {
            let attend = Attend {
                softcap,
                ..Attend::new(shape)
            };
            let layout = KvLayout {
                kv_heads: shape.kv_heads,
                head_dim: shape.head_dim,
                prefixes: vec![],
                own: vec![4],
                slots: 2,
                dtype: DType::F16,
            };
            let mut kv = must("kv", backend.kv(&layout));
            let mut run = |positions: std::ops::Range<usize>| {
                let slots = positions.flat_map(|at| [0, 1].map(|slot| (slot, at)));
                let mut slots: Vec<(u32, usize)> = slots.collect();
                slots.sort_unstable();
                let qkv = slots.iter().flat_map(|&(slot, at)| {
                    // The first column of queries is positive, and that of the key is not.
                    let mut qkv = values(at as u64, width, (0.5, 1.0));
                    if (slot, at) == (0, 1) {
                        qkv[column] = -70_000.0;
                    }
                    qkv
                });
                let qkv: Vec<f32> = qkv.collect();
                let mut qkv = projections_of(backend, &qkv, width, DType::F16);
                let rows = slots.iter().map(|&(slot, at)| row(Slot::Branch(slot), at));
                let batch = batch_of(backend, &rows.collect::<Vec<_>>());
                let appended = backend.rope_append(&shape, None, &batch, 0, &mut qkv, &mut kv);
                must("rope_append", appended);
                let mut out = must("acts", backend.acts(slots.len(), q_dim, DType::F16));
                let attended = backend.attend(&attend, &qkv, &batch, 0, &kv, &mut out);
                must("attend", attended);
                let out = read_acts(backend, &out, slots.len());
                let rows = out.chunks_exact(q_dim).map(<[f32]>::to_vec);
                slots.into_iter().zip(rows).collect::<Vec<_>>()
            };
            // A prompt, then single rows.
            let mut rows = run(0..3);
            rows.extend(run(3..4));
            for ((slot, at), out) in rows {
                let name = format_args!("{what}, cap {softcap:?}, position {at} of slot {slot}");
                let nan = nan_rows.as_ref().is_some_and(|rows| rows.contains(&at)) && slot == 0;
                if nan {
                    errors.equal(name, out[0].is_nan(), true);
                } else if slot == 1 || what == "a key" {
                    errors.equal(name, out.iter().all(|x| x.is_finite()), true);
                }
            }
        }
    }
    errors.finish();
}

/// Rows after a fork have the same bits as after the same rows in a slot that was filled with them.
pub fn check_kv_copy<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "kv_copy");
    for case in FORK {
        for &dtype in B::KV {
            // Rows of a head that are not aligned to 16 bytes must be f32.
            let narrow = (dtype == DType::F32).then_some((2, 1, 6));
            for heads in [Some((4, 2, 16)), narrow].into_iter().flatten() {
                let shape = shape(heads);
                let name = format!("{dtype} {heads:?}, {} positions", case.positions);
                let [got, want] = [true, false].map(|copy| {
                    let mut forked = Forked::new(backend, case, shape, dtype);
                    if copy {
                        let (from, positions) = (case.from, case.positions);
                        let copied = backend.kv_copy(&mut forked.cache.kv, from, 1, positions);
                        must("kv_copy", copied);
                    } else {
                        forked.fill(backend);
                    }
                    forked.what_follows(backend)
                });
                errors.equal(format_args!("{name}"), got, want);
            }
        }
    }
    errors.finish();
}

/// A cache, and the parameters of its rows.
struct Cache<B: Backend> {
    shape: AttnShape,
    dtype: DType,
    kv: B::Kv,
}

impl<B: Backend> Cache<B> {
    /// Appends rows, whose values depend on `seed`, layer and position, and attends to them.
    fn attend(&mut self, backend: &B, layer: usize, rows: &[BatchRow], seed: u64) -> Vec<f32> {
        let rows: Vec<_> = rows.iter().map(|&row| (row, seed)).collect();
        self.attend_rows(backend, layer, &rows)
    }

    /// Like [`attend`](Self::attend), with a seed for each row.
    fn attend_rows(&mut self, backend: &B, layer: usize, rows: &[(BatchRow, u64)]) -> Vec<f32> {
        if rows.is_empty() {
            return Vec::new();
        }
        let (n, width, q_dim) = (rows.len(), self.shape.qkv_dim(), self.shape.q_dim());
        let of_row = |(row, seed): &(BatchRow, u64)| {
            let seed = 1000 * seed + 100 * layer as u64 + u64::from(row.position);
            values(seed, width, (-1.0, 1.0))
        };
        let qkv: Vec<f32> = rows.iter().flat_map(of_row).collect();
        let mut qkv = projections_of(backend, &qkv, width, self.dtype);
        let rows: Vec<BatchRow> = rows.iter().map(|&(row, _)| row).collect();
        let batch = batch_of(backend, &rows);
        let (shape, kv) = (&self.shape, &mut self.kv);
        let appended = backend.rope_append(shape, None, &batch, layer, &mut qkv, kv);
        must("rope_append", appended);
        let mut out = must("acts", backend.acts(n, q_dim, self.dtype));
        let attended = backend.attend(&Attend::new(*shape), &qkv, &batch, layer, kv, &mut out);
        must("attend", attended);
        read_acts(backend, &out, n)
    }
}

/// A cache with two slots; the second one becomes a fork.
struct Forked<'a, B: Backend> {
    case: &'a Fork,
    cache: Cache<B>,
}

impl<'a, B: Backend> Forked<'a, B> {
    fn new(backend: &B, case: &'a Fork, shape: AttnShape, dtype: DType) -> Self {
        let layout = KvLayout {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            prefixes: vec![4, 2],
            own: vec![12, 12],
            slots: 2,
            dtype,
        };
        let kv = must("kv", backend.kv(&layout));
        let mut forked = Self {
            case,
            cache: Cache { shape, dtype, kv },
        };
        for slot in 0..2 {
            let (prefix, seen) = forked.view(slot);
            let cache = &mut forked.cache;
            let shared = backend.kv_share(&mut cache.kv, slot, prefix, &seen);
            must("kv_share", shared);
            for (layer, seen) in seen.into_iter().enumerate() {
                for (prefix, n) in [(0, 4), (1, 2)] {
                    let rows = (0..n).map(|at| row(Slot::Prefix(prefix), at));
                    let rows: Vec<BatchRow> = rows.collect();
                    cache.attend(backend, layer, &rows, 3 + u64::from(prefix));
                }
                let end = if slot == 0 { 9 } else { 6 };
                let rows = |at| row(Slot::Branch(slot as u32), at);
                let rows: Vec<BatchRow> = (seen..end).map(rows).collect();
                cache.attend(backend, layer, &rows, slot as u64);
            }
        }
        forked
    }

    /// The prefix of a slot, and how many positions of it the slot sees.
    fn view(&self, slot: usize) -> (u32, [usize; 2]) {
        match slot {
            0 => (0, self.case.seen),
            _ => (1, [2, 1]),
        }
    }

    /// Fills slot 1 with the contents of a fork.
    fn fill(&mut self, backend: &B) {
        let (prefix, seen) = self.view(self.case.from);
        let shared = backend.kv_share(&mut self.cache.kv, 1, prefix, &seen);
        must("kv_share", shared);
        for (layer, seen) in seen.into_iter().enumerate() {
            let rows = (seen..self.case.positions).map(|at| row(Slot::Branch(1), at));
            let (rows, seed): (Vec<BatchRow>, _) = (rows.collect(), self.case.from as u64);
            self.cache.attend(backend, layer, &rows, seed);
        }
    }

    /// Two more rows of the fork at each layer, and one of slot 0.
    fn what_follows(&mut self, backend: &B) -> Vec<Vec<f32>> {
        let (_, seen) = self.view(self.case.from);
        let mut all = Vec::new();
        for (layer, seen) in seen.into_iter().enumerate() {
            let next = seen.max(self.case.positions);
            let rows = [row(Slot::Branch(1), next), row(Slot::Branch(1), next + 1)];
            all.push(self.cache.attend(backend, layer, &rows, 2));
            let rows = [row(Slot::Branch(0), 9)];
            all.push(self.cache.attend(backend, layer, &rows, 0));
        }
        all
    }
}

pub fn check_attend<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "attend");
    for (seed, case) in ATTEND.iter().enumerate() {
        for &dtypes in B::ATTENTION {
            for rule in [PLAIN, RULES[seed % RULES.len()]] {
                let mut run = Run::new(backend, case, rule, dtypes);
                for (step, rows) in steps(case).into_iter().enumerate() {
                    let seed = (seed * 10 + step) as u64;
                    run.step(backend, rows, seed, &mut errors);
                }
            }
        }
    }
    errors.finish();
}

/// The layer whose queries and keys are not rotated.
const UNROTATED: usize = 1;

/// The batches of a case, for each of two layers: the shared prompts, the branches, then one more token per branch.
fn steps(case: &AttendCase) -> Vec<[Vec<BatchRow>; 2]> {
    let prefixes = (0..).zip(case.prefixes);
    let shared: Vec<BatchRow> = prefixes
        .flat_map(|(prefix, &n)| (0..n).map(move |p| row(Slot::Prefix(prefix), p)))
        .collect();
    // Rows of the branches alternate, so that neighbours in the batch belong to different branches.
    let turns = |layer: usize| {
        let mut rows = Vec::new();
        let longest = case.branches.iter().map(|b| b.end).max().unwrap_or(0);
        for i in 0..longest {
            for (slot, branch) in case.branches.iter().enumerate() {
                if branch.seen[layer] + i < branch.end {
                    rows.push(row(Slot::Branch(slot as u32), branch.seen[layer] + i));
                }
            }
        }
        rows
    };
    let more = case.branches.iter().enumerate();
    let more: Vec<BatchRow> = more
        .map(|(slot, branch)| row(Slot::Branch(slot as u32), branch.end))
        .collect();
    let all = [
        [shared.clone(), shared],
        [turns(0), turns(1)],
        [more.clone(), more],
    ];
    all.into_iter().filter(|rows| !rows[0].is_empty()).collect()
}

/// A key or value at one position, with the key's magnitudes: `[kv_dim]` each.
struct Position {
    key: Vec<f32>,
    key_magnitude: Vec<f32>,
    value: Vec<f32>,
}

/// A layer's keys and values according to the reference.
struct History {
    prefixes: Vec<Vec<Position>>,
    own: Vec<Vec<Position>>,
}

/// A backend and the reference, running through a case.
struct Run<'a, B: Backend> {
    case: &'a AttendCase,
    /// The dtypes of keys and values, and of the weights that the output is for.
    dtypes: [DType; 2],
    shape: AttnShape,
    attend: Attend,
    table: Vec<f32>,
    rope: B::Rows,
    kv: B::Kv,
    histories: [History; 2],
}

impl<'a, B: Operands> Run<'a, B> {
    fn new(
        backend: &B,
        case: &'a AttendCase,
        (window, softcap, factor): Rule,
        dtypes: [DType; 2],
    ) -> Self {
        let shape = shape(case.heads);
        let plain = Attend::new(shape);
        let attend = Attend {
            scale: factor * plain.scale,
            window,
            softcap,
            ..plain
        };
        let end = case.branches.iter().map(|b| b.end).max().unwrap_or(0) + 1;
        let longest = case.prefixes.iter().copied().max().unwrap_or(0);
        let table = reference::rope_table(end.max(longest), shape.head_dim, THETA);
        let own = |layer: usize| {
            let lengths = case.branches.iter().map(|b| b.end - b.seen[layer] + 1);
            lengths.max().unwrap_or(0)
        };
        let layout = KvLayout {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            prefixes: case.prefixes.to_vec(),
            own: vec![own(0), own(1)],
            slots: case.branches.len(),
            dtype: dtypes[0],
        };
        let mut kv = must("kv", backend.kv(&layout));
        for (slot, branch) in case.branches.iter().enumerate() {
            let shared = backend.kv_share(&mut kv, slot, branch.prefix, &branch.seen);
            must("kv_share", shared);
        }
        let history = || History {
            prefixes: case.prefixes.iter().map(|_| Vec::new()).collect(),
            own: case.branches.iter().map(|_| Vec::new()).collect(),
        };
        Self {
            case,
            dtypes,
            shape,
            attend,
            rope: rows_of(backend, &table, shape.head_dim),
            table,
            kv,
            histories: [history(), history()],
        }
    }

    /// Appends to both layers before attending, to detect a layer that writes into the other.
    fn step(&mut self, backend: &B, rows: [Vec<BatchRow>; 2], seed: u64, errors: &mut Errors) {
        let width = self.shape.qkv_dim();
        let layers: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(layer, rows)| {
                let seed = 2 * seed + layer as u64;
                let values = values(seed, rows.len() * width, self.case.qkv);
                let batch = batch_of(backend, rows);
                let mut qkv = rows_of(backend, &values, width);
                let rope = self.rotates(layer).then_some(&self.rope);
                let (shape, kv) = (&self.shape, &mut self.kv);
                let appended = backend.rope_append(shape, rope, &batch, layer, &mut qkv, kv);
                must("rope_append", appended);
                for (row, values) in rows.iter().zip(values.chunks_exact(width)) {
                    self.remember(layer, row, values);
                }
                (batch, qkv, values)
            })
            .collect();
        for (layer, (batch, qkv, values)) in layers.iter().enumerate() {
            let (n, width) = (rows[layer].len(), self.shape.q_dim());
            let weights = self.dtypes[1];
            let mut out = must("acts", backend.acts(n, width, weights));
            let result = backend.attend(&self.attend, qkv, batch, layer, &self.kv, &mut out);
            must("attend", result);
            let got = read_acts(backend, &out, n);
            let qkv = values.chunks_exact(self.shape.qkv_dim());
            for ((row, qkv), got) in rows[layer].iter().zip(qkv).zip(got.chunks_exact(width)) {
                self.compare(layer, row, &qkv[..width], got, errors);
            }
        }
    }

    /// Keys kept in 16 bits are given unrotated: if the oracle's rotation and the backend's fell on different sides of
    /// a tie, the stored keys would differ.
    fn rotates(&self, layer: usize) -> bool {
        layer != UNROTATED && self.dtypes[0] == DType::F32
    }

    /// The layer's rotation of heads of a row (`[n * head_dim]`), and the magnitude of the result.
    fn turned(&self, layer: usize, row: &BatchRow, heads: &[f32]) -> (Vec<f32>, Vec<f32>) {
        if !self.rotates(layer) {
            return (heads.to_vec(), abs(heads));
        }
        let dim = self.shape.head_dim;
        let table = &self.table[row.position as usize * dim..][..dim];
        (
            rotated(heads, table, dim),
            rotated_magnitude(heads, table, dim),
        )
    }

    fn remember(&mut self, layer: usize, row: &BatchRow, qkv: &[f32]) {
        let (key, value) = qkv[self.shape.q_dim()..].split_at(self.shape.kv_dim());
        let (key, key_magnitude) = self.turned(layer, row, key);
        let kept = |values: &[f32]| -> Vec<f32> {
            let round = |&x| reference::round(self.dtypes[0], x);
            values.iter().map(round).collect()
        };
        let position = Position {
            key: kept(&key),
            key_magnitude: kept(&key_magnitude),
            value: kept(value),
        };
        match row.slot {
            Slot::Prefix(prefix) => {
                self.histories[layer].prefixes[prefix as usize].push(position);
            }
            Slot::Branch(slot) => self.histories[layer].own[slot as usize].push(position),
        }
    }

    /// The positions that a row may see: up to its own, first of a prefix and then of its branch.
    fn visible(&self, layer: usize, row: &BatchRow) -> Vec<&Position> {
        let history = &self.histories[layer];
        let n = row.position as usize + 1;
        match row.slot {
            Slot::Prefix(prefix) => history.prefixes[prefix as usize][..n].iter().collect(),
            Slot::Branch(slot) => {
                let branch = &self.case.branches[slot as usize];
                let seen = branch.seen[layer];
                let own = &history.own[slot as usize][..n - seen];
                // Nothing is seen of a prefix that does not exist.
                let prefix = history.prefixes.get(branch.prefix as usize);
                let prefix = prefix.map_or(&[][..], |prefix| &prefix[..seen]);
                prefix.iter().chain(own).collect()
            }
        }
    }

    fn compare(&self, layer: usize, row: &BatchRow, q: &[f32], got: &[f32], errors: &mut Errors) {
        let shape = &self.shape;
        let visible = self.visible(layer, row);
        let keys: Vec<&[f32]> = visible.iter().map(|p| &p.key[..]).collect();
        let key_values: Vec<&[f32]> = visible.iter().map(|p| &p.value[..]).collect();
        let (q, q_magnitude) = self.turned(layer, row, q);
        let want = reference::attend(&self.attend, &q, &keys, &key_values);
        let magnitudes: Vec<Vec<f32>> = visible.iter().map(|p| abs(&p.value)).collect();
        let magnitudes: Vec<&[f32]> = magnitudes.iter().map(|v| &v[..]).collect();
        let magnitude = reference::attend(&self.attend, &q, &keys, &magnitudes);
        // A weight is off by the error of its own score and that of the normalizer: the sum over the head, and three
        // roundings in the rotation of the query and of the key. Then comes the weights' sum.
        let score = self.largest_score(&q_magnitude, &visible);
        // A cap increases no error, apart from the error of its own tanh.
        let cap = f64::from(self.attend.softcap.unwrap_or(0.0));
        let score_error = (sum_bound(shape.head_dim) + 6.0 * U) * score + 8.0 * U * cap;
        let bound = (2.0 * score_error).exp_m1() + sum_bound(visible.len()) + 12.0 * U;
        errors.compare_acts(
            format_args!(
                "{:?} layer {layer}, {row:?}, {:?}",
                self.attend, self.dtypes
            ),
            B::operand(self.dtypes[1]),
            got,
            &want,
            |i| bound * f64::from(magnitude[i]),
        );
    }

    /// The largest sum of magnitudes of a score, scaled.
    fn largest_score(&self, q: &[f32], visible: &[&Position]) -> f64 {
        let dim = self.shape.head_dim;
        let group = self.shape.heads / self.shape.kv_heads;
        let mut largest = 0f64;
        for (head, q) in q.chunks_exact(dim).enumerate() {
            for position in visible {
                let key = &position.key_magnitude[head / group * dim..][..dim];
                let sum: f64 = q.iter().zip(key).map(|(q, k)| f64::from(q * k)).sum();
                largest = largest.max(sum);
            }
        }
        largest * f64::from(self.attend.scale)
    }
}
