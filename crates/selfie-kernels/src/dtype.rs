//! Element types of weights.

use std::fmt;

use half::{bf16, f16};

/// The element type of a weight matrix, as stored in a checkpoint or after conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// IEEE 754 binary16.
    F16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 | DType::F16 => 2,
        }
    }

    /// Reads little-endian values of this type as f32, exactly. Bytes past the last whole value are ignored.
    pub fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = || bytes.as_chunks::<2>().0.iter();
        match self {
            DType::F32 => {
                let words = bytes.as_chunks::<4>().0.iter();
                words.map(|&word| f32::from_le_bytes(word)).collect()
            }
            DType::Bf16 => pairs().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
            DType::F16 => pairs().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        }
    }

    /// Writes f32 values in this type, little-endian, rounded to nearest, ties to even.
    pub fn to_bytes(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values.len() * self.size());
        for &x in values {
            match self {
                DType::F32 => bytes.extend(x.to_le_bytes()),
                DType::Bf16 => bytes.extend(bf16::from_f32(x).to_le_bytes()),
                DType::F16 => bytes.extend(f16::from_f32(x).to_le_bytes()),
            }
        }
        bytes
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
            DType::F16 => "f16",
        })
    }
}
