//! Several callers of one backend: each gets the same bits as alone, and none deadlocks.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use rayon::prelude::*;
use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{
    Attend, AttnShape, Backend, BatchRow, DType, InjectMode, Injection, KvLayout, LogitMap, Slot,
};

use super::{acts_of, must, read_all, rows_of, values};

const ROWS: usize = 6;
const D: usize = 48;
/// Several chunks of the head.
const VOCAB: usize = 2111;
const SHAPE: AttnShape = AttnShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
};

/// Long enough for a busy machine; a deadlock lasts longer.
const TIME: Duration = Duration::from_secs(120);

/// Lets 2, 4 and 8 threads, and the tasks of a rayon pool, use clones of one backend at the same time, `rounds` times
/// each.
pub fn check_callers<B: Backend>(backend: &B, rounds: usize) {
    let watchdog = Watchdog::new(backend.describe());
    let head = Matrix::new(DType::F32, D, &values(1, VOCAB * D, (-1.0, 1.0)));
    let head = must("matrix", backend.matrix(&[&head], DType::F32));
    let alone: Vec<Bits> = (0..8).map(|seed| work(backend, &head, seed)).collect();
    let again = |backend: &B, seed: usize| {
        for round in 0..rounds {
            let got = work(backend, &head, seed as u64);
            assert!(got == alone[seed], "caller {seed}, round {round}");
        }
    };
    for callers in [2, 4, 8] {
        thread::scope(|scope| {
            for seed in 0..callers {
                let backend = backend.clone();
                scope.spawn(move || again(&backend, seed));
            }
        });
    }
    (0..4 * alone.len())
        .into_par_iter()
        .for_each(|task| again(backend, task % alone.len()));
    drop(watchdog);
}

/// Everything that a caller reads back.
type Bits = Vec<u32>;

/// Uses every kind of buffer that callers share, a little of each.
fn work<B: Backend>(backend: &B, head: &B::Matrix, seed: u64) -> Bits {
    let x = values(100 + seed, ROWS * D, (-1.0, 1.0));
    let a = acts_of(backend, &x, D, DType::F32);
    let mut all = Bits::new();
    for best in must("head_best", backend.head_best(&a, head, &LogitMap::PLAIN)) {
        all.extend([best.token, best.logprob.to_bits()]);
    }
    let tokens: Vec<u32> = (0..ROWS as u32).map(|i| i * 300 + seed as u32).collect();
    all.extend(bits(&must(
        "head_score",
        backend.head_score(&a, head, &LogitMap::PLAIN, &tokens),
    )));
    let mut logits = must("rows", backend.rows(ROWS, VOCAB));
    must("linear", backend.linear(&a, head, None, &mut logits));
    all.extend(bits(&read_all(backend, &logits)));
    all.extend(bits(&attend(backend, seed)));
    all.extend(bits(&write(backend, &x, seed)));
    all
}

/// Keys and values of this caller only.
fn attend<B: Backend>(backend: &B, seed: u64) -> Vec<f32> {
    let layout = KvLayout {
        kv_heads: SHAPE.kv_heads,
        head_dim: SHAPE.head_dim,
        prefixes: vec![20],
        own: vec![30],
        slots: 1,
        dtype: DType::F32,
    };
    let mut kv = must("kv", backend.kv(&layout));
    must("kv_share", backend.kv_share(&mut kv, 0, 0, &[20]));
    let row = |position| BatchRow {
        token: 0,
        slot: match position {
            0..20 => Slot::Prefix(0),
            _ => Slot::Branch(0),
        },
        position,
    };
    let rows: Vec<BatchRow> = (0..40).map(row).collect();
    let mut batch = must("batch", backend.batch(rows.len()));
    must("load_batch", backend.load_batch(&rows, &mut batch));
    let table = reference::rope_table(rows.len(), SHAPE.head_dim, 10_000.0);
    let table = rows_of(backend, &table, SHAPE.head_dim);
    let width = SHAPE.qkv_dim();
    let qkv = values(200 + seed, rows.len() * width, (-1.0, 1.0));
    let mut qkv = rows_of(backend, &qkv, width);
    let appended = backend.rope_append(&SHAPE, Some(&table), &batch, 0, &mut qkv, &mut kv);
    must("rope_append", appended);
    let q_dim = SHAPE.q_dim();
    let mut out = must("acts", backend.acts(rows.len(), q_dim, DType::F32));
    let attended = backend.attend(&Attend::new(SHAPE), &qkv, &batch, 0, &kv, &mut out);
    must("attend", attended);
    super::read_acts(backend, &out, rows.len())
}

/// Rows gathered and written with this caller's lists and tally.
fn write<B: Backend>(backend: &B, x: &[f32], seed: u64) -> Vec<f32> {
    let x = rows_of(backend, x, D);
    let mut rows = must("rows", backend.rows(ROWS, D));
    let index: Vec<usize> = (0..ROWS).map(|i| (i + seed as usize) % ROWS).collect();
    must("gather", backend.gather(&x, &index, &mut rows));
    let writes: Vec<Injection> = index
        .iter()
        .map(|&row| Injection {
            row,
            vector: index[row],
            mode: InjectMode::ALL[row % InjectMode::ALL.len()],
            strength: 0.5 + seed as f32,
        })
        .collect();
    let mut tally = must("tally", backend.tally());
    must("inject", backend.inject(&x, &writes, &mut rows, &mut tally));
    must("check_tally", backend.check_tally(&mut tally));
    read_all(backend, &rows)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Ends the process with a message unless it is dropped in time: dropping it closes the channel that its thread waits
/// on.
struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    fn new(device: String) -> Self {
        let (alive, waits) = mpsc::channel::<()>();
        thread::spawn(move || {
            if waits.recv_timeout(TIME) == Err(RecvTimeoutError::Timeout) {
                // Not with eprintln, whose output tests capture.
                let _ = writeln!(
                    io::stderr(),
                    "callers of {device} wait for each other: not done in {TIME:?}"
                );
                std::process::exit(101);
            }
        });
        Self { _alive: alive }
    }
}
