//! In which formats the matrices of a model are computed.

use std::fmt;

use selfie_kernels::{BlockFormat, DType, Format, MatrixSource};

use crate::Tensor;

/// In which formats the matrices of a model are computed. Norms and biases are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightChoice {
    /// Each as its file has it. Blocks that no product takes (Q2_K, Q3_K, IQ4_NL) become bf16. On a device that does not
    /// keep blocks all matrices have one type: [`stored_dtype`](crate::stored_dtype).
    #[default]
    Stored,
    /// All in one plain type.
    Plain(DType),
    /// In blocks, which are made on loading by the habits of llama.cpp: the head, and the embedding table that is one, are
    /// Q8_0 beside Q8_0 and Q6_K beside all others. Where a row is no whole number of blocks of 256, Q4_K becomes Q5_0,
    /// Q5_K Q5_1, and Q6_K Q8_0. A matrix whose rows are no whole number of blocks of 32 stays as its file has it.
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

/// What a matrix is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A layer's, or an embedding table that is not the head.
    Layer,
    Head,
}

/// The formats of a model's matrices. Its text lists them, that of most bytes first: `q4_1 (211), f16 (2)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightSummary {
    formats: Vec<FormatCount>,
}

/// The matrices of one format.
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

    /// Bytes of all matrices.
    pub fn bytes(&self) -> u64 {
        self.formats.iter().map(|count| count.bytes).sum()
    }

    /// The formats, that of most bytes first.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.formats.iter().map(|count| count.format)
    }

    /// Whether any matrix is in blocks.
    pub fn has_blocks(&self) -> bool {
        self.formats()
            .any(|format| matches!(format, Format::Blocks(_)))
    }

    /// The type of all matrices; f32 where they have several formats, or blocks.
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
