//! Compares attention in bf16 and f16 on the GPU with the simulator, which is tested against an oracle that rounds as
//! the kernels do. GPU and simulator round `ex2` and the products of the tensor cores differently, so the last bits of
//! f32 sums differ. The output is rounded to 16 bits.

use selfie_kernels::gpu::Cuda;
use selfie_kernels::{Attend, AttnShape, Backend, BatchRow, DType, KvLayout, Slot, reference};

use crate::cases::{must, projections_of, read_acts, rows_of, values};
use crate::{Check, Opening};

/// Heads; the prefixes' positions; and for each branch its prefix, the shared positions that it sees, its own
/// positions, and how many rows come last.
struct Case {
    heads: (usize, usize, usize),
    prefixes: &'static [usize],
    branches: &'static [(u32, usize, usize, usize)],
    window: Option<usize>,
    softcap: Option<f32>,
}

/// Without a window or a cap.
const PLAIN: Case = Case {
    heads: (4, 4, 64),
    prefixes: &[19],
    branches: &[(0, 19, 1, 1), (0, 4, 16, 1), (0, 19, 30, 1), (0, 0, 33, 5)],
    window: None,
    softcap: None,
};

const CASES: &[Case] = &[
    PLAIN,
    Case {
        heads: (8, 2, 128),
        prefixes: &[40, 90],
        branches: &[
            (0, 40, 70, 1),
            (1, 33, 65, 64),
            (1, 90, 3, 1),
            (0, 0, 300, 1),
        ],
        ..PLAIN
    },
    Case {
        heads: (4, 1, 80),
        prefixes: &[],
        branches: &[(0, 0, 129, 129), (0, 0, 700, 1)],
        ..PLAIN
    },
    Case {
        heads: (8, 2, 128),
        prefixes: &[40],
        branches: &[(0, 40, 70, 1), (0, 33, 65, 64), (0, 0, 300, 1)],
        window: Some(37),
        ..PLAIN
    },
    Case {
        heads: (4, 2, 256),
        prefixes: &[40],
        branches: &[(0, 40, 70, 1), (0, 33, 65, 64), (0, 0, 300, 1)],
        window: Some(100),
        softcap: Some(0.5),
    },
];

pub(crate) fn checks() -> Vec<Check> {
    vec![
        (
            "attention in bf16 agrees with the simulator".into(),
            Box::new(|o| agree(o, DType::Bf16)),
        ),
        (
            "attention in f16 agrees with the simulator".into(),
            Box::new(|o| agree(o, DType::F16)),
        ),
    ]
}

fn agree(opening: Opening, dtype: DType) {
    let cuda: Cuda = opening.deterministic();
    let sim = must("the simulator", selfie_sim::sim());
    // Two units in the last place of values up to 1.
    let bound = if dtype == DType::Bf16 {
        2.0 * 2f32.powi(-8)
    } else {
        2.0 * 2f32.powi(-11)
    };
    for (i, case) in CASES.iter().enumerate() {
        let (got, want) = (run(&cuda, case, dtype), run(&sim, case, dtype));
        assert_eq!(got.len(), want.len());
        for (at, (a, b)) in got.iter().zip(&want).enumerate() {
            let off = (a - b).abs();
            assert!(off <= bound, "case {i}, value {at}: {a}, and {b} simulated");
        }
    }
}

/// The output of the last rows of each branch, computed in one batch.
fn run<B: Backend>(backend: &B, case: &Case, dtype: DType) -> Vec<f32> {
    let (heads, kv_heads, head_dim) = case.heads;
    let shape = AttnShape {
        heads,
        kv_heads,
        head_dim,
    };
    let own = case.branches.iter().map(|b| b.2).max().unwrap_or(0);
    let layout = KvLayout {
        kv_heads,
        head_dim,
        prefixes: case.prefixes.to_vec(),
        own: vec![own],
        slots: case.branches.len(),
        dtype,
    };
    let positions = case.prefixes.iter().sum::<usize>() + own;
    let table = reference::rope_table(positions, head_dim, 10_000.0);
    let rope = rows_of(backend, &table, head_dim);
    let mut kv = must("kv", backend.kv(&layout));
    let row = |slot, position: usize| BatchRow {
        token: 0,
        slot,
        position: position as u32,
    };
    let prefixes = (0..).zip(case.prefixes);
    let mut rows: Vec<BatchRow> = prefixes
        .flat_map(|(prefix, &n)| (0..n).map(move |p| row(Slot::Prefix(prefix), p)))
        .collect();
    let mut asked = Vec::new();
    for (slot, &(prefix, seen, own, last)) in (0..).zip(case.branches) {
        must(
            "kv_share",
            backend.kv_share(&mut kv, slot as usize, prefix, &[seen]),
        );
        let branch = (seen..seen + own).map(|p| row(Slot::Branch(slot), p));
        asked.extend(branch.clone().skip(own - last));
        rows.extend(branch);
    }
    // All rows are appended; then only the last rows attend.
    let width = shape.qkv_dim();
    let append = |rows: &[BatchRow], kv: &mut B::Kv| {
        let mut batch = must("batch", backend.batch(rows.len()));
        must("load_batch", backend.load_batch(rows, &mut batch));
        // The contents of a row depend only on its slot and position.
        let of_row = |row: &BatchRow| {
            let slot = match row.slot {
                Slot::Prefix(prefix) => 1000 + u64::from(prefix),
                Slot::Branch(slot) => u64::from(slot),
            };
            values(10_000 * slot + u64::from(row.position), width, (-1.0, 1.0))
        };
        let all: Vec<f32> = rows.iter().flat_map(of_row).collect();
        let mut qkv = projections_of(backend, &all, width, dtype);
        must(
            "rope_append",
            backend.rope_append(&shape, Some(&rope), &batch, 0, &mut qkv, kv),
        );
        (batch, qkv)
    };
    append(&rows, &mut kv);
    let (batch, qkv) = append(&asked, &mut kv);
    let attend = Attend {
        window: case.window,
        softcap: case.softcap,
        ..Attend::new(shape)
    };
    let mut out = must("acts", backend.acts(asked.len(), shape.q_dim(), dtype));
    must(
        "attend",
        backend.attend(&attend, &qkv, &batch, 0, &kv, &mut out),
    );
    read_acts(backend, &out, asked.len())
}
