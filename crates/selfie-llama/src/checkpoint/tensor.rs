//! One tensor of a checkpoint.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use selfie_kernels::{BlockFormat, DType, MatrixSource};

use super::header::{Entry, Shard};
use super::read_error;
use crate::gguf::Layout;
use crate::{LlamaError, Result};

/// A file's description of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// The element type, as the file's format names it: `BF16`, `I8`, `Q4_K`.
    pub dtype: &'a str,
    /// The size of each dimension, outermost first.
    pub shape: &'a [usize],
    /// The tensor's bytes in the file.
    pub bytes: u64,
    /// The file that holds it.
    pub file: &'a Path,
}

/// A tensor of f32, bf16 or f16 in a file, read on demand. Quantized tensors of a GGUF file are read as f32.
///
/// As a [`MatrixSource`] it maps only the bytes of the requested rows and then drops the map, so memory never holds the
/// whole file. A vector of n values is a matrix with one row. The bytes need not be aligned to the element.
///
/// The file must not be truncated in place while rows are read: that raises SIGBUS. A file that was truncated earlier
/// gives an error.
#[derive(Clone, Debug)]
pub struct Tensor {
    name: String,
    shape: (usize, usize),
    dtype: DType,
    offset: u64,
    bytes: u64,
    layout: Option<Layout>,
    shard: Arc<Shard>,
}

impl Tensor {
    pub(super) fn new(name: &str, entry: &Entry, dtype: DType, shard: Arc<Shard>) -> Self {
        let (columns, outer) = match entry.shape.split_last() {
            Some((&columns, outer)) => (columns, outer),
            None => (1, &[][..]),
        };
        Tensor {
            name: name.to_owned(),
            shape: (outer.iter().product(), columns),
            dtype,
            offset: entry.offset,
            bytes: entry.bytes,
            layout: entry.layout,
            shard,
        }
    }

    /// The tensor's name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that holds it.
    pub fn file(&self) -> &Path {
        &self.shard.path
    }

    /// The tensor's bytes in the file.
    pub fn stored_bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the values are quantized in the file.
    pub fn is_quantized(&self) -> bool {
        self.layout.is_some_and(|layout| layout.is_quantized())
    }

    /// All values, row after row, for a norm's weight or a bias. The conversion to f32 is exact. A value that is not
    /// finite is an error.
    pub fn vector(&self) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.with_rows(0..self.shape.0, &mut |bytes| {
            values = self.dtype.to_f32(bytes);
        })
        .map_err(|source| read_error(self.file(), source))?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(LlamaError::NotFinite {
                tensor: self.name.clone(),
                file: self.file().to_owned(),
                index,
                value: values[index],
            }),
        }
    }
}

impl MatrixSource for Tensor {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let columns = self.shape.1;
        self.with_stored(rows.clone(), &mut |bytes| match &self.layout {
            Some(layout) if !rows.is_empty() => read(&layout.read(bytes, rows.clone(), columns)),
            _ => read(bytes),
        })
    }

    fn blocks(&self) -> Option<BlockFormat> {
        self.layout?.blocks()
    }

    fn with_blocks(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let Some(layout) = self.layout.filter(|layout| layout.blocks().is_some()) else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the values are not stored in blocks",
            ));
        };
        self.with_stored(rows.clone(), &mut |bytes| {
            let is_empty = rows.is_empty();
            let rows = rows.clone();
            let blocks = (!is_empty).then(|| layout.read_blocks(bytes, rows, self.shape.1));
            read(&blocks.unwrap_or_default());
        })
    }
}

impl Tensor {
    /// Calls `read` with the stored bytes that make up `rows`.
    fn with_stored(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let (total, columns) = self.shape;
        if rows.start > rows.end || rows.end > total {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("rows {rows:?} were requested, but the tensor has {total}"),
            ));
        }
        if rows.is_empty() {
            read(&[]);
            return Ok(());
        }
        // No overflow: there is at least one row, and the header check found the whole tensor inside the file.
        let (stored, row_bytes) = match &self.layout {
            None => (rows, columns * self.dtype.size()),
            Some(layout) => (layout.stored(&rows), layout.row_bytes(columns)),
        };
        let offset = self.offset + (stored.start * row_bytes) as u64;
        let end = offset + (stored.len() * row_bytes) as u64;
        self.shard.with_bytes(offset..end, read)
    }
}
