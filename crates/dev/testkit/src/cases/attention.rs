//! Rotation, the cache and attention.

use selfie_kernels::{AttnShape, Backend, BatchRow, KvLayout, Slot, reference};

use super::tables::{ATTEND, Attend, Heads, ROPE};
use super::*;

const THETA: f64 = 10_000.0;

fn shape((heads, kv_heads, head_dim): Heads) -> AttnShape {
    AttnShape {
        heads,
        kv_heads,
        head_dim,
    }
}

/// A row; its token does not matter here.
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
fn rotated(heads: &[f32], table: &[f32]) -> Vec<f32> {
    let mut heads = heads.to_vec();
    for head in heads.chunks_exact_mut(table.len()) {
        reference::rope(head, table);
    }
    heads
}

/// What both products of each rotated value add up to in magnitude.
fn rotated_magnitude(heads: &[f32], table: &[f32]) -> Vec<f32> {
    let mut table = abs(table);
    let half = table.len() / 2;
    // With the sign of the second term turned, the first half is a sum too; the second half is one as it is.
    let sum = rotated(&abs(heads), &table);
    table[half..].iter_mut().for_each(|sin| *sin = -*sin);
    let mut out = rotated(&abs(heads), &table);
    for (out, sum) in out
        .chunks_exact_mut(2 * half)
        .zip(sum.chunks_exact(2 * half))
    {
        out[half..].copy_from_slice(&sum[half..]);
    }
    out
}

/// The queries; what rows hold beside them is not specified, but for the values. Keys are seen by [`check_attend`].
pub fn check_rope_append<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "rope_append");
    for (seed, case) in ROPE.iter().enumerate() {
        let shape = shape(case.heads);
        let (q_dim, width) = (shape.q_dim(), shape.qkv_dim());
        let positions = case.positions.iter().max().map_or(0, |&p| p as usize + 1);
        let table = reference::rope_table(positions, shape.head_dim, THETA);
        let layout = KvLayout {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            shared: 0,
            own: vec![positions],
            slots: case.positions.len(),
            weights: DType::F32,
        };
        let rows: Vec<BatchRow> = case
            .positions
            .iter()
            .enumerate()
            .map(|(slot, &position)| row(Slot::Branch(slot as u32), position as usize))
            .collect();
        let batch = batch_of(backend, &rows);
        let before = values(seed as u64, rows.len() * width, (-2.0, 2.0));
        let rope = rows_of(backend, &table, shape.head_dim);
        for rope in [Some(&rope), None] {
            let mut qkv = rows_of(backend, &before, width);
            let mut kv = must("kv", backend.kv(&layout));
            let result = backend.rope_append(&shape, rope, &batch, 0, &mut qkv, &mut kv);
            must("rope_append", result);
            let after = read_all(backend, &qkv);
            let rows = before.chunks_exact(width).zip(after.chunks_exact(width));
            for (&position, (before, after)) in case.positions.iter().zip(rows) {
                let name = format!("{shape:?} at {position}, rotated: {}", rope.is_some());
                let table = &table[position as usize * shape.head_dim..][..shape.head_dim];
                let (q, got) = (&before[..q_dim], &after[..q_dim]);
                if rope.is_some() {
                    let magnitude = rotated_magnitude(q, table);
                    let bound = |i: usize| 3.0 * U * f64::from(magnitude[i]);
                    let name = format_args!("{name}, queries");
                    errors.compare(name, got, &rotated(q, table), bound);
                } else {
                    errors.compare(format_args!("{name}, queries"), got, q, |_| 0.0);
                }
                let v = q_dim + shape.kv_dim();
                let name = format_args!("{name}, values");
                errors.compare(name, &after[v..], &before[v..], |_| 0.0);
            }
        }
    }
    errors.finish();
}

pub fn check_attend<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "attend");
    for (seed, case) in ATTEND.iter().enumerate() {
        for &weights in B::ATTENTION {
            let mut run = Run::new(backend, case, weights);
            for (step, rows) in steps(case).into_iter().enumerate() {
                let seed = (seed * 10 + step) as u64;
                run.step(backend, rows, seed, &mut errors);
            }
        }
    }
    errors.finish();
}

/// The layer whose queries and keys are not rotated.
const UNROTATED: usize = 1;

/// The batches of a case, for each of two layers: the shared prompt, the branches, one more token a branch.
fn steps(case: &Attend) -> Vec<[Vec<BatchRow>; 2]> {
    let shared: Vec<BatchRow> = (0..case.shared).map(|p| row(Slot::Shared, p)).collect();
    // Rows of the branches take turns, so that neighbours in the batch belong to different ones.
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

/// A key or value of one position, with the key's magnitudes: `[kv_dim]` each.
struct Position {
    key: Vec<f32>,
    key_magnitude: Vec<f32>,
    value: Vec<f32>,
}

/// What a layer has of keys and values by the reference.
struct History {
    shared: Vec<Position>,
    own: Vec<Vec<Position>>,
}

/// A backend and the reference, walking through a case.
struct Run<'a, B: Backend> {
    case: &'a Attend,
    weights: DType,
    shape: AttnShape,
    table: Vec<f32>,
    rope: B::Rows,
    kv: B::Kv,
    histories: [History; 2],
}

impl<'a, B: Operands> Run<'a, B> {
    fn new(backend: &B, case: &'a Attend, weights: DType) -> Self {
        let shape = shape(case.heads);
        let end = case.branches.iter().map(|b| b.end).max().unwrap_or(0) + 1;
        let table = reference::rope_table(end.max(case.shared), shape.head_dim, THETA);
        let own = |layer: usize| {
            let lengths = case.branches.iter().map(|b| b.end - b.seen[layer] + 1);
            lengths.max().unwrap_or(0)
        };
        let layout = KvLayout {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            shared: case.shared,
            own: vec![own(0), own(1)],
            slots: case.branches.len(),
            weights,
        };
        let mut kv = must("kv", backend.kv(&layout));
        for (slot, branch) in case.branches.iter().enumerate() {
            must("kv_share", backend.kv_share(&mut kv, slot, &branch.seen));
        }
        let history = || History {
            shared: Vec::new(),
            own: case.branches.iter().map(|_| Vec::new()).collect(),
        };
        Self {
            case,
            weights,
            shape,
            rope: rows_of(backend, &table, shape.head_dim),
            table,
            kv,
            histories: [history(), history()],
        }
    }

    /// Appends to both layers before it attends, so that a layer that writes into the other is seen.
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
                let (shape, kv) = (&self.shape, &mut self.kv);
                let rope = (layer != UNROTATED).then_some(&self.rope);
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
            let mut out = must("acts", backend.acts(n, width, self.weights));
            let result = backend.attend(&self.shape, qkv, batch, layer, &self.kv, &mut out);
            must("attend", result);
            let got = read_acts(backend, &out, n, width, self.weights);
            let qkv = values.chunks_exact(self.shape.qkv_dim());
            for ((row, qkv), got) in rows[layer].iter().zip(qkv).zip(got.chunks_exact(width)) {
                self.compare(layer, row, &qkv[..width], got, errors);
            }
        }
    }

    /// What the layer makes of heads of a row (`[n * head_dim]`), and the magnitude of that.
    fn turned(&self, layer: usize, row: &BatchRow, heads: &[f32]) -> (Vec<f32>, Vec<f32>) {
        if layer == UNROTATED {
            return (heads.to_vec(), abs(heads));
        }
        let dim = self.shape.head_dim;
        let table = &self.table[row.position as usize * dim..][..dim];
        (rotated(heads, table), rotated_magnitude(heads, table))
    }

    fn remember(&mut self, layer: usize, row: &BatchRow, qkv: &[f32]) {
        let (key, value) = qkv[self.shape.q_dim()..].split_at(self.shape.kv_dim());
        let (key, key_magnitude) = self.turned(layer, row, key);
        let position = Position {
            key,
            key_magnitude,
            value: value.to_vec(),
        };
        match row.slot {
            Slot::Shared => self.histories[layer].shared.push(position),
            Slot::Branch(slot) => self.histories[layer].own[slot as usize].push(position),
        }
    }

    /// What a row may see: up to its own position, of the shared segment and then of its branch.
    fn visible(&self, layer: usize, row: &BatchRow) -> Vec<&Position> {
        let history = &self.histories[layer];
        let n = row.position as usize + 1;
        match row.slot {
            Slot::Shared => history.shared[..n].iter().collect(),
            Slot::Branch(slot) => {
                let seen = self.case.branches[slot as usize].seen[layer];
                let own = &history.own[slot as usize][..n - seen];
                history.shared[..seen].iter().chain(own).collect()
            }
        }
    }

    fn compare(&self, layer: usize, row: &BatchRow, q: &[f32], got: &[f32], errors: &mut Errors) {
        let shape = &self.shape;
        let visible = self.visible(layer, row);
        let keys: Vec<&[f32]> = visible.iter().map(|p| &p.key[..]).collect();
        let key_values: Vec<&[f32]> = visible.iter().map(|p| &p.value[..]).collect();
        let (q, q_magnitude) = self.turned(layer, row, q);
        let want = reference::attend(shape, &q, &keys, &key_values);
        let magnitudes: Vec<Vec<f32>> = visible.iter().map(|p| abs(&p.value)).collect();
        let magnitudes: Vec<&[f32]> = magnitudes.iter().map(|v| &v[..]).collect();
        let magnitude = reference::attend(shape, &q, &keys, &magnitudes);
        // A weight is off by the error of its own score and that of the normalizer: the sum over the head, and
        // three roundings in the rotation of the query and of the key. Then the weights' sum.
        let score = self.largest_score(&q_magnitude, &visible);
        let score_error = (sum_bound(shape.head_dim) + 6.0 * U) * score;
        let bound = (2.0 * score_error).exp_m1() + sum_bound(visible.len()) + 12.0 * U;
        errors.compare_acts(
            format_args!("{shape:?} layer {layer}, {row:?}, {}", self.weights),
            B::operand(self.weights),
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
        largest / (dim as f64).sqrt()
    }
}
