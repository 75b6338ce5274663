//! What ops refuse: what the CPU refuses too, and what only a GPU refuses.

use std::io;
use std::ops::Range;

use selfie_kernels::gpu::plan::{self, Inject, Splits, injection_list};
use selfie_kernels::gpu::{Driver, Gemm, Gpu, Launch};
use selfie_kernels::reference::Matrix;
use selfie_kernels::{
    Activation, Attend, AttnShape, Backend, BatchRow, DType, InjectMode, Injection, KernelError,
    KvLayout, MatrixSource, Memory, Result, Slot,
};
use selfie_sim::{Sim, SimDriver};
use selfie_testkit::cases::{self, acts_of, errors, must, projections_of, rows_of};

fn sim() -> Sim {
    must("sim", selfie_sim::sim())
}

#[test]
fn buffers() {
    errors::buffers(&sim());
}

#[test]
fn embed() {
    errors::embed(&sim());
}

#[test]
fn rms_norm() {
    errors::rms_norm(&sim());
}

#[test]
fn cast_and_add() {
    errors::cast_and_add(&sim());
}

#[test]
fn linear() {
    errors::linear(&sim());
}

#[test]
fn linear_add() {
    errors::linear_add(&sim());
}

#[test]
fn an_operand_has_the_dtype_that_the_weights_ask_for() {
    errors::an_operand_has_the_dtype_that_the_weights_ask_for(&sim());
}

#[test]
fn rms_norm_parts() {
    errors::rms_norm_parts(&sim());
}

#[test]
fn glu() {
    errors::glu(&sim());
}

#[test]
fn linear_glu() {
    errors::linear_glu(&sim());
    let splits = Splits::Fill { multiprocessors: 1 };
    errors::linear_glu(&must("sim", Sim::new(SimDriver::new(), splits)));
}

#[test]
fn kv_share() {
    errors::kv_share(&sim());
}

#[test]
fn kv_copy() {
    errors::kv_copy(&sim());
}

#[test]
fn rope_append() {
    errors::rope_append(&sim());
}

#[test]
fn attend() {
    errors::attend(&sim());
}

#[test]
fn probe_ops() {
    errors::probe_ops(&sim());
}

#[test]
fn head() {
    errors::head(&sim());
}

#[test]
fn training() {
    errors::training(&sim());
}

/// A matrix that claims to be `[2^30, 2^24]`; reading it is a test failure.
struct Huge;

impl MatrixSource for Huge {
    fn shape(&self) -> (usize, usize) {
        (1 << 30, 1 << 24)
    }

    fn dtype(&self) -> DType {
        DType::F16
    }

    fn with_rows(&self, _: Range<usize>, _: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        panic!("a matrix that does not fit was read")
    }
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_allocated() {
    let sim = sim();
    let total = must("memory", sim.memory()).total;
    #[track_caller]
    fn bytes<T>(result: Result<T>, total: u64) -> u64 {
        match result {
            Err(KernelError::OutOfMemory {
                bytes, available, ..
            }) => {
                assert!(available <= total, "{available} of {total}");
                bytes
            }
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("more memory was allocated than exists"),
        }
    }
    assert_eq!(bytes(sim.rows(1 << 40, 4096), total), 1 << 54);
    assert_eq!(bytes(sim.acts(1 << 40, 4096, DType::Bf16), total), 1 << 53);
    assert_eq!(bytes(sim.matrix(&[&Huge], DType::F16), total), 1 << 55);
    // 2^40 positions of 8 heads of 128 bf16: 2^51 bytes of keys, and as many of values.
    let layout = KvLayout {
        kv_heads: 8,
        head_dim: 128,
        prefixes: vec![1 << 40],
        own: vec![0],
        slots: 1,
        dtype: DType::Bf16,
    };
    assert_eq!(bytes(sim.kv(&layout), total), 1 << 51);
    // Plus the places of a slot and of the prefix, 8 bytes each, and 32 bytes that a copy needs to know about the
    // layer.
    assert_eq!(sim.kv_bytes(&layout), (1 << 52) + 16 + 32);
}

#[test]
fn kv_bytes_are_what_is_allocated() {
    let sim = sim();
    // Keys: 2 heads of 20 at 12 and 5 shared positions, rounded up to 256 bytes; then 3 slots with 5 or 16 positions.
    let layout = |dtype| KvLayout {
        kv_heads: 2,
        head_dim: 20,
        prefixes: vec![12, 5],
        own: vec![5, 16],
        slots: 3,
        dtype,
    };
    let places = 2 * (2 + 3) * 8 + 2 * 32;
    for (dtype, shared, size) in [(DType::F32, 2816, 4), (DType::Bf16, 1536, 2)] {
        let own = (5 + 16) * 3 * 2 * 20 * size;
        let want = 2 * (2 * shared + own) + places;
        assert_eq!(sim.kv_bytes(&layout(dtype)), want);
        let before = must("memory", sim.memory()).available;
        let kv = must("kv", sim.kv(&layout(dtype)));
        let taken = before - must("memory", sim.memory()).available;
        assert_eq!(taken, want, "{dtype}");
        drop(kv);
        assert_eq!(must("memory", sim.memory()).available, before);
    }
}

#[test]
fn keys_and_values_have_the_dtype_of_the_weights() {
    let sim = sim();
    for weights in cases::DTYPES {
        for chosen in cases::DTYPES {
            let got = sim.kv_dtype(weights, Some(chosen));
            if chosen == weights {
                assert_eq!(must("kv_dtype", got), weights);
                continue;
            }
            let message = got.map_err(|error| error.to_string()).err();
            let want = format!(
                "{} keeps keys and values in the dtype of the weights, {weights}, and cannot keep them in {chosen}: \
                 choose {weights} or none, or use the CPU",
                sim.describe()
            );
            assert_eq!(message, Some(want));
        }
        assert_eq!(must("kv_dtype", sim.kv_dtype(weights, None)), weights);
    }
}

#[test]
fn a_weight_that_is_not_finite() {
    let sim = sim();
    let mut values = vec![1.0; 12];
    values[7] = f32::NAN;
    for stored in cases::DTYPES {
        for dtype in cases::DTYPES {
            let good = Matrix::new(DType::F32, 3, &[0.5; 6]);
            let bad = Matrix::new(stored, 3, &values);
            match sim.matrix(&[&good, &bad], dtype) {
                Err(KernelError::NotFinite { row, column, .. }) => {
                    assert_eq!((row, column), (4, 1), "{stored} as {dtype}");
                }
                Err(e) => panic!("{e}"),
                Ok(_) => panic!("a NaN was taken: {stored} as {dtype}"),
            }
        }
    }
    // Finite in bf16, but not in f16.
    let large = Matrix::new(DType::Bf16, 2, &[1.0, 1e6]);
    let refused = sim.matrix(&[&large], DType::F16);
    assert!(matches!(
        refused,
        Err(KernelError::NotFinite { column: 1, .. })
    ));
}

#[test]
fn sizes_that_there_are_no_kernels_for() {
    let sim = sim();
    let unsupported = |result: Result<()>| matches!(result, Err(KernelError::Unsupported { .. }));
    let width = plan::MAX_WIDTH as usize + 1;
    let x = rows_of(&sim, &vec![1.0; width], width);
    let weight = must("vector", sim.vector(&vec![1.0; width]));
    let mut out = must("rows", sim.rows(1, width));
    assert!(unsupported(sim.rms_norm_f32(&x, &weight, 1e-5, &mut out)));
    // Heads of bf16 are multiples of 16 wide, heads of f32 of 2.
    let one_row = |head_dim: usize, weights: DType| {
        let shape = AttnShape {
            heads: 1,
            kv_heads: 1,
            head_dim,
        };
        let layout = KvLayout {
            kv_heads: 1,
            head_dim,
            prefixes: vec![1],
            own: vec![1],
            slots: 1,
            dtype: weights,
        };
        let mut kv = sim.kv(&layout)?;
        let mut batch = sim.batch(1)?;
        let row = BatchRow {
            token: 0,
            slot: Slot::Prefix(0),
            position: 0,
        };
        sim.load_batch(&[row], &mut batch)?;
        let rotated = head_dim / 2 * 2;
        let table = rows_of(&sim, &vec![1.0; rotated], rotated);
        let mut qkv = projections_of(&sim, &vec![1.0; 3 * head_dim], 3 * head_dim, weights);
        sim.rope_append(&shape, Some(&table), &batch, 0, &mut qkv, &mut kv)?;
        let mut out = sim.acts(1, head_dim, weights)?;
        sim.attend(&Attend::new(shape), &qkv, &batch, 0, &kv, &mut out)
    };
    assert!(unsupported(one_row(24, DType::Bf16)));
    assert!(unsupported(one_row(272, DType::Bf16)));
    assert!(unsupported(one_row(7, DType::F32)));
    must("head_dim 32", one_row(32, DType::Bf16));
    must("head_dim 24", one_row(24, DType::F32));
}

/// Projections of 16-bit weights are for the ops of a layer, which read them as what they are.
#[test]
fn projections_of_16_bits_are_not_f32_rows() {
    let sim = &sim();
    let refused = |what: &str, result: Result<()>| {
        let Err(KernelError::Unsupported { reason, .. }) = result else {
            panic!("{what}: {result:?}");
        };
        assert!(reason.contains("bf16"), "{what}: {reason}");
    };
    let halves = || projections_of(sim, &[1.0; 16], 16, DType::Bf16);
    let rows = || rows_of(sim, &[1.0; 16], 16);
    let ones = must("vector", sim.vector(&[1.0; 16]));
    let acts = |dtype| acts_of(sim, &[1.0; 16], 16, dtype);
    let tally = || must("tally", sim.tally());
    let mut gathered = must("rows", sim.rows(1, 16));
    refused("gather", sim.gather(&halves(), &[0], &mut gathered));
    let mut gathered = must("rows", sim.projections(1, 16, DType::Bf16));
    refused("gather", sim.gather(&rows(), &[0], &mut gathered));
    refused(
        "inject",
        sim.inject(&halves(), &[write(0)], &mut rows(), &mut tally()),
    );
    refused(
        "inject",
        sim.inject(&rows(), &[write(0)], &mut halves(), &mut tally()),
    );
    refused("cast", sim.cast(&halves(), &mut acts(DType::Bf16)));
    refused("add", sim.add(&halves(), 1.0, &mut rows()));
    refused("add", sim.add(&rows(), 1.0, &mut halves()));
    refused(
        "rms_norm",
        sim.rms_norm(&halves(), &ones, 1e-5, &mut acts(DType::Bf16)),
    );
    refused(
        "rms_norm_f32",
        sim.rms_norm_f32(&rows(), &ones, 1e-5, &mut halves()),
    );
    refused(
        "linear_f32",
        sim.linear_f32(&halves(), &rows(), None, &mut rows_of(sim, &[0.0], 1)),
    );
    let mut half = projections_of(sim, &[0.0; 8], 8, DType::Bf16);
    refused("glu_f32", sim.glu_f32(Activation::Silu, &rows(), &mut half));
    // Ops of a layer take one type throughout.
    let eight = || must("acts", sim.acts(1, 8, DType::Bf16));
    refused("glu", sim.glu(Activation::Silu, &rows(), &mut eight()));
    let unit = Matrix::new(DType::F16, 16, &[1.0; 256]);
    let unit = must("matrix", sim.matrix(&[&unit], DType::F16));
    refused(
        "linear",
        sim.linear(&acts(DType::F16), &unit, None, &mut halves()),
    );
}

fn write(row: usize) -> Injection {
    Injection {
        row,
        vector: 0,
        mode: InjectMode::Replace,
        strength: 1.0,
    }
}

/// The kernel counts its writes, and skips those outside the rows.
#[test]
fn an_injection_outside_is_not_counted() {
    let driver = SimDriver::new();
    let alloc = |bytes| must("alloc", driver.alloc("a test", bytes));
    let (rows, vectors, written) = (alloc(3 * 16), alloc(16), alloc(4));
    let list = injection_list(&[write(0), write(3), write(2)]);
    let device_list = alloc(list.len() as u64);
    // SAFETY: the ranges are the allocations.
    unsafe {
        must("write", driver.zero(rows, 3 * 16));
        must("write", driver.zero(written, 4));
        must(
            "write",
            driver.write(vectors, bytemuck::cast_slice(&[1f32; 4])),
        );
        must("write", driver.write(device_list, &list));
    }
    let plan = Inject {
        rows,
        vectors,
        list: device_list,
        written,
        n_rows: 3,
        n_vectors: 1,
        width: 4,
        // Fewer blocks than writes, as in a captured graph whose list has grown.
        blocks: 2,
    };
    let (mut count, mut after) = ([0], [0f32; 12]);
    // SAFETY: the buffers have the shapes that the plan names.
    unsafe {
        must("inject", driver.launch(&plan.launch()));
        let counted = driver.read(written, bytemuck::cast_slice_mut::<u32, u8>(&mut count));
        must("read", counted);
        must(
            "read",
            driver.read(rows, bytemuck::cast_slice_mut(&mut after)),
        );
    }
    assert_eq!(count, [2]);
    assert_eq!(after, [1., 1., 1., 1., 0., 0., 0., 0., 1., 1., 1., 1.]);
}

/// A device that loses injections.
struct Forgetful(SimDriver);

impl Driver for Forgetful {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn memory(&self) -> Result<Memory> {
        self.0.memory()
    }

    fn alloc(&self, what: &'static str, bytes: u64) -> Result<u64> {
        self.0.alloc(what, bytes)
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's.
        unsafe { self.0.free(address) }
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.0.write(to, bytes) }
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.0.read(from, bytes) }
    }

    unsafe fn zero(&self, at: u64, bytes: u64) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.0.zero(at, bytes) }
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        if launch.entry == "inject" {
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.0.launch(launch) }
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.0.gemm(gemm) }
    }

    fn synchronize(&self) -> Result<()> {
        self.0.synchronize()
    }
}

#[test]
fn an_injection_that_missed_is_an_error_of_the_next_check() {
    let gpu = must("gpu", Gpu::new(Forgetful(SimDriver::new()), Splits::Fixed));
    let vectors = rows_of(&gpu, &[1.0; 4], 4);
    let mut rows = rows_of(&gpu, &[0.0; 12], 4);
    let [mut one, mut two] = [(), ()].map(|()| must("tally", gpu.tally()));
    let missed = |result| match result {
        Err(KernelError::MissedInjection { asked, written }) => (asked, written),
        Err(e) => panic!("{e}"),
        Ok(()) => panic!("nobody noticed"),
    };
    let writes = [write(0), write(2), write(0)];
    must("inject", gpu.inject(&vectors, &writes, &mut rows, &mut one));
    // Reads are unaffected, and so is another tally.
    must("read", gpu.read_rows(&rows, 0..3));
    must("the other", gpu.check_tally(&mut two));
    assert_eq!(missed(gpu.check_tally(&mut one)), (3, 0));
    // The miss is reported once, and the next miss again.
    must("told before", gpu.check_tally(&mut one));
    must(
        "inject",
        gpu.inject(&vectors, &writes[..2], &mut rows, &mut one),
    );
    assert_eq!(missed(gpu.check_tally(&mut one)), (2, 0));
    must("told before", gpu.check_tally(&mut one));
}
