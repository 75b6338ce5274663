//! The same row gives the same bits: alone, anywhere in a batch, on any number of threads, and however its history is
//! cut. Checked on every path that this machine has.

use std::fmt::Debug;

use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{
    Activation, Adam, Attend, AttnShape, Backend, BatchRow, Cpu, CpuActs, CpuOptions, CpuPath,
    DType, KvLayout, LogitMap, Slot,
};
use selfie_testkit::cases::{DTYPES, acts_of, must, rows_of, values};

/// The rows from which batches are drawn.
const ALL: usize = 64;

fn cpu(path: CpuPath, threads: usize) -> Cpu {
    let options = CpuOptions {
        threads: Some(threads),
        path: Some(path),
    };
    must(path, Cpu::new(options))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn acts_bits(acts: &CpuActs, n: usize) -> Vec<Vec<u32>> {
    (0..n).map(|i| bits(&acts.row(i))).collect()
}

/// Runs `op` for every row alone on one thread, then in batches on one to four threads. `op` takes the indices of the
/// rows in the batch and returns the bits of each.
fn same_in_any_batch<T: PartialEq + Debug>(name: &str, op: impl Fn(&Cpu, &[usize]) -> Vec<T>) {
    for path in CpuPath::available() {
        let one = cpu(path, 1);
        let alone: Vec<T> = (0..ALL).flat_map(|i| op(&one, &[i])).collect();
        assert_eq!(alone.len(), ALL);
        for threads in 1..=4 {
            let cpu = cpu(path, threads);
            assert_eq!(cpu.threads(), threads);
            for size in [1, 2, 5, 8, 13, ALL] {
                for start in [0, 3, 40, 59] {
                    let rows: Vec<usize> = (start..start + size).map(|i| i % ALL).collect();
                    for (place, (got, &row)) in op(&cpu, &rows).iter().zip(&rows).enumerate() {
                        assert!(
                            *got == alone[row],
                            "{name} on {path}: row {row} differs at place {place} of {size} on {threads} threads"
                        );
                    }
                }
            }
        }
    }
}

/// The selected rows of `all` (`[ALL, width]`).
fn chosen(all: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    reference::gather(all, width, rows)
}

#[test]
fn linear() {
    // 35 pairs of panels: one to four threads cut them differently.
    let (k, out) = (333, 1111);
    let a = values(1, ALL * k, (-1.0, 1.0));
    let w = Matrix::new(DType::F32, k, &values(2, out * k, (-1.0, 1.0)));
    let bias = values(3, out, (-1.0, 1.0));
    for dtype in DTYPES {
        let packed = must("matrix", cpu(CpuPath::Portable, 1).matrix(&[&w], dtype));
        same_in_any_batch(&format!("linear {dtype}"), |cpu, rows| {
            let a = acts_of(cpu, &chosen(&a, k, rows), k, dtype);
            let bias = must("vector", cpu.vector(&bias));
            let mut y = must("rows", cpu.rows(rows.len(), out));
            must("linear", cpu.linear(&a, &packed, Some(&bias), &mut y));
            must("linear_add", cpu.linear_add(&a, &packed, None, &mut y));
            y.values().chunks_exact(out).map(bits).collect()
        });
    }
}

/// More rows than a path takes through one block of weights, and more columns and steps of k than a block has.
#[test]
fn linear_in_blocks() {
    let (n, k, out) = (1050, 1111, 300);
    let a = values(1, n * k, (-1.0, 1.0));
    let w = Matrix::new(DType::F32, k, &values(2, out * k, (-1.0, 1.0)));
    for path in CpuPath::available() {
        let cpu = cpu(path, 2);
        let packed = must("matrix", cpu.matrix(&[&w], DType::Bf16));
        let mut y = must("rows", cpu.rows(n, out));
        must(
            "linear",
            cpu.linear(&acts_of(&cpu, &a, k, DType::Bf16), &packed, None, &mut y),
        );
        for row in [0, 1, 31, 32, 511, 512, 543, 544, 1023, 1024, 1049] {
            let one = acts_of(&cpu, &chosen(&a, k, &[row]), k, DType::Bf16);
            let mut alone = must("rows", cpu.rows(1, out));
            must("linear", cpu.linear(&one, &packed, None, &mut alone));
            assert!(
                bits(y.row(row)) == bits(alone.row(0)),
                "{path}: row {row} of {n} differs from the row alone"
            );
        }
    }
}

#[test]
fn rms_norm() {
    let width = 333;
    let x = values(1, ALL * width, (-1.0, 1.0));
    let weight = values(2, width, (-1.0, 1.0));
    for dtype in DTYPES {
        same_in_any_batch(&format!("rms_norm {dtype}"), |cpu, rows| {
            let x = rows_of(cpu, &chosen(&x, width, rows), width);
            let weight = must("vector", cpu.vector(&weight));
            let mut out = must("acts", cpu.acts(rows.len(), width, dtype));
            must("rms_norm", cpu.rms_norm(&x, &weight, 1e-5, &mut out));
            acts_bits(&out, rows.len())
        });
    }
}

#[test]
fn glu() {
    let ffn = 333;
    let gate_up = values(1, ALL * 2 * ffn, (-5.0, 5.0));
    for dtype in DTYPES {
        same_in_any_batch(&format!("swiglu {dtype}"), |cpu, rows| {
            let gate_up = rows_of(cpu, &chosen(&gate_up, 2 * ffn, rows), 2 * ffn);
            let mut out = must("acts", cpu.acts(rows.len(), ffn, dtype));
            must("swiglu", cpu.glu(Activation::Silu, &gate_up, &mut out));
            acts_bits(&out, rows.len())
        });
    }
}

#[test]
fn training() {
    // More columns and rows than fit one strip and one task.
    let (k, out) = (333, 600);
    let x = values(1, ALL * out, (-1.0, 1.0));
    let w = values(2, out * k, (-1.0, 1.0));
    same_in_any_batch("linear_f32", |cpu, rows| {
        let x = rows_of(cpu, &chosen(&x[..ALL * k], k, rows), k);
        let mut y = must("rows", cpu.rows(rows.len(), out));
        let done = cpu.linear_f32(&x, &rows_of(cpu, &w, k), None, &mut y);
        must("linear_f32", done);
        y.values().chunks_exact(out).map(bits).collect()
    });
    same_in_any_batch("linear_f32_back", |cpu, rows| {
        let d = rows_of(cpu, &chosen(&x, out, rows), out);
        let mut y = must("rows", cpu.rows(rows.len(), k));
        let done = cpu.linear_f32_back(&d, &rows_of(cpu, &w, k), &mut y);
        must("linear_f32_back", done);
        y.values().chunks_exact(k).map(bits).collect()
    });
    let ffn = out / 2;
    same_in_any_batch("mlp_backward", |cpu, rows| {
        let gate_up = rows_of(cpu, &chosen(&x, out, rows), out);
        let d = rows_of(cpu, &chosen(&x[..ALL * ffn], ffn, rows), ffn);
        let mut y = must("rows", cpu.rows(rows.len(), out));
        must(
            "mlp_backward",
            cpu.mlp_backward(Activation::Silu, &gate_up, &d, &mut y),
        );
        y.values().chunks_exact(out).map(bits).collect()
    });
}

/// The rows of a step are summed in order, so a step has the same bits on any number of threads.
#[test]
fn adam() {
    let (n, k, out) = (21, 333, 100);
    let [x, d] = [k, out].map(|width| values(width as u64, n * width, (-1.0, 1.0)));
    let start = values(3, out * k, (-1.0, 1.0));
    for path in CpuPath::available() {
        let after = |threads| {
            let cpu = cpu(path, threads);
            let [mut w, mut m, mut v] = [&start, &vec![0.0; out * k], &vec![0.0; out * k]]
                .map(|values| rows_of(&cpu, values, k));
            for step in 1..=3 {
                let (x, d) = (rows_of(&cpu, &x, k), rows_of(&cpu, &d, out));
                let rate = Adam {
                    step,
                    ..Adam::new(1e-3)
                };
                must("adam", cpu.adam(&mut w, [&mut m, &mut v], &d, &x, &rate));
            }
            [w, m, v].map(|rows| bits(rows.values()))
        };
        let one = after(1);
        for threads in 2..=4 {
            assert!(after(threads) == one, "adam on {path}, {threads} threads");
        }
    }
}

#[test]
fn head() {
    let (k, vocab) = (100, 2111);
    let a = values(1, ALL * k, (-1.0, 1.0));
    let w = Matrix::new(DType::F32, k, &values(2, vocab * k, (-1.0, 1.0)));
    for dtype in DTYPES {
        let packed = must("matrix", cpu(CpuPath::Portable, 1).matrix(&[&w], dtype));
        same_in_any_batch(&format!("head_best {dtype}"), |cpu, rows| {
            let a = acts_of(cpu, &chosen(&a, k, rows), k, dtype);
            let best = must("head_best", cpu.head_best(&a, &packed, &LogitMap::PLAIN));
            best.iter()
                .map(|b| (b.token, b.logprob.to_bits()))
                .collect()
        });
        same_in_any_batch(&format!("head_score {dtype}"), |cpu, rows| {
            let a = acts_of(cpu, &chosen(&a, k, rows), k, dtype);
            let tokens: Vec<u32> = rows.iter().map(|&i| (i * 33) as u32).collect();
            bits(&must(
                "head_score",
                cpu.head_score(&a, &packed, &LogitMap::PLAIN, &tokens),
            ))
        });
    }
}

const SHAPE: AttnShape = AttnShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 20,
};

/// Positions of the sequence whose history is cut.
const LENGTH: usize = 41;

fn at(slot: Slot, position: usize) -> BatchRow {
    BatchRow {
        token: 0,
        slot,
        position: position as u32,
    }
}

/// A cache for `slots` branches that each see `shared` positions.
fn cache(cpu: &Cpu, dtype: DType, shared: usize, slots: usize) -> <Cpu as Backend>::Kv {
    let layout = KvLayout {
        kv_heads: SHAPE.kv_heads,
        head_dim: SHAPE.head_dim,
        prefixes: vec![shared],
        own: vec![LENGTH],
        slots,
        dtype,
    };
    let mut kv = must("kv", cpu.kv(&layout));
    for slot in 0..slots {
        must("kv_share", cpu.kv_share(&mut kv, slot, 0, &[shared]));
    }
    kv
}

/// Appends rows with their queries, keys and values (`[rows.len(), qkv_dim]`), and attends to each.
fn append_attend(
    cpu: &Cpu,
    kv: &mut <Cpu as Backend>::Kv,
    rows: &[BatchRow],
    qkv: &[f32],
    dtype: DType,
) -> Vec<Vec<u32>> {
    let table = reference::rope_table(LENGTH, SHAPE.head_dim, 10_000.0);
    let rope = rows_of(cpu, &table, SHAPE.head_dim);
    let mut batch = must("batch", cpu.batch(rows.len()));
    must("load_batch", cpu.load_batch(rows, &mut batch));
    let mut qkv = rows_of(cpu, qkv, SHAPE.qkv_dim());
    let appended = cpu.rope_append(&SHAPE, Some(&rope), &batch, 0, &mut qkv, kv);
    must("rope_append", appended);
    let mut out = must("acts", cpu.acts(rows.len(), SHAPE.q_dim(), dtype));
    let attended = cpu.attend(&Attend::new(SHAPE), &qkv, &batch, 0, kv, &mut out);
    must("attend", attended);
    acts_bits(&out, rows.len())
}

#[test]
fn attend() {
    // Every slot has a history of a different length after a shared prompt; then comes one row per slot.
    let shared = 11;
    let width = SHAPE.qkv_dim();
    let prompt: Vec<BatchRow> = (0..shared).map(|p| at(Slot::Prefix(0), p)).collect();
    let end = |slot: usize| shared + slot % (LENGTH - shared);
    let history: Vec<BatchRow> = (0..ALL)
        .flat_map(|slot| (shared..end(slot)).map(move |p| at(Slot::Branch(slot as u32), p)))
        .collect();
    let prompt_qkv = values(1, prompt.len() * width, (-1.0, 1.0));
    let history_qkv = values(2, history.len() * width, (-1.0, 1.0));
    let qkv = values(3, ALL * width, (-1.0, 1.0));
    let dtypes = [
        (DType::F32, DType::F32),
        (DType::F32, DType::Bf16),
        (DType::Bf16, DType::F32),
        (DType::F16, DType::F32),
    ];
    for (kept, dtype) in dtypes {
        let name = format!("attend {dtype}, keys in {kept}");
        same_in_any_batch(&name, |cpu, rows| {
            let mut kv = cache(cpu, kept, shared, ALL);
            append_attend(cpu, &mut kv, &prompt, &prompt_qkv, dtype);
            append_attend(cpu, &mut kv, &history, &history_qkv, dtype);
            let batch: Vec<BatchRow> = rows
                .iter()
                .map(|&slot| at(Slot::Branch(slot as u32), end(slot)))
                .collect();
            append_attend(cpu, &mut kv, &batch, &chosen(&qkv, width, rows), dtype)
        });
    }
}

/// Every path with every dtype of keys and values.
fn paths_and_dtypes() -> Vec<(CpuPath, DType)> {
    let paths = CpuPath::available().into_iter();
    paths
        .flat_map(|path| DTYPES.map(|dtype| (path, dtype)))
        .collect()
}

#[test]
fn attend_does_not_see_where_the_prefix_ends() {
    let width = SHAPE.qkv_dim();
    let qkv = values(4, LENGTH * width, (-1.0, 1.0));
    for (path, kept) in paths_and_dtypes() {
        let cpu = cpu(path, 2);
        let cache = |shared| cache(&cpu, kept, shared, 1);
        let all = |slot| (0..LENGTH).map(|p| at(slot, p)).collect::<Vec<_>>();
        let own = Slot::Branch(0);
        let mut kv = cache(0);
        let want = append_attend(&cpu, &mut kv, &all(own), &qkv, DType::F32);
        let mut kv = cache(LENGTH);
        let got = append_attend(&cpu, &mut kv, &all(Slot::Prefix(0)), &qkv, DType::F32);
        assert!(got == want, "{path}, {kept}: all of the history is shared");
        for split in 1..LENGTH {
            let mut kv = cache(split);
            let (shared, rest) = qkv.split_at(split * width);
            let rows = all(Slot::Prefix(0));
            let mut got = append_attend(&cpu, &mut kv, &rows[..split], shared, DType::F32);
            let rows = all(own);
            got.extend(append_attend(
                &cpu,
                &mut kv,
                &rows[split..],
                rest,
                DType::F32,
            ));
            assert!(got == want, "{path}, {kept}: {split} positions are shared");
        }
    }
}

#[test]
fn a_prompt_in_chunks_is_the_whole_prompt() {
    let width = SHAPE.qkv_dim();
    let qkv = values(5, LENGTH * width, (-1.0, 1.0));
    for (path, kept) in paths_and_dtypes() {
        let cpu = cpu(path, 2);
        for slot in [Slot::Prefix(0), Slot::Branch(0)] {
            let rows: Vec<BatchRow> = (0..LENGTH).map(|p| at(slot, p)).collect();
            let shared = if slot == Slot::Prefix(0) { LENGTH } else { 0 };
            let mut kv = cache(&cpu, kept, shared, 1);
            let want = append_attend(&cpu, &mut kv, &rows, &qkv, DType::F32);
            for size in [1, 2, 5, 15, 16, 17, 32, 40] {
                let mut kv = cache(&cpu, kept, shared, 1);
                let chunks = rows.chunks(size).zip(qkv.chunks(size * width));
                let got: Vec<_> = chunks
                    .flat_map(|(rows, qkv)| append_attend(&cpu, &mut kv, rows, qkv, DType::F32))
                    .collect();
                assert!(got == want, "{path}, {kept}: {slot:?} in chunks of {size}");
            }
        }
    }
}
