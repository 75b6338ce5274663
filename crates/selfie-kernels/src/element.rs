//! The number types of stored weights.

use half::{bf16, f16};

use crate::{DType, KernelError};

/// A stored number.
pub(crate) trait Element: bytemuck::Pod {
    const DTYPE: DType;
    fn read(bytes: &[u8]) -> Self;
    /// Little-endian.
    fn write(self, bytes: &mut [u8]);
    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
    fn finite(self) -> bool;

    /// Converts `value` to this type; the bits stay the same if the types agree.
    #[inline(always)]
    fn convert<S: Element>(value: S) -> Self {
        if S::DTYPE == Self::DTYPE {
            bytemuck::cast(value)
        } else {
            Self::from_f32(value.to_f32())
        }
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        f32::from_bits(u32::from_le(bytemuck::pod_read_unaligned(bytes)))
    }

    #[inline(always)]
    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_le_bytes());
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        bf16::from_bits(u16::from_le(bytemuck::pod_read_unaligned(bytes)))
    }

    #[inline(always)]
    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_le_bytes());
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.to_bits() & 0x7f80 != 0x7f80
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        f16::from_bits(u16::from_le(bytemuck::pod_read_unaligned(bytes)))
    }

    #[inline(always)]
    fn write(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.to_le_bytes());
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }

    #[inline(always)]
    fn finite(self) -> bool {
        self.to_bits() & 0x7c00 != 0x7c00
    }
}

/// The error that names the first value that is not finite.
#[cold]
pub(crate) fn not_finite<S: Element, D: Element>(
    block: &[u8],
    row: usize,
    k0: usize,
    dtype: DType,
) -> KernelError {
    let bad = block
        .chunks_exact(size_of::<S>())
        .map(S::read)
        .enumerate()
        .find(|&(_, value)| !D::convert(value).finite());
    let (column, value) = bad.map_or((k0, f32::NAN), |(i, v)| (k0 + i, v.to_f32()));
    KernelError::NotFinite {
        row,
        column,
        value,
        dtype,
    }
}
