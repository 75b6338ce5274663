//! The sources from which matrices are packed.

use std::io;
use std::ops::Range;

use crate::error::check_shape;
use crate::{BlockFormat, DType, Result};

/// A matrix `[rows, columns]` stored elsewhere, usually in a file, that can be read in pieces. For a matrix in memory
/// see [`SliceMatrix`].
///
/// ```
/// use std::ops::Range;
///
/// use selfie_kernels::{DType, MatrixSource};
///
/// /// The identity matrix `[n, n]`.
/// struct Unit(usize);
///
/// impl MatrixSource for Unit {
///     fn shape(&self) -> (usize, usize) {
///         (self.0, self.0)
///     }
///
///     fn dtype(&self) -> DType {
///         DType::F32
///     }
///
///     fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> std::io::Result<()> {
///         let one = |row: usize| (0..self.0).map(move |column| f32::from(row == column));
///         read(&DType::F32.to_bytes(&rows.flat_map(one).collect::<Vec<_>>()));
///         Ok(())
///     }
/// }
/// ```
pub trait MatrixSource: Sync {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize);
    /// The type of the stored values.
    fn dtype(&self) -> DType;
    /// Calls `read` once with the little-endian bytes of `rows`, row after row.
    /// [`Backend::matrix`](crate::Backend::matrix) reports an error as [`KernelError::Read`](crate::KernelError::Read).
    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()>;
    /// The block format in which the values are stored, or `None` for plain values. If it is `Some`,
    /// [`with_rows`](Self::with_rows) gives the dequantized values and [`with_blocks`](Self::with_blocks) the blocks.
    fn blocks(&self) -> Option<BlockFormat> {
        None
    }
    /// Calls `read` once with the blocks of `rows`, row after row. Each row has as many blocks as its columns need.
    fn with_blocks(&self, _rows: Range<usize>, _read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the values are not stored in blocks",
        ))
    }
}

/// A matrix `[rows, columns]` in memory, row after row.
///
/// ```
/// use selfie_kernels::{MatrixSource, SliceMatrix};
///
/// let w = SliceMatrix::from_f32(3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(w.shape(), (2, 3));
/// # Ok::<(), selfie_kernels::KernelError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SliceMatrix<'a> {
    values: Values<'a>,
    rows: usize,
    columns: usize,
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    Bytes(DType, &'a [u8]),
    F32(&'a [f32]),
}

impl<'a> SliceMatrix<'a> {
    /// Takes little-endian values of `dtype`. An error unless they are whole rows.
    pub fn new(dtype: DType, columns: usize, bytes: &'a [u8]) -> Result<Self> {
        let row_bytes = columns * dtype.size();
        Self::of(Values::Bytes(dtype, bytes), columns, row_bytes, bytes.len())
    }

    /// Takes f32 values. An error unless they are whole rows.
    pub fn from_f32(columns: usize, values: &'a [f32]) -> Result<Self> {
        Self::of(Values::F32(values), columns, columns, values.len())
    }

    /// Takes `len` units, of which a row has `row_len`.
    fn of(values: Values<'a>, columns: usize, row_len: usize, len: usize) -> Result<Self> {
        let rows = len.checked_div(row_len).unwrap_or(0);
        check_shape(
            "matrix",
            "size of a slice of whole rows",
            rows * row_len,
            len,
        )?;
        Ok(Self {
            values,
            rows,
            columns,
        })
    }
}

impl MatrixSource for SliceMatrix<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    fn dtype(&self) -> DType {
        match self.values {
            Values::Bytes(dtype, _) => dtype,
            Values::F32(_) => DType::F32,
        }
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let part = |row: usize| rows.start * row..rows.end * row;
        match self.values {
            Values::Bytes(dtype, bytes) => read(&bytes[part(self.columns * dtype.size())]),
            Values::F32(values) => read(&DType::F32.to_bytes(&values[part(self.columns)])),
        }
        Ok(())
    }
}
