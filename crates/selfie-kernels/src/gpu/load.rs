//! Loads weights from their source to the device. The host checks and converts them.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;

use super::Driver;
use super::buffers::{Buffer, GpuMatrix};
use crate::element::{Element, not_finite};
use crate::error::check_shape;
use crate::{DType, KernelError, MatrixSource, Result};

/// Roughly how many bytes to convert and copy at a time.
const PIECE: usize = 8 << 20;

/// Reads the sources, stacked along `out`, into one matrix.
pub(super) fn matrix<D: Driver>(
    driver: &Arc<D>,
    sources: &[&dyn MatrixSource],
    dtype: DType,
) -> Result<GpuMatrix<D>> {
    let columns = sources.first().map_or(0, |s| s.shape().1);
    for source in sources {
        check_shape("matrix", "columns of a source", columns, source.shape().1)?;
    }
    let rows = sources.iter().map(|s| s.shape().0).sum::<usize>();
    let row_bytes = columns * dtype.size();
    let bytes = rows as u64 * row_bytes as u64;
    let buffer = Buffer::new(driver, "a weight matrix", bytes)?;
    let mut first = 0;
    // Rayon's threads fill it, so it is not the driver's memory: that would stay locked meanwhile.
    let mut piece = Vec::new();
    for source in sources {
        let (n, _) = source.shape();
        let widest = dtype.size().max(source.dtype().size());
        let step = (PIECE / (columns * widest).max(1)).max(1);
        for start in (0..n).step_by(step) {
            let part = start..n.min(start + step);
            let at = first + part.start..first + part.end;
            let offset = at.start as u64 * row_bytes as u64;
            piece.resize(part.len() * row_bytes, 0);
            let mut read = Ok(());
            source.with_rows(part, &mut |bytes| {
                read = convert(
                    bytes,
                    source.dtype(),
                    columns,
                    at.clone(),
                    dtype,
                    &mut piece,
                );
            })?;
            read?;
            buffer.write(offset, &piece)?;
        }
        first += n;
    }
    Ok(GpuMatrix {
        buffer,
        rows,
        columns,
        dtype,
    })
}

/// Converts rows `at` of a matrix from the bytes of their source to those of `dtype`.
fn convert(
    bytes: &[u8],
    stored: DType,
    columns: usize,
    at: Range<usize>,
    dtype: DType,
    out: &mut [u8],
) -> Result<()> {
    let convert = match (stored, dtype) {
        (DType::F32, DType::F32) => rows::<f32, f32>,
        (DType::F32, DType::Bf16) => rows::<f32, bf16>,
        (DType::F32, DType::F16) => rows::<f32, f16>,
        (DType::Bf16, DType::F32) => rows::<bf16, f32>,
        (DType::Bf16, DType::Bf16) => rows::<bf16, bf16>,
        (DType::Bf16, DType::F16) => rows::<bf16, f16>,
        (DType::F16, DType::F32) => rows::<f16, f32>,
        (DType::F16, DType::Bf16) => rows::<f16, bf16>,
        (DType::F16, DType::F16) => rows::<f16, f16>,
    };
    convert(bytes, columns, at, dtype, out)
}

fn rows<S: Element, D: Element>(
    bytes: &[u8],
    columns: usize,
    at: Range<usize>,
    dtype: DType,
    out: &mut [u8],
) -> Result<()> {
    if bytes.len() != at.len() * columns * size_of::<S>() {
        let reason = format!(
            "{} rows of a weight came as {} bytes",
            at.len(),
            bytes.len()
        );
        return Err(KernelError::Read(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            reason,
        )));
    }
    out.par_chunks_mut((columns * size_of::<D>()).max(1))
        .zip(bytes.par_chunks((columns * size_of::<S>()).max(1)))
        .zip(at)
        .try_for_each(|((out, source), row)| {
            let values = source.chunks_exact(size_of::<S>()).map(S::read);
            let mut finite = true;
            for (out, value) in out.chunks_exact_mut(size_of::<D>()).zip(values) {
                let value = D::convert(value);
                finite &= value.finite();
                value.write(out);
            }
            if finite {
                Ok(())
            } else {
                Err(not_finite::<S, D>(source, row, 0, dtype))
            }
        })
}
