//! Buffers on the device.

use std::sync::Arc;

use super::Driver;
use crate::error::{check_index, check_shape};
use crate::{BatchRow, DType, KernelError, Result};

use super::plan::{AttentionWork, slot_word};

/// Device memory, freed on drop.
pub(super) struct Buffer<D: Driver> {
    driver: Arc<D>,
    address: u64,
    bytes: u64,
}

impl<D: Driver> Buffer<D> {
    pub(super) fn new(driver: &Arc<D>, what: &'static str, bytes: u64) -> Result<Self> {
        Ok(Self {
            address: driver.alloc(what, bytes)?,
            driver: driver.clone(),
            bytes,
        })
    }

    /// A buffer of zeros.
    pub(super) fn zeroed(driver: &Arc<D>, what: &'static str, bytes: u64) -> Result<Self> {
        let buffer = Self::new(driver, what, bytes)?;
        // SAFETY: the range is the whole allocation.
        unsafe { driver.zero(buffer.address, bytes)? };
        Ok(buffer)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes at `offset`.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.bytes);
        // SAFETY: the range lies in the allocation.
        unsafe { self.driver.write(self.address + offset, bytes) }
    }

    /// Reads at `offset`; something must have been written there before.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.bytes);
        // SAFETY: the range lies in the allocation. Reading unwritten bytes is a bug of the caller that the simulator
        // finds.
        unsafe { self.driver.read(self.address + offset, bytes) }
    }
}

impl<D: Driver> Drop for Buffer<D> {
    fn drop(&mut self) {
        // SAFETY: the buffer owns its allocation, and nothing else refers to it any more.
        unsafe { self.driver.free(self.address) };
    }
}

/// A weight matrix `[rows, columns]`, row after row.
pub struct GpuMatrix<D: Driver> {
    pub(super) buffer: Buffer<D>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) dtype: DType,
}

impl<D: Driver> GpuMatrix<D> {
    /// Output columns, `out`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns, `in`.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

/// An f32 vector.
pub struct GpuVector<D: Driver> {
    pub(super) buffer: Buffer<D>,
    pub(super) len: usize,
}

/// Rows: f32, or what a product with 16-bit weights writes, in their dtype.
pub struct GpuRows<D: Driver> {
    pub(super) buffer: Buffer<D>,
    pub(super) width: usize,
    pub(super) dtype: DType,
    pub(super) len: usize,
    capacity: usize,
}

impl<D: Driver> GpuRows<D> {
    pub(super) fn new(buffer: Buffer<D>, capacity: usize, width: usize, dtype: DType) -> Self {
        Self {
            buffer,
            width,
            dtype,
            len: 0,
            capacity,
        }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(super) fn address(&self) -> u64 {
        self.buffer.address()
    }

    /// The address of f32 rows; an error if they have another dtype.
    pub(super) fn f32(&self, op: &'static str) -> Result<u64> {
        if self.dtype == DType::F32 {
            return Ok(self.address());
        }
        Err(KernelError::Unsupported {
            op,
            reason: format!("the rows are {}, and this op takes f32", self.dtype),
        })
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> u64 {
        (self.width * self.dtype.size()) as u64
    }

    /// Sets the number of rows in use.
    pub(super) fn set_len(&mut self, op: &'static str, len: usize) -> Result<()> {
        if len > 0 {
            check_index(op, "row", len - 1, self.capacity)?;
        }
        self.len = len;
        Ok(())
    }
}

/// An error unless what a kernel takes as one type has one dtype.
pub(super) fn check_dtypes(
    op: &'static str,
    [(one, dtype), (other, found)]: [(&str, DType); 2],
) -> Result<()> {
    if dtype == found {
        return Ok(());
    }
    Err(KernelError::Unsupported {
        op,
        reason: format!("{one} are {dtype} but {other} are {found}; both must have the same dtype"),
    })
}

/// Rows of a GEMM operand, in the dtype of the weights.
pub struct GpuActs<D: Driver> {
    pub(super) buffer: Buffer<D>,
    pub(super) width: usize,
    pub(super) dtype: DType,
    pub(super) len: usize,
    capacity: usize,
}

impl<D: Driver> GpuActs<D> {
    pub(super) fn new(buffer: Buffer<D>, capacity: usize, width: usize, dtype: DType) -> Self {
        Self {
            buffer,
            width,
            dtype,
            len: 0,
            capacity,
        }
    }

    pub(super) fn address(&self) -> u64 {
        self.buffer.address()
    }

    /// Sets the number of rows in use; they must have `width` columns.
    pub(super) fn set_len(&mut self, op: &'static str, len: usize, width: usize) -> Result<()> {
        check_shape(op, "width of the output", width, self.width)?;
        if len > 0 {
            check_index(op, "row", len - 1, self.capacity)?;
        }
        self.len = len;
        Ok(())
    }

    /// An error unless this operand was made for `weights`.
    pub(super) fn check(&self, op: &'static str, weights: &GpuMatrix<D>) -> Result<()> {
        check_shape(op, "width of the operand", weights.columns, self.width)?;
        if self.dtype == weights.dtype {
            return Ok(());
        }
        Err(KernelError::Unsupported {
            op,
            reason: format!(
                "the weights are {} but the operand is {}; make the operand for these weights",
                weights.dtype, self.dtype
            ),
        })
    }
}

/// The rows of a batch: on the host for checks, on the device for kernels.
pub struct GpuBatch<D: Driver> {
    /// u32: tokens, slots and positions, `[n]` each; then, aligned to 16 bytes, the words of `work`.
    pub(super) buffer: Buffer<D>,
    pub(super) rows: Vec<BatchRow>,
    pub(super) work: AttentionWork,
    capacity: usize,
}

impl<D: Driver> GpuBatch<D> {
    pub(super) fn new(driver: &Arc<D>, capacity: usize) -> Result<Self> {
        let words = lists(capacity) + AttentionWork::max_words(capacity);
        Ok(Self {
            buffer: Buffer::new(driver, "a batch", 4 * words as u64)?,
            rows: Vec::with_capacity(capacity),
            work: AttentionWork::default(),
            capacity,
        })
    }

    /// Replaces the rows in one upload.
    pub(super) fn load(&mut self, rows: &[BatchRow]) -> Result<()> {
        if !rows.is_empty() {
            check_index("load_batch", "row", rows.len() - 1, self.capacity)?;
        }
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        self.work = AttentionWork::new(rows);
        let tokens = rows.iter().map(|row| row.token);
        let slots = rows.iter().map(|row| slot_word(row.slot));
        let positions = rows.iter().map(|row| row.position);
        let mut words: Vec<u32> = tokens.chain(slots).chain(positions).collect();
        words.resize(lists(rows.len()), 0);
        words.extend(self.work.words());
        self.buffer.write(0, bytemuck::cast_slice(&words))
    }

    pub(super) fn tokens(&self) -> u64 {
        self.buffer.address()
    }

    pub(super) fn slots(&self) -> u64 {
        self.tokens() + 4 * self.rows.len() as u64
    }

    pub(super) fn positions(&self) -> u64 {
        self.tokens() + 8 * self.rows.len() as u64
    }

    pub(super) fn words(&self) -> u64 {
        self.tokens() + 4 * lists(self.rows.len()) as u64
    }
}

/// Words in the three lists of `n` rows.
fn lists(n: usize) -> usize {
    (3 * n).next_multiple_of(4)
}
