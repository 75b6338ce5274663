//! The formats in which a model's matrices are computed.

use std::fmt;

use selfie_kernels::{BlockFormat, DType, Format, MatrixSource};

use crate::Tensor;

/// The formats in which to compute a model's matrices. Norms and biases are always f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightChoice {
    /// Each matrix in the format of its file. Blocks that no product takes (Q2_K, Q3_K, IQ4_NL) become bf16. On a
    /// device that does not keep blocks, all matrices have one type: [`stored_dtype`](crate::stored_dtype).
    #[default]
    Stored,
    /// All matrices in one plain type.
    Plain(DType),
    /// All matrices in blocks, quantized on loading with llama.cpp's conventions. The head, or an embedding table that
    /// serves as the head, is Q8_0 if the choice is Q8_0, and Q6_K otherwise. If a row is not a whole number of blocks
    /// of 256, Q4_K becomes Q5_0, Q5_K becomes Q5_1, and Q6_K becomes Q8_0. A matrix whose rows are not whole blocks of
    /// 32 stays as in its file.
    Blocks(BlockFormat),
}

impl WeightChoice {
    pub(crate) fn format(self, tensor: &Tensor, place: Place) -> Format {
        let stored = match tensor.blocks() {
            Some(format) => Format::Blocks(format),
            None if tensor.is_quantized() => Format::Plain(DType::Bf16),
            None => Format::Plain(tensor.dtype()),
        };
        let columns = tensor.shape().1;
        match self {
            WeightChoice::Stored => stored,
            WeightChoice::Plain(dtype) => Format::Plain(dtype),
            WeightChoice::Blocks(_) if !columns.is_multiple_of(32) => stored,
            WeightChoice::Blocks(format) => {
                let format = match (place, format) {
                    (Place::Layer, format) => format,
                    (Place::Head, BlockFormat::Q8_0) => BlockFormat::Q8_0,
                    (Place::Head, _) => BlockFormat::Q6K,
                };
                let is_whole = columns.is_multiple_of(format.values());
                Format::Blocks(match format {
                    BlockFormat::Q4K if !is_whole => BlockFormat::Q5_0,
                    BlockFormat::Q5K if !is_whole => BlockFormat::Q5_1,
                    BlockFormat::Q6K if !is_whole => BlockFormat::Q8_0,
                    format => format,
                })
            }
        }
    }
}

/// The purpose of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A layer's matrix, or an embedding table that is not the head.
    Layer,
    Head,
}

/// The formats of a model's matrices. Its text lists them, the one with the most bytes first: `q4_1 (211), f16 (2)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightSummary {
    formats: Vec<FormatCount>,
}

/// The matrices with one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FormatCount {
    format: Format,
    matrices: usize,
    bytes: u64,
}

impl WeightSummary {
    pub(crate) fn add(&mut self, format: Format, (rows, columns): (usize, usize)) {
        let bytes = (rows * format.row_bytes(columns)) as u64;
        match self.formats.iter_mut().find(|count| count.format == format) {
            Some(count) => {
                count.matrices += 1;
                count.bytes += bytes;
            }
            None => self.formats.push(FormatCount {
                format,
                matrices: 1,
                bytes,
            }),
        }
        self.formats
            .sort_by_key(|count| std::cmp::Reverse(count.bytes));
    }

    /// The bytes of all matrices.
    pub fn bytes(&self) -> u64 {
        self.formats.iter().map(|count| count.bytes).sum()
    }

    /// The formats, the one with the most bytes first.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.formats.iter().map(|count| count.format)
    }

    /// Whether any matrix is in blocks.
    pub fn has_blocks(&self) -> bool {
        self.formats()
            .any(|format| matches!(format, Format::Blocks(_)))
    }

    /// The dtype of all matrices; f32 if formats differ or if there are blocks.
    pub fn operand_dtype(&self) -> DType {
        match &self.formats[..] {
            [
                FormatCount {
                    format: Format::Plain(dtype),
                    ..
                },
            ] => *dtype,
            _ => DType::F32,
        }
    }
}

impl fmt::Display for WeightSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.formats[..] {
            return only.format.fmt(f);
        }
        for (i, count) in self.formats.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{} ({})", count.format, count.matrices)?;
        }
        Ok(())
    }
}
