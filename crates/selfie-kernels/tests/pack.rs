//! Packing keeps every value, rounds to nearest even, and names the value that it refuses.

use std::io;
use std::ops::Range;

use half::{bf16, f16};
use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{
    Backend, Cpu, CpuMatrix, CpuOptions, DType, Format, KernelError, MatrixSource, SliceMatrix,
};
use selfie_testkit::cases::{DTYPES, must, values};

fn cpu() -> Cpu {
    let options = CpuOptions {
        threads: Some(3),
        path: None,
    };
    must("cpu", Cpu::new(options))
}

fn row(matrix: &CpuMatrix, i: usize) -> Vec<f32> {
    let mut row = vec![f32::NAN; matrix.columns()];
    matrix.read_row(i, &mut row);
    row
}

fn assert_bits(got: &[f32], want: &[f32], name: &str) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (column, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(
            got.to_bits(),
            want.to_bits(),
            "{name}, column {column}: {got:e}, not {want:e}"
        );
    }
}

#[test]
fn every_value_of_every_source_is_kept() {
    let cpu = cpu();
    // Heights of stacked sources, and their columns. The last one takes several tasks of a megabyte each.
    let shapes: [(&[usize], usize); 9] = [
        (&[1], 1),
        (&[16], 32),
        (&[17], 31),
        (&[5, 3], 2),
        (&[1, 1, 1], 3),
        (&[33, 7, 24], 33),
        (&[48, 16, 16], 128),
        (&[7, 1, 130, 2], 129),
        (&[100, 33, 60], 4100),
    ];
    for (heights, columns) in shapes {
        for stored in DTYPES {
            let sources: Vec<Matrix> = heights
                .iter()
                .enumerate()
                .map(|(i, &n)| {
                    let values = values(i as u64, n * columns, (-3.0, 3.0));
                    Matrix::new(stored, columns, &values)
                })
                .collect();
            let sources: Vec<&dyn MatrixSource> =
                sources.iter().map(|s| s as &dyn MatrixSource).collect();
            for dtype in DTYPES {
                let packed = must("matrix", cpu.matrix(&sources, dtype));
                let rows = heights.iter().sum::<usize>();
                assert_eq!((packed.rows(), packed.columns()), (rows, columns));
                assert_eq!(
                    packed.formats().collect::<Vec<_>>(),
                    [(Format::Plain(dtype), rows)]
                );
                let mut at = 0;
                for (i, &n) in heights.iter().enumerate() {
                    let values = values(i as u64, n * columns, (-3.0, 3.0));
                    for values in values.chunks_exact(columns) {
                        let stored_values = values.iter().map(|&x| reference::round(stored, x));
                        let want: Vec<f32> =
                            stored_values.map(|x| reference::round(dtype, x)).collect();
                        let name =
                            format!("{stored} as {dtype}, {heights:?} x {columns}, row {at}");
                        assert_bits(&row(&packed, at), &want, &name);
                        at += 1;
                    }
                }
            }
        }
    }
}

#[test]
fn a_dtype_that_is_kept_keeps_every_bit_pattern() {
    let cpu = cpu();
    let finite = |x: &f32| x.is_finite();
    let bf16s = (0..=u16::MAX).map(|bits| bf16::from_bits(bits).to_f32());
    let f16s = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32());
    for (dtype, all) in [
        (DType::Bf16, bf16s.filter(finite).collect::<Vec<f32>>()),
        (DType::F16, f16s.filter(finite).collect()),
    ] {
        let source = Matrix::new(dtype, all.len(), &all);
        // Every bf16 and every f16 is also an f32.
        for target in [dtype, DType::F32] {
            let packed = must("matrix", cpu.matrix(&[&source], target));
            assert_bits(&row(&packed, 0), &all, &format!("{dtype} as {target}"));
        }
    }
}

#[test]
fn conversions_round_to_nearest_even() {
    let cpu = cpu();
    // IEEE 754, 4.3.1: 8 bits of significand in bf16, 11 in f16; then the subnormals and largest numbers of f16.
    let power = |e: i32| 2f32.powi(e);
    let cases: [(DType, &[(f32, f32)]); 2] = [
        (
            DType::Bf16,
            &[
                (1.0 + power(-8), 1.0),
                (1.0 + power(-8) + power(-20), 1.0 + power(-7)),
                (1.0 + 3.0 * power(-8), 1.0 + power(-6)),
                (-1.0 - power(-8), -1.0),
                (2.0 - power(-9), 2.0),
                (power(-126) * (1.0 - power(-9)), power(-126)),
            ],
        ),
        (
            DType::F16,
            &[
                (1.0 + power(-11), 1.0),
                (1.0 + power(-11) + power(-22), 1.0 + power(-10)),
                (1.0 + 3.0 * power(-11), 1.0 + power(-9)),
                (-1.0 - power(-11), -1.0),
                (65519.0, 65504.0),
                (power(-24), power(-24)),
                (power(-25), 0.0),
                (1.5 * power(-25), power(-24)),
                (1.5 * power(-24), power(-23)),
                (-power(-14) * (1.0 - power(-12)), -power(-14)),
            ],
        ),
    ];
    for (dtype, pairs) in cases {
        let from: Vec<f32> = pairs.iter().map(|p| p.0).collect();
        let want: Vec<f32> = pairs.iter().map(|p| p.1).collect();
        let source = Matrix::new(DType::F32, from.len(), &from);
        let packed = must("matrix", cpu.matrix(&[&source], dtype));
        assert_eq!(row(&packed, 0), want, "{dtype}");
    }
}

/// Packs two stacked sources whose value at `row`, `column` of the stack is `bad`; packing must refuse it.
fn refuses(stored: DType, dtype: DType, bad: f32, row: usize, column: usize) {
    const HEIGHTS: [usize; 2] = [37, 400];
    let columns = 1030;
    let mut all = values(1, (HEIGHTS[0] + HEIGHTS[1]) * columns, (-1.0, 1.0));
    all[row * columns + column] = bad;
    let (first, second) = all.split_at(HEIGHTS[0] * columns);
    let first = Matrix::new(stored, columns, first);
    let second = Matrix::new(stored, columns, second);
    let name = format!("{bad} of {stored} as {dtype} at {row}, {column}");
    match cpu().matrix(&[&first, &second], dtype) {
        Err(KernelError::NotFinite {
            row: r,
            column: c,
            value,
            dtype: d,
        }) => {
            assert_eq!((r, c, d), (row, column, dtype), "{name}");
            assert!(
                value == bad || (value.is_nan() && bad.is_nan()),
                "{name}: {value}"
            );
        }
        Err(e) => panic!("{name}: {e}"),
        Ok(_) => panic!("{name} was packed"),
    }
}

#[test]
fn what_is_not_finite_is_named() {
    let places = [
        (0, 0),
        (15, 127),
        (36, 128),
        (37, 1029),
        (38, 500),
        (436, 1029),
    ];
    for (row, column) in places {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for stored in DTYPES {
                for dtype in DTYPES {
                    refuses(stored, dtype, bad, row, column);
                }
            }
        }
    }
    // Finite, but too large for the requested type: f16 ends at 65504, and bf16 rounds the largest f32 up.
    refuses(DType::F32, DType::F16, 65520.0, 20, 7);
    refuses(DType::F32, DType::F16, -1e30, 300, 1029);
    refuses(DType::Bf16, DType::F16, 65536.0, 37, 0);
    refuses(DType::F32, DType::Bf16, f32::MAX, 0, 1);
}

/// A source that gives `given` bytes of zeros whatever the request, or fails.
struct Broken {
    rows: usize,
    columns: usize,
    given: Option<usize>,
}

impl MatrixSource for Broken {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn dtype(&self) -> DType {
        DType::Bf16
    }

    fn with_rows(&self, _: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        match self.given {
            Some(n) => read(&vec![0; n]),
            None => return Err(io::Error::other("the disk is gone")),
        }
        Ok(())
    }
}

#[test]
fn a_source_with_another_number_of_bytes_is_an_error() {
    for given in [0, 1, 4 * 5 * 2 - 1, 4 * 5 * 2 + 1] {
        let source = Broken {
            rows: 4,
            columns: 5,
            given: Some(given),
        };
        match cpu().matrix(&[&source], DType::F32) {
            Err(KernelError::Read(e)) => {
                assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof, "{given} bytes: {e}");
            }
            Err(e) => panic!("{given} bytes: {e}"),
            Ok(_) => panic!("{given} bytes were packed"),
        }
    }
}

#[test]
fn an_error_of_the_source_is_kept() {
    let source = Broken {
        rows: 4,
        columns: 5,
        given: None,
    };
    match cpu().matrix(&[&source], DType::Bf16) {
        Err(KernelError::Read(e)) => assert_eq!(e.to_string(), "the disk is gone"),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("a source that fails was packed"),
    }
}

#[test]
fn a_slice_is_a_source() {
    let all = values(1, 7 * 37, (-2.0, 2.0));
    for stored in DTYPES {
        let bytes = stored.to_bytes(&all);
        let slice = must("slice", SliceMatrix::new(stored, 37, &bytes));
        assert_eq!((slice.shape(), slice.dtype()), ((7, 37), stored));
        let packed = must("matrix", cpu().matrix(&[&slice], DType::F32));
        let want = Matrix::new(stored, 37, &all);
        for at in 0..7 {
            assert_bits(
                &row(&packed, at),
                want.row(at),
                &format!("{stored}, row {at}"),
            );
        }
    }
    let slice = must("slice", SliceMatrix::from_f32(37, &all));
    assert_eq!((slice.shape(), slice.dtype()), ((7, 37), DType::F32));
    let packed = must("matrix", cpu().matrix(&[&slice, &slice], DType::F32));
    assert_bits(&row(&packed, 8), &all[37..74], "row 8");
}

#[test]
fn a_slice_has_whole_rows() {
    let refused = |slice: selfie_kernels::Result<SliceMatrix<'_>>| match slice {
        Err(KernelError::Shape {
            op: "matrix",
            expected,
            found,
            ..
        }) => (expected, found),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(SliceMatrix::from_f32(3, &[1.0; 7])), (6, 7));
    assert_eq!(refused(SliceMatrix::from_f32(0, &[1.0; 7])), (0, 7));
    assert_eq!(refused(SliceMatrix::new(DType::F16, 3, &[0; 13])), (12, 13));
}

#[test]
fn stacked_sources_have_the_same_columns() {
    let wide = Matrix::new(DType::F32, 3, &[1.0; 6]);
    let narrow = Matrix::new(DType::F32, 2, &[1.0; 6]);
    match cpu().matrix(&[&wide, &narrow], DType::F32) {
        Err(KernelError::Shape {
            op: "matrix",
            expected: 3,
            found: 2,
            ..
        }) => {}
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("sources of different widths were stacked"),
    }
}

#[test]
fn a_matrix_is_its_values_padded() {
    // 33 columns: 64 in bf16, 34 in f16, 33 in f32; 40 rows: 64.
    let source = Matrix::new(DType::F32, 33, &[1.0; 40 * 33]);
    for (dtype, bytes) in [
        (DType::Bf16, 64 * 64 * 2),
        (DType::F16, 64 * 34 * 2),
        (DType::F32, 64 * 33 * 4),
    ] {
        let packed = must("matrix", cpu().matrix(&[&source], dtype));
        assert_eq!(packed.bytes(), bytes, "{dtype}");
    }
}
