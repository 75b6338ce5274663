//! A weight matrix on the CPU.

use super::blocks::BlockPanels;
use super::pack::PlainPanels;
use super::pages::Pages;
use crate::error::check_shape;
use crate::{DType, Format, KernelError, MatrixSource, Result};

/// A weight matrix `[out, in]`, packed for the kernels. This is its only copy in memory.
///
/// Matrices stacked along `out` may have different formats. Each run of one format is a part.
pub struct CpuMatrix {
    parts: Vec<Part>,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The rows of a matrix that share a format.
pub(super) struct Part {
    /// The first row of the matrix.
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) weights: Weights,
}

pub(super) enum Weights {
    Plain(PlainPanels),
    Blocks(BlockPanels),
}

impl CpuMatrix {
    /// Reads and packs the sources, stacked along `out`.
    pub(super) fn pack(pages: &Pages, sources: &[(&dyn MatrixSource, Format)]) -> Result<Self> {
        let columns = sources.first().map_or(0, |(s, _)| s.shape().1);
        for (source, _) in sources {
            check_shape("matrix", "columns of a source", columns, source.shape().1)?;
        }
        let mut parts = Vec::new();
        let mut rows = 0;
        for run in sources.chunk_by(|a, b| a.1 == b.1) {
            let format = run.first().map_or(Format::Plain(DType::F32), |&(_, f)| f);
            let run: Vec<&dyn MatrixSource> = run.iter().map(|&(source, _)| source).collect();
            let n = run.iter().map(|s| s.shape().0).sum();
            let weights = match format {
                Format::Plain(dtype) => PlainPanels::pack(pages, &run, dtype).map(Weights::Plain),
                Format::Blocks(format) => {
                    BlockPanels::pack(pages, &run, format).map(Weights::Blocks)
                }
            };
            let weights = weights.map_err(|error| below(rows, error))?;
            parts.push(Part {
                first: rows,
                rows: n,
                weights,
            });
            rows += n;
        }
        Ok(Self {
            parts,
            rows,
            columns,
        })
    }

    /// Output columns, `out`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input columns, `in`.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The format of each part and its number of rows.
    pub fn formats(&self) -> impl Iterator<Item = (Format, usize)> {
        self.parts.iter().map(|part| (part.format(), part.rows))
    }

    /// Resident bytes, padding included.
    pub fn bytes(&self) -> usize {
        let bytes = |part: &Part| match &part.weights {
            Weights::Plain(panels) => panels.bytes(),
            Weights::Blocks(panels) => panels.bytes(),
        };
        self.parts.iter().map(bytes).sum()
    }

    /// Unpacks row `row` to f32, exactly.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let of_part = |part: &&Part| row < part.first + part.rows;
        if let Some(part) = self.parts.iter().find(of_part) {
            match &part.weights {
                Weights::Plain(panels) => panels.read_row(row - part.first, out),
                Weights::Blocks(panels) => panels.read_row(row - part.first, out),
            }
        }
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Part {
    pub(super) fn format(&self) -> Format {
        match &self.weights {
            Weights::Plain(panels) => Format::Plain(panels.dtype),
            Weights::Blocks(panels) => Format::Blocks(panels.format()),
        }
    }

    /// Pairs of panels: 32 output columns each.
    pub(super) fn pairs(&self) -> usize {
        self.rows.div_ceil(super::gemm::TILE)
    }
}

/// Shifts the row of an error to count from the first part, when `rows` rows precede this part.
fn below(rows: usize, error: KernelError) -> KernelError {
    match error {
        KernelError::NotFinite {
            row,
            column,
            value,
            dtype,
        } => KernelError::NotFinite {
            row: rows + row,
            column,
            value,
            dtype,
        },
        other => other,
    }
}
