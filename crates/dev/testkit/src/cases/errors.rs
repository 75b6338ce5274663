//! Each op refuses arguments that do not fit, and its error gives the numbers.

use selfie_kernels::reference::Matrix;
use selfie_kernels::{
    Activation, Adam, Attend, AttnShape, Backend, BatchRow, DType, InjectMode, Injection,
    KernelError, KvLayout, LogitMap, Parts, Result, Slot,
};

use super::{DTYPES, Operands, acts_of, must, projections_of, rows_of};

/// The op, the expected and the found value of a refused shape.
#[track_caller]
fn shape<T>(result: Result<T>) -> (&'static str, usize, usize) {
    match result {
        Err(KernelError::Shape {
            op,
            expected,
            found,
            ..
        }) => (op, expected, found),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("a wrong shape was accepted"),
    }
}

/// The op, the index and the length of a refused index.
#[track_caller]
fn range<T>(result: Result<T>) -> (&'static str, usize, usize) {
    match result {
        Err(KernelError::OutOfRange { op, index, len, .. }) => (op, index, len),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("an index out of range was accepted"),
    }
}

/// `n` rows of zeros.
fn zeros<B: Backend>(backend: &B, n: usize, width: usize) -> B::Rows {
    rows_of(backend, &vec![0.0; n * width], width)
}

/// A matrix `[out, in]` of ones.
fn ones<B: Backend>(backend: &B, out: usize, columns: usize) -> B::Matrix {
    let source = Matrix::new(DType::F32, columns, &vec![1.0; out * columns]);
    must("matrix", backend.matrix(&[&source], DType::F32))
}

fn batch_of<B: Backend>(backend: &B, rows: &[BatchRow]) -> B::Batch {
    let mut batch = must("batch", backend.batch(rows.len()));
    must("load_batch", backend.load_batch(rows, &mut batch));
    batch
}

fn at(slot: Slot, position: u32) -> BatchRow {
    BatchRow {
        token: 0,
        slot,
        position,
    }
}

pub fn buffers<B: Operands>(backend: &B) {
    let mut rows = must("rows", backend.rows(3, 4));
    assert_eq!(
        shape(backend.write_rows(&[0.0; 10], &mut rows)),
        ("write_rows", 8, 10)
    );
    assert_eq!(
        range(backend.write_rows(&[0.0; 16], &mut rows)),
        ("write_rows", 3, 3)
    );
    must("write_rows", backend.write_rows(&[0.0; 8], &mut rows));
    // Ends count from 0 to the length, so there is one more end than there are rows.
    assert_eq!(range(backend.read_rows(&rows, 0..3)), ("read_rows", 3, 3));
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 2..1;
    assert_eq!(
        range(backend.read_rows(&rows, reversed)),
        ("read_rows", 2, 2)
    );
    let mut batch = must("batch", backend.batch(2));
    let three = [at(Slot::Prefix(0), 0); 3];
    assert_eq!(
        range(backend.load_batch(&three, &mut batch)),
        ("load_batch", 2, 2)
    );
}

pub fn embed<B: Operands>(backend: &B) {
    let table = ones(backend, 5, 3);
    let row = |token| BatchRow {
        token,
        ..at(Slot::Prefix(0), 0)
    };
    let two = batch_of(backend, &[row(4), row(0)]);
    let mut wide = must("rows", backend.rows(2, 4));
    assert_eq!(
        shape(backend.embed(&table, &two, 1.0, &mut wide)),
        ("embed", 3, 4)
    );
    let mut out = must("rows", backend.rows(2, 3));
    let unknown = batch_of(backend, &[row(4), row(5)]);
    assert_eq!(
        range(backend.embed(&table, &unknown, 1.0, &mut out)),
        ("embed", 5, 5)
    );
    let mut short = must("rows", backend.rows(1, 3));
    assert_eq!(
        range(backend.embed(&table, &two, 1.0, &mut short)),
        ("embed", 1, 1)
    );
    must("embed", backend.embed(&table, &two, 1.0, &mut out));
}

pub fn rms_norm<B: Operands>(backend: &B) {
    let x = zeros(backend, 2, 4);
    let weight = must("vector", backend.vector(&[1.0; 4]));
    let long = must("vector", backend.vector(&[1.0; 5]));
    for dtype in DTYPES {
        let acts = |n, width| must("acts", backend.acts(n, width, dtype));
        let norm = |w, mut out| backend.rms_norm(&x, w, 1e-5, &mut out);
        assert_eq!(shape(norm(&long, acts(2, 4))), ("rms_norm", 4, 5));
        assert_eq!(shape(norm(&weight, acts(2, 5))), ("rms_norm", 4, 5));
        assert_eq!(range(norm(&weight, acts(1, 4))), ("rms_norm", 1, 1));
        must("rms_norm", norm(&weight, acts(2, 4)));
    }
    let rows = |n, width| must("rows", backend.rows(n, width));
    let norm = |w, mut out| backend.rms_norm_f32(&x, w, 1e-5, &mut out);
    assert_eq!(shape(norm(&long, rows(2, 4))), ("rms_norm", 4, 5));
    assert_eq!(shape(norm(&weight, rows(2, 5))), ("rms_norm", 4, 5));
    assert_eq!(range(norm(&weight, rows(1, 4))), ("rms_norm", 1, 1));
    must("rms_norm_f32", norm(&weight, rows(2, 4)));
}

pub fn cast_and_add<B: Operands>(backend: &B) {
    let x = zeros(backend, 2, 4);
    let mut narrow = must("acts", backend.acts(2, 3, DType::Bf16));
    assert_eq!(shape(backend.cast(&x, &mut narrow)), ("cast", 4, 3));
    let mut short = must("acts", backend.acts(1, 4, DType::Bf16));
    assert_eq!(range(backend.cast(&x, &mut short)), ("cast", 1, 1));
    let mut acts = must("acts", backend.acts(2, 4, DType::Bf16));
    must("cast", backend.cast(&x, &mut acts));
    assert_eq!(range(backend.read_acts(&acts, 0..3)), ("read_acts", 3, 3));
    #[allow(clippy::reversed_empty_ranges)]
    let reversed = 2..1;
    assert_eq!(
        range(backend.read_acts(&acts, reversed)),
        ("read_acts", 2, 2)
    );
    let mut wide = zeros(backend, 2, 5);
    assert_eq!(shape(backend.add(&x, 1.0, &mut wide)), ("add", 4, 5));
    let mut long = zeros(backend, 3, 4);
    assert_eq!(shape(backend.add(&x, 1.0, &mut long)), ("add", 2, 3));
}

pub fn linear<B: Operands>(backend: &B) {
    let w = ones(backend, 5, 3);
    let a = acts_of(backend, &[0.0; 6], 3, DType::F32);
    let wide = acts_of(backend, &[0.0; 8], 4, DType::F32);
    let long = must("vector", backend.vector(&[0.0; 6]));
    let mut out = must("rows", backend.rows(2, 5));
    assert_eq!(
        shape(backend.linear(&wide, &w, None, &mut out)),
        ("linear", 3, 4)
    );
    assert_eq!(
        shape(backend.linear(&a, &w, Some(&long), &mut out)),
        ("linear", 5, 6)
    );
    let mut narrow = must("rows", backend.rows(2, 4));
    assert_eq!(
        shape(backend.linear(&a, &w, None, &mut narrow)),
        ("linear", 5, 4)
    );
    let mut short = must("rows", backend.rows(1, 5));
    assert_eq!(
        range(backend.linear(&a, &w, None, &mut short)),
        ("linear", 1, 1)
    );
    must("linear", backend.linear(&a, &w, None, &mut out));
}

pub fn linear_add<B: Operands>(backend: &B) {
    let w = ones(backend, 5, 3);
    let a = acts_of(backend, &[0.0; 6], 3, DType::F32);
    let wide = acts_of(backend, &[0.0; 8], 4, DType::F32);
    let long = must("vector", backend.vector(&[0.0; 6]));
    let add = |a, bias, mut residual| backend.linear_add(a, &w, bias, &mut residual);
    let (_, expected, found) = shape(add(&wide, None, zeros(backend, 2, 5)));
    assert_eq!((expected, found), (3, 4));
    let (_, expected, found) = shape(add(&a, Some(&long), zeros(backend, 2, 5)));
    assert_eq!((expected, found), (5, 6));
    shape(add(&a, None, zeros(backend, 3, 5)));
    // As many values as two rows of five, in a different shape.
    assert_eq!(
        shape(add(&a, None, zeros(backend, 5, 2))),
        ("linear_add", 5, 2)
    );
    must("linear_add", add(&a, None, zeros(backend, 2, 5)));
}

pub fn an_operand_has_the_dtype_that_the_weights_ask_for<B: Operands>(backend: &B) {
    for dtype in DTYPES {
        let source = Matrix::new(DType::F32, 3, &[1.0; 15]);
        let w = must("matrix", backend.matrix(&[&source], dtype));
        for made_for in DTYPES {
            let a = acts_of(backend, &[0.0; 6], 3, made_for);
            let mut out = must("rows", backend.rows(2, 5));
            let mut residual = zeros(backend, 2, 5);
            let results = [
                backend.linear(&a, &w, None, &mut out),
                backend.linear_add(&a, &w, None, &mut residual),
                backend.head_best(&a, &w, &LogitMap::PLAIN).map(|_| ()),
                backend
                    .head_score(&a, &w, &LogitMap::PLAIN, &[0, 0])
                    .map(|_| ()),
            ];
            // If a model mixes formats, products round f32 operands themselves.
            let is_rounded =
                backend.keeps_blocks() && B::operand(made_for) == B::operand(DType::F32);
            let fits = is_rounded || B::operand(dtype) == B::operand(made_for);
            for result in results {
                match result {
                    Ok(()) => assert!(fits, "{made_for} for {dtype}"),
                    Err(KernelError::Unsupported { .. }) => {
                        assert!(!fits, "{made_for} for {dtype}")
                    }
                    Err(e) => panic!("{made_for} for {dtype}: {e}"),
                }
            }
        }
    }
}

pub fn glu<B: Operands>(backend: &B) {
    let acts = |n, width| must("acts", backend.acts(n, width, DType::Bf16));
    let gate = |gate_up, mut out| backend.glu(Activation::Silu, gate_up, &mut out);
    let rows = |width| projections_of(backend, &vec![0.0; 2 * width], width, DType::Bf16);
    let even = rows(6);
    assert_eq!(shape(gate(&even, acts(2, 4))), ("glu", 3, 4));
    assert_eq!(range(gate(&even, acts(1, 3))), ("glu", 1, 1));
    // A row that does not split into a gate and its half.
    let uneven = rows(7);
    assert_eq!(shape(gate(&uneven, acts(2, 3))), ("glu", 6, 7));
    must("glu", gate(&even, acts(2, 3)));
}

/// One shape that a GPU has a kernel for, and one without.
pub fn linear_glu<B: Operands>(backend: &B) {
    for (k, ffn) in [(8, 16), (3, 3)] {
        let width = 2 * ffn;
        let w = Matrix::new(DType::Bf16, k, &vec![1.0; width * k]);
        let w = must("matrix", backend.matrix(&[&w], DType::Bf16));
        let a = acts_of(backend, &vec![0.0; 2 * k], k, DType::Bf16);
        let wide = acts_of(backend, &vec![0.0; 2 * k + 2], k + 1, DType::Bf16);
        let long = must("vector", backend.vector(&vec![0.0; width + 1]));
        // Buffers for gates and for the output, as (rows, columns).
        let both = |a, bias, gate_up: (usize, usize), out: (usize, usize)| {
            let gate_up = backend.projections(gate_up.0, gate_up.1, DType::Bf16);
            let mut gate_up = must("projections", gate_up);
            let mut out = must("acts", backend.acts(out.0, out.1, DType::Bf16));
            backend.linear_glu(a, &w, bias, Activation::Silu, &mut gate_up, &mut out)
        };
        let (room, out) = ((2, width), (2, ffn));
        let (_, expected, found) = shape(both(&wide, None, room, out));
        assert_eq!((expected, found), (k, k + 1));
        let (_, expected, found) = shape(both(&a, Some(&long), room, out));
        assert_eq!((expected, found), (width, width + 1));
        let (_, expected, found) = shape(both(&a, None, (2, width - 1), out));
        assert_eq!((expected, found), (width, width - 1));
        let (_, expected, found) = shape(both(&a, None, room, (2, ffn + 1)));
        assert_eq!((expected, found), (ffn, ffn + 1));
        let (_, index, len) = range(both(&a, None, (1, width), out));
        assert_eq!((index, len), (1, 1));
        let (_, index, len) = range(both(&a, None, room, (1, ffn)));
        assert_eq!((index, len), (1, 1));
        must("linear_glu", both(&a, None, room, out));
    }
}

const SHAPE: AttnShape = AttnShape {
    heads: 4,
    kv_heads: 2,
    head_dim: 6,
};

/// Two layers with prefixes of eight and three positions, and four own positions per slot. Slot 0 sees five positions
/// of the first prefix, slot 1 none.
fn cache<B: Backend>(backend: &B) -> B::Kv {
    let layout = KvLayout {
        kv_heads: SHAPE.kv_heads,
        head_dim: SHAPE.head_dim,
        prefixes: vec![8, 3],
        own: vec![4, 4],
        slots: 2,
        dtype: DType::F32,
    };
    let mut kv = must("kv", backend.kv(&layout));
    must("kv_share", backend.kv_share(&mut kv, 0, 0, &[5, 5]));
    kv
}

pub fn kv_share<B: Operands>(backend: &B) {
    let mut kv = cache(backend);
    let mut share =
        |slot, prefix, shared: &[usize]| backend.kv_share(&mut kv, slot, prefix, shared);
    assert_eq!(range(share(2, 0, &[0, 0])), ("kv_share", 2, 2));
    assert_eq!(shape(share(0, 0, &[0])), ("kv_share", 2, 1));
    assert_eq!(range(share(0, 2, &[0, 1])), ("kv_share", 2, 2));
    // 0 to 8 positions of one prefix can be seen, which are nine numbers, and 0 to 3 of the other.
    assert_eq!(range(share(0, 0, &[8, 9])), ("kv_share", 9, 9));
    assert_eq!(range(share(0, 1, &[4, 0])), ("kv_share", 4, 4));
    must("kv_share", share(1, 0, &[8, 0]));
    must("kv_share", share(1, 1, &[3, 3]));
    // A slot that sees nothing may name a prefix that does not exist.
    must("kv_share", share(1, 7, &[0, 0]));
}

pub fn kv_copy<B: Operands>(backend: &B) {
    let mut kv = cache(backend);
    let mut copy = |from, to, positions| backend.kv_copy(&mut kv, from, to, positions);
    assert_eq!(range(copy(2, 0, 0)), ("kv_copy", 2, 2));
    assert_eq!(range(copy(0, 2, 0)), ("kv_copy", 2, 2));
    // Five positions are shared, and none is stored after them.
    assert_eq!(range(copy(0, 1, 6)), ("kv_copy", 6, 6));
    assert_eq!(range(copy(0, 0, 6)), ("kv_copy", 6, 6));
    must("kv_copy", copy(0, 1, 5));
    let mut kv = filled_cache(backend);
    assert_eq!(
        range(backend.kv_copy(&mut kv, 0, 1, 10)),
        ("kv_copy", 10, 10)
    );
    must("kv_copy", backend.kv_copy(&mut kv, 0, 1, 7));
    // The fork has stored the copied positions and no others.
    assert_eq!(range(backend.kv_copy(&mut kv, 1, 0, 8)), ("kv_copy", 8, 8));
    // A slot that is reset has stored nothing.
    must("kv_share", backend.kv_share(&mut kv, 1, 1, &[2, 1]));
    assert_eq!(range(backend.kv_copy(&mut kv, 1, 0, 2)), ("kv_copy", 2, 2));
    must("kv_copy", backend.kv_copy(&mut kv, 1, 0, 1));
}

/// The same cache, with something stored at every position.
fn filled_cache<B: Backend>(backend: &B) -> B::Kv {
    let mut kv = cache(backend);
    let mut rows: Vec<BatchRow> = (0..8).map(|p| at(Slot::Prefix(0), p)).collect();
    for (slot, seen) in [(0, 5), (1, 0)] {
        rows.extend((seen..seen + 4).map(|p| at(Slot::Branch(slot), p)));
    }
    let batch = batch_of(backend, &rows);
    let rope = zeros(backend, 9, SHAPE.head_dim);
    for layer in 0..2 {
        let mut qkv = zeros(backend, rows.len(), SHAPE.qkv_dim());
        let appended = backend.rope_append(&SHAPE, Some(&rope), &batch, layer, &mut qkv, &mut kv);
        must("rope_append", appended);
    }
    kv
}

/// Runs an op of attention on one row: shape, row, width of qkv, rows of qkv, layer.
type OneRow<'a> = &'a dyn Fn(AttnShape, BatchRow, usize, usize, usize) -> Result<()>;

/// What both rope_append and attend refuse.
fn refused_by_both(op: &'static str, run: OneRow<'_>) {
    let width = SHAPE.qkv_dim();
    let row = at(Slot::Branch(0), 5);
    let rows = |row| run(SHAPE, row, width, 1, 1);
    assert_eq!(
        shape(run(SHAPE, row, width + 1, 1, 1)),
        (op, width, width + 1)
    );
    assert_eq!(shape(run(SHAPE, row, width, 2, 1)), (op, 1, 2));
    assert_eq!(range(run(SHAPE, row, width, 1, 2)), (op, 2, 2));
    let heads = AttnShape {
        kv_heads: 4,
        ..SHAPE
    };
    let (found, _, _) = shape(run(heads, row, heads.qkv_dim(), 1, 1));
    assert_eq!(found, op);
    let wide = AttnShape {
        head_dim: 8,
        ..SHAPE
    };
    let (found, _, _) = shape(run(wide, row, wide.qkv_dim(), 1, 1));
    assert_eq!(found, op);
    assert_eq!(range(rows(at(Slot::Prefix(0), 8))), (op, 8, 8));
    assert_eq!(range(rows(at(Slot::Prefix(1), 3))), (op, 3, 3));
    assert_eq!(range(rows(at(Slot::Prefix(2), 0))), (op, 2, 2));
    assert_eq!(range(rows(at(Slot::Branch(2), 5))), (op, 2, 2));
    // Slot 0 starts at 5 and has room for four; slot 1 starts at 0.
    assert_eq!(range(rows(at(Slot::Branch(0), 9))), (op, 9, 9));
    assert_eq!(range(rows(at(Slot::Branch(1), 4))), (op, 4, 4));
    assert_eq!(range(rows(at(Slot::Branch(0), 4))).0, op);
    for fits in [
        at(Slot::Prefix(0), 7),
        at(Slot::Branch(0), 5),
        at(Slot::Branch(0), 8),
        at(Slot::Branch(1), 0),
        at(Slot::Branch(1), 3),
    ] {
        must(fits, rows(fits));
    }
}

pub fn rope_append<B: Operands>(backend: &B) {
    let run = |rope: &B::Rows, shape: AttnShape, row, width, n, layer| {
        let mut qkv = zeros(backend, n, width);
        let batch = batch_of(backend, &[row]);
        backend.rope_append(
            &shape,
            Some(rope),
            &batch,
            layer,
            &mut qkv,
            &mut cache(backend),
        )
    };
    refused_by_both("rope_append", &|shape, row, width, n, layer| {
        run(
            &zeros(backend, 9, shape.head_dim),
            shape,
            row,
            width,
            n,
            layer,
        )
    });
    let width = SHAPE.qkv_dim();
    let narrow = zeros(backend, 9, 3);
    let row = at(Slot::Branch(0), 5);
    assert_eq!(
        shape(run(&narrow, SHAPE, row, width, 1, 0)),
        ("rope_append", 2, 3)
    );
    let wide = zeros(backend, 9, 8);
    assert_eq!(
        range(run(&wide, SHAPE, row, width, 1, 0)),
        ("rope_append", 8, 7)
    );
    let short = zeros(backend, 5, 6);
    assert_eq!(
        range(run(&short, SHAPE, row, width, 1, 0)),
        ("rope_append", 5, 5)
    );
}

pub fn attend<B: Operands>(backend: &B) {
    let run = |shape: AttnShape, row, width, n, layer, out: (usize, usize)| {
        let qkv = zeros(backend, n, width);
        let batch = batch_of(backend, &[row]);
        let mut out = must("acts", backend.acts(out.0, out.1, DType::F32));
        backend.attend(
            &Attend::new(shape),
            &qkv,
            &batch,
            layer,
            &filled_cache(backend),
            &mut out,
        )
    };
    refused_by_both("attend", &|shape, row, width, n, layer| {
        run(shape, row, width, n, layer, (2, shape.q_dim()))
    });
    let (width, q_dim) = (SHAPE.qkv_dim(), SHAPE.q_dim());
    let row = at(Slot::Branch(0), 5);
    assert_eq!(
        shape(run(SHAPE, row, width, 1, 0, (1, q_dim + 1))),
        ("attend", q_dim, q_dim + 1)
    );
    assert_eq!(
        range(run(SHAPE, row, width, 1, 0, (0, q_dim))),
        ("attend", 0, 0)
    );
    // Five query heads cannot share two key heads.
    let uneven = AttnShape { heads: 5, ..SHAPE };
    let out = (1, uneven.q_dim());
    let uneven = run(uneven, row, uneven.qkv_dim(), 1, 0, out);
    assert_eq!(shape(uneven), ("attend", 4, 5));
}

pub fn probe_ops<B: Operands>(backend: &B) {
    let src = zeros(backend, 3, 4);
    let mut dst = must("rows", backend.rows(2, 4));
    let mut wide = zeros(backend, 2, 5);
    assert_eq!(
        shape(backend.gather(&src, &[0], &mut wide)),
        ("gather", 4, 5)
    );
    assert_eq!(
        range(backend.gather(&src, &[0, 3], &mut dst)),
        ("gather", 3, 3)
    );
    assert_eq!(
        range(backend.gather(&src, &[0, 1, 2], &mut dst)),
        ("gather", 2, 2)
    );
    assert_eq!(
        backend.len(&dst),
        0,
        "a gather that was refused appended rows"
    );

    let mut dst = zeros(backend, 2, 4);
    let write = |row, vector| Injection {
        row,
        vector,
        mode: InjectMode::Replace,
        strength: 1.0,
    };
    let mut tally = must("tally", backend.tally());
    assert_eq!(
        shape(backend.inject(&src, &[write(0, 0)], &mut wide, &mut tally)),
        ("inject", 5, 4)
    );
    let mut inject = |writes: &[Injection]| backend.inject(&src, writes, &mut dst, &mut tally);
    assert_eq!(range(inject(&[write(2, 0)])), ("inject", 2, 2));
    assert_eq!(range(inject(&[write(0, 3)])), ("inject", 3, 3));
    // Refused injections are not counted.
    must("check_tally", backend.check_tally(&mut tally));
}

pub fn head<B: Operands>(backend: &B) {
    let head = ones(backend, 5, 3);
    let a = acts_of(backend, &[0.0; 6], 3, DType::F32);
    let wide = acts_of(backend, &[0.0; 8], 4, DType::F32);
    let (_, expected, found) = shape(backend.head_best(&wide, &head, &LogitMap::PLAIN));
    assert_eq!((expected, found), (3, 4));
    let (_, expected, found) = shape(backend.head_score(&wide, &head, &LogitMap::PLAIN, &[0, 0]));
    assert_eq!((expected, found), (3, 4));
    assert_eq!(
        shape(backend.head_score(&a, &head, &LogitMap::PLAIN, &[0])),
        ("head_score", 2, 1)
    );
    assert_eq!(
        range(backend.head_score(&a, &head, &LogitMap::PLAIN, &[4, 5])),
        ("head_score", 5, 5)
    );
}

pub fn training<B: Operands>(backend: &B) {
    let rows = |n, width| zeros(backend, n, width);
    let mut out = rows(4, 6);
    let refused = backend.linear_f32(&rows(2, 3), &rows(6, 4), None, &mut out);
    assert_eq!(shape(refused), ("linear_f32", 3, 4));
    let refused = backend.linear_f32(&rows(2, 4), &rows(5, 4), None, &mut out);
    assert_eq!(shape(refused), ("linear_f32", 5, 6));
    let refused = backend.linear_f32(&rows(2, 4), &rows(6, 4), Some(&rows(5, 1)), &mut out);
    assert_eq!(shape(refused), ("linear_f32", 6, 5));
    let refused = backend.linear_f32(&rows(5, 4), &rows(6, 4), None, &mut out);
    assert_eq!(range(refused), ("linear_f32", 4, 4));
    let refused = backend.linear_f32_back(&rows(2, 3), &rows(4, 6), &mut out);
    assert_eq!(shape(refused), ("linear_f32_back", 3, 4));
    let refused = backend.linear_f32_back(&rows(2, 4), &rows(4, 5), &mut out);
    assert_eq!(shape(refused), ("linear_f32_back", 5, 6));
    let refused = backend.glu_f32(Activation::Silu, &rows(2, 10), &mut out);
    assert_eq!(shape(refused), ("glu_f32", 12, 10));
    let refused = backend.mlp_backward(Activation::Silu, &rows(2, 8), &rows(2, 3), &mut out);
    assert_eq!(shape(refused), ("mlp_backward", 6, 8));
    let refused = backend.mlp_backward(Activation::Silu, &rows(2, 6), &rows(1, 3), &mut out);
    assert_eq!(shape(refused), ("mlp_backward", 2, 1));
    let mut step = |moments: [(usize, usize); 2], d: (usize, usize), x: (usize, usize)| {
        let [mut m, mut v] = moments.map(|(n, width)| rows(n, width));
        let (d, x) = (rows(d.0, d.1), rows(x.0, x.1));
        shape(backend.adam(&mut out, [&mut m, &mut v], &d, &x, &Adam::new(1e-3)))
    };
    let fits = [(4, 6), (4, 6)];
    assert_eq!(step(fits, (2, 4), (3, 6)), ("adam", 2, 3));
    assert_eq!(step(fits, (2, 5), (2, 6)), ("adam", 4, 5));
    assert_eq!(step(fits, (2, 4), (2, 5)), ("adam", 6, 5));
    assert_eq!(step([(3, 6), (4, 6)], (2, 4), (2, 6)), ("adam", 4, 3));
    assert_eq!(step([(4, 6), (4, 5)], (2, 4), (2, 6)), ("adam", 6, 5));
    let matrix = ones(backend, 3, 2);
    assert_eq!(
        range(backend.read_matrix(&matrix, 1..4)),
        ("read_matrix", 4, 4)
    );
}

pub fn rms_norm_parts<B: Operands>(backend: &B) {
    let weight = must("vector", backend.vector(&[1.0; 3]));
    let run = |first, width, count| {
        let parts = Parts {
            first,
            width,
            count,
        };
        backend.rms_norm_parts(parts, &weight, 1e-5, &mut zeros(backend, 2, 10))
    };
    assert_eq!(shape(run(0, 4, 2)), ("rms_norm_parts", 4, 3));
    assert_eq!(range(run(2, 3, 3)), ("rms_norm_parts", 11, 11));
    assert_eq!(range(run(11, 3, 0)), ("rms_norm_parts", 11, 11));
    assert_eq!(
        range(run(0, 3, usize::MAX)),
        ("rms_norm_parts", usize::MAX, 11)
    );
    must("rms_norm_parts", run(1, 3, 3));
    must("rms_norm_parts", run(10, 3, 0));
}
