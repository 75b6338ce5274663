//! Extracts rows of a tensor, as transformers has them, from the bytes of a GGUF file.

use std::ops::Range;

use selfie_kernels::{BlockFormat, DType};

use super::blocks::BlockType;

/// How the values of a tensor are stored, and what llama.cpp changed about them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(super) kind: BlockType,
    pub(super) order: Order,
    /// Whether 1 was added to every value, as in Gemma's norms.
    pub(super) plus_one: bool,
}

/// The order of the stored rows. llama.cpp rotates adjacent pairs, and transformers pairs the two halves of a head. The
/// rows of LLaMA's heads are therefore stored with the two halves interleaved: the first row of one half, the first of
/// the other, then the second of each.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// The order of transformers.
    Same,
    /// The rows of a weight, interleaved; holds the size of a head.
    Rows(usize),
    /// The values of a bias, interleaved; holds the size of a head.
    Values(usize),
}

impl Layout {
    /// The type that rows are read in: f32 if the values have to be computed.
    pub(crate) fn dtype(&self) -> DType {
        match self.kind.plain() {
            Some(dtype) if !self.plus_one => dtype,
            _ => DType::F32,
        }
    }

    pub(crate) fn is_quantized(&self) -> bool {
        self.kind.plain().is_none()
    }

    /// The block format of the rows, if products take it.
    pub(crate) fn blocks(&self) -> Option<BlockFormat> {
        self.kind.blocks().filter(|_| !self.plus_one)
    }

    /// The bytes of a row of `columns` values, which are whole blocks.
    pub(crate) fn row_bytes(&self, columns: usize) -> usize {
        columns / self.kind.values * self.kind.bytes
    }

    /// The stored rows that `rows` come from: whole heads, if the order differs.
    pub(crate) fn stored(&self, rows: &Range<usize>) -> Range<usize> {
        match self.order {
            Order::Rows(head) => rows.start / head * head..rows.end.next_multiple_of(head),
            Order::Same | Order::Values(_) => rows.clone(),
        }
    }

    /// The blocks of `rows`, taken from the stored rows that [`stored`](Self::stored) names.
    pub(crate) fn read_blocks(&self, stored: &[u8], rows: Range<usize>, columns: usize) -> Vec<u8> {
        let row_bytes = self.row_bytes(columns);
        let first = self.stored(&rows).start;
        let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
        for row in rows {
            let at = match self.order {
                Order::Rows(head) => place(row, head),
                Order::Same | Order::Values(_) => row,
            };
            bytes.extend_from_slice(&stored[(at - first) * row_bytes..][..row_bytes]);
        }
        bytes
    }

    /// The little-endian bytes of `rows`, taken from the stored rows that [`stored`](Self::stored) names.
    pub(crate) fn read(&self, stored: &[u8], rows: Range<usize>, columns: usize) -> Vec<u8> {
        let (row_bytes, dtype) = (self.row_bytes(columns), self.dtype());
        let first = self.stored(&rows).start;
        let is_copied = self.kind.plain() == Some(dtype) && !self.plus_one;
        let mut bytes = Vec::with_capacity(rows.len() * columns * dtype.size());
        let mut values = Vec::new();
        for row in rows {
            let at = match self.order {
                Order::Rows(head) => place(row, head),
                Order::Same | Order::Values(_) => row,
            };
            let row = &stored[(at - first) * row_bytes..][..row_bytes];
            match self.order {
                Order::Values(head) => {
                    let size = self.kind.bytes;
                    let value = |column| &row[place(column, head) * size..][..size];
                    bytes.extend((0..columns).flat_map(value));
                }
                _ if is_copied => bytes.extend_from_slice(row),
                _ => {
                    values.clear();
                    self.kind.append(row, &mut values);
                    if self.plus_one {
                        values.iter_mut().for_each(|value| *value -= 1.0);
                    }
                    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
        }
        bytes
    }
}

/// Where a row, or a value of a bias, is stored.
fn place(row: usize, head: usize) -> usize {
    let (start, within) = (row / head * head, row % head);
    let (half, pair) = (within / (head / 2), within % (head / 2));
    start + pair * 2 + half
}
