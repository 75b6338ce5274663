//! Errors: what ops refuse, and what the CPU alone refuses.

use std::io;
use std::ops::Range;

use selfie_kernels::{
    Attend, AttnShape, Backend, BatchRow, Cpu, CpuOptions, CpuPath, DType, KernelError, KvLayout,
    MatrixSource, Result, Slot,
};
use selfie_testkit::cases::{errors, must, rows_of};

fn cpu() -> Cpu {
    let options = CpuOptions {
        threads: Some(2),
        path: None,
    };
    must("cpu", Cpu::new(options))
}

#[test]
fn buffers() {
    errors::buffers(&cpu());
}

#[test]
fn embed() {
    errors::embed(&cpu());
}

#[test]
fn rms_norm() {
    errors::rms_norm(&cpu());
}

#[test]
fn cast_and_add() {
    errors::cast_and_add(&cpu());
}

#[test]
fn linear() {
    errors::linear(&cpu());
}

#[test]
fn linear_add() {
    errors::linear_add(&cpu());
}

#[test]
fn an_operand_has_the_dtype_that_the_weights_ask_for() {
    errors::an_operand_has_the_dtype_that_the_weights_ask_for(&cpu());
}

#[test]
fn rms_norm_parts() {
    errors::rms_norm_parts(&cpu());
}

#[test]
fn glu() {
    errors::glu(&cpu());
}

#[test]
fn linear_glu() {
    errors::linear_glu(&cpu());
}

#[test]
fn kv_share() {
    errors::kv_share(&cpu());
}

#[test]
fn kv_copy() {
    errors::kv_copy(&cpu());
}

#[test]
fn rope_append() {
    errors::rope_append(&cpu());
}

#[test]
fn attend() {
    errors::attend(&cpu());
}

#[test]
fn probe_ops() {
    errors::probe_ops(&cpu());
}

#[test]
fn head() {
    errors::head(&cpu());
}

#[test]
fn training() {
    errors::training(&cpu());
}

/// A matrix that claims to be `[rows, columns]`; reading it is a test failure.
struct Huge {
    rows: usize,
    columns: usize,
}

impl MatrixSource for Huge {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn dtype(&self) -> DType {
        DType::F16
    }

    fn with_rows(&self, _: Range<usize>, _: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        panic!("a matrix that does not fit was read")
    }
}

/// The requested and the available bytes of a refused allocation.
#[track_caller]
fn memory<T>(result: Result<T>) -> (u64, u64) {
    match result {
        Err(KernelError::OutOfMemory {
            bytes, available, ..
        }) => (bytes, available),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("the buffer was allocated"),
    }
}

fn layout(shared: usize, own: usize, slots: usize) -> KvLayout {
    KvLayout {
        kv_heads: 8,
        head_dim: 128,
        prefixes: vec![shared],
        own: vec![own; 32],
        slots,
        dtype: DType::F32,
    }
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_allocated() {
    let cpu = cpu();
    let total = must("memory", cpu.memory()).total;
    // 2^40 positions a layer with 8 heads, each with a key and a value of 128 floats: 2^58 bytes.
    let branches = layout(0, 1 << 30, 1 << 10);
    let shared = layout(1 << 40, 0, 1);
    for layout in [branches, shared] {
        assert_eq!(cpu.kv_bytes(&layout), 1 << 58);
        let (bytes, available) = memory(cpu.kv(&layout));
        assert_eq!(bytes, 1 << 58);
        assert!(available <= total, "{available} of {total}");
    }
    assert_eq!(memory(cpu.rows(1 << 40, 4096)).0, 1 << 54);
    assert!(memory(cpu.acts(1 << 40, 4096, DType::Bf16)).0 >= 1 << 53);
    let huge = Huge {
        rows: 1 << 30,
        columns: 1 << 24,
    };
    assert_eq!(memory(cpu.matrix(&[&huge], DType::F16)).0, 1 << 55);
}

#[test]
fn kv_bytes_are_what_is_stored() {
    // Positions are padded to 16 per segment, values to 16 columns: 2 layers of 32 + 16 + 3 * 16 positions, each with 2
    // heads of 20 + 32 values.
    let layout = |dtype| KvLayout {
        kv_heads: 2,
        head_dim: 20,
        prefixes: vec![17, 1],
        own: vec![5, 16],
        slots: 3,
        dtype,
    };
    assert_eq!(cpu().kv_bytes(&layout(DType::F32)), 2 * 96 * 2 * 52 * 4);
    for half in [DType::Bf16, DType::F16] {
        assert_eq!(cpu().kv_bytes(&layout(half)), 2 * 96 * 2 * 52 * 2);
    }
    let layout = layout(DType::F32);
    let empty = KvLayout {
        prefixes: vec![],
        own: vec![0, 0],
        ..layout
    };
    assert_eq!(cpu().kv_bytes(&empty), 0);
}

/// The largest f16 is 65504. A key past it must not turn into a score of minus infinity, which nobody would see.
#[test]
fn a_key_or_value_that_overflows_f16_shows() {
    let shape = AttnShape {
        heads: 2,
        kv_heads: 2,
        head_dim: 16,
    };
    let at = |slot, position| BatchRow {
        token: 0,
        slot: Slot::Branch(slot),
        position,
    };
    // Two positions of slots 0 and 1. The queries are negative, and one key or value of slot 1 is large.
    let rows = [at(0, 0), at(1, 0), at(0, 1), at(1, 1)];
    let width = shape.qkv_dim();
    for path in CpuPath::available() {
        let options = CpuOptions {
            threads: Some(1),
            path: Some(path),
        };
        let cpu = must("cpu", Cpu::new(options));
        for (column, large) in [(shape.q_dim(), 7e4), (shape.q_dim() + shape.kv_dim(), -7e4)] {
            for dtype in [DType::F16, DType::Bf16, DType::F32] {
                let mut qkv = vec![-1.0; rows.len() * width];
                qkv[width + column] = large;
                let mut kv = must(
                    "kv",
                    cpu.kv(&KvLayout {
                        kv_heads: shape.kv_heads,
                        head_dim: shape.head_dim,
                        prefixes: vec![],
                        own: vec![2],
                        slots: 2,
                        dtype,
                    }),
                );
                let mut batch = must("batch", cpu.batch(rows.len()));
                must("load_batch", cpu.load_batch(&rows, &mut batch));
                let mut qkv = rows_of(&cpu, &qkv, width);
                let appended = cpu.rope_append(&shape, None, &batch, 0, &mut qkv, &mut kv);
                must("rope_append", appended);
                let mut out = must("acts", cpu.acts(rows.len(), shape.q_dim(), DType::F32));
                let attended = cpu.attend(&Attend::new(shape), &qkv, &batch, 0, &kv, &mut out);
                must("attend", attended);
                let out = must("read_acts", cpu.read_acts(&out, 0..rows.len()));
                // Head 0 of both rows of slot 1. A value stands in one column; a key concerns all.
                let seen: Vec<bool> = out
                    .chunks_exact(shape.head_dim)
                    .map(|head| head[0].is_nan())
                    .collect();
                let shows = dtype == DType::F16;
                let want = [false, false, shows, false, false, false, shows, false];
                assert_eq!(seen, want, "{path}, {dtype}: {large}");
            }
        }
    }
}

#[test]
fn a_path_that_does_not_exist() {
    match "sse9".parse::<CpuPath>() {
        Err(KernelError::Path {
            path, available, ..
        }) => {
            assert_eq!(path, "sse9");
            let names = CpuPath::available()
                .iter()
                .map(|p| p.name())
                .collect::<Vec<_>>();
            assert_eq!(available, names.join(", "));
        }
        other => panic!("{other:?}"),
    }
}
