//! Buffers: f32 rows, GEMM operands, vectors and batches.

use half::bf16;

use super::math::RoundedF32;
use super::simd::Isa;
use crate::error::{check_index, check_shape};
use crate::{BatchRow, DType, KernelError, Result};

/// The columns of a GEMM operand are padded with zeros to a multiple of this.
pub(super) const K_PAD: usize = 32;

/// Bytes of a cache line.
const LINE: usize = 64;

/// f32 rows on the CPU.
#[derive(Clone, Debug)]
pub struct CpuRows {
    data: Vec<f32>,
    width: usize,
    len: usize,
}

impl CpuRows {
    pub(super) fn new(capacity: usize, width: usize) -> Self {
        Self {
            data: vec![0.0; capacity * width],
            width,
            len: 0,
        }
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no row is in use.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Row `i`, `[width]`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..][..self.width]
    }

    /// All rows in use, `[len, width]`.
    pub fn values(&self) -> &[f32] {
        &self.data[..self.len * self.width]
    }

    /// The rows in use, one after the other.
    pub(super) fn rows(&self) -> std::slice::Chunks<'_, f32> {
        self.values().chunks(self.width.max(1))
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len * self.width]
    }

    pub(super) fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.width..][..self.width]
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Sets the number of rows in use.
    pub(super) fn set_len(&mut self, op: &'static str, len: usize) -> Result<()> {
        let capacity = self.data.len().checked_div(self.width).unwrap_or(len);
        if len > capacity {
            return Err(KernelError::OutOfRange {
                op,
                what: "row",
                index: len - 1,
                len: capacity,
            });
        }
        self.len = len;
        Ok(())
    }
}

/// The values of a GEMM operand, in the form that the weights and the path require.
#[derive(Clone, Debug)]
pub(super) enum ActValues {
    /// For bf16 weights if the hardware multiplies bf16: pairs of adjacent values, the first one in the low half.
    Bf16(Vec<u32>),
    /// For bf16 weights otherwise.
    Rounded(Vec<RoundedF32>),
    /// For f32 and f16 weights.
    F32(Vec<f32>),
}

impl ActValues {
    fn new(isa: Isa, weights: DType, len: usize) -> Self {
        match (weights, isa) {
            (DType::F32 | DType::F16, _) => ActValues::F32(vec![0.0; len]),
            (DType::Bf16, Isa::Avx512(_) | Isa::Amx(_)) => ActValues::Bf16(vec![0; len / 2]),
            (DType::Bf16, Isa::Portable(_) | Isa::Avx2(_)) => {
                ActValues::Rounded(vec![RoundedF32::default(); len])
            }
        }
    }

    /// Whether products with weights of this dtype take these values on this path.
    pub(super) fn fit(&self, isa: Isa, weights: DType) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(&Self::new(isa, weights, 0))
    }

    /// Bytes of one value.
    fn size(&self) -> usize {
        match self {
            ActValues::Bf16(_) => 2,
            ActValues::Rounded(_) | ActValues::F32(_) => 4,
        }
    }

    /// The bf16 pairs; empty for the other forms.
    pub(super) fn pairs(&self) -> &[u32] {
        match self {
            ActValues::Bf16(v) => v,
            ActValues::Rounded(_) | ActValues::F32(_) => &[],
        }
    }

    /// The f32 values; empty for the other forms.
    pub(super) fn f32(&self) -> &[f32] {
        match self {
            ActValues::Bf16(_) => &[],
            ActValues::Rounded(v) => bytemuck::cast_slice(v),
            ActValues::F32(v) => v,
        }
    }
}

/// Rows of a GEMM operand on the CPU: rounded to bf16 for bf16 weights, f32 for others.
#[derive(Clone, Debug)]
pub struct CpuActs {
    pub(super) values: ActValues,
    pub(super) width: usize,
    /// Distance between two rows: the padded width.
    pub(super) stride: usize,
    pub(super) len: usize,
    capacity: usize,
}

impl CpuActs {
    pub(super) fn new(isa: Isa, capacity: usize, width: usize, weights: DType) -> Self {
        let element = ActValues::new(isa, weights, 0).size();
        let mut stride = width.next_multiple_of(K_PAD);
        // An odd number of lines, so that the rows of a tile do not compete for a few cache sets.
        if (stride * element / LINE).is_multiple_of(2) {
            stride += LINE / element;
        }
        Self {
            values: ActValues::new(isa, weights, capacity * stride),
            width,
            stride,
            len: 0,
            capacity,
        }
    }

    /// Row `i` as f32, `[width]`.
    pub fn row(&self, i: usize) -> Vec<f32> {
        let at = i * self.stride..i * self.stride + self.width;
        match &self.values {
            ActValues::Bf16(v) => {
                let v: &[bf16] = bytemuck::cast_slice(v);
                v[at].iter().map(|x| x.to_f32()).collect()
            }
            values => values.f32()[at].to_vec(),
        }
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
}

/// An f32 vector on the CPU.
#[derive(Clone, Debug)]
pub struct CpuVector(pub(super) Vec<f32>);

/// The rows of a batch on the CPU.
#[derive(Clone, Debug)]
pub struct CpuBatch {
    pub(super) rows: Vec<BatchRow>,
    capacity: usize,
}

impl CpuBatch {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            rows: Vec::with_capacity(capacity),
            capacity,
        }
    }

    pub(super) fn load(&mut self, rows: &[BatchRow]) -> Result<()> {
        if !rows.is_empty() {
            check_index("load_batch", "row", rows.len() - 1, self.capacity)?;
        }
        self.rows.clear();
        self.rows.extend_from_slice(rows);
        Ok(())
    }
}
