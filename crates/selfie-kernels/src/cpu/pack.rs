//! The packed form of a matrix of plain (not quantized) values.

use std::io;
use std::ops::Range;

use bytemuck::Pod;
use half::{bf16, f16};
use rayon::prelude::*;

use super::pages::{Pages, Piece};
use super::rows::K_PAD;
use crate::element::{Element, not_finite};
use crate::{DType, KernelError, MatrixSource, Result};

/// Output columns of a panel.
pub(super) const PANEL: usize = 16;

/// Bytes of a line: the 16 columns of a panel at one step of k.
pub(super) const LINE: usize = 64;

/// A weight matrix `[out, in]`, packed for the GEMM kernels.
///
/// Sixteen output columns form a panel, and a panel is a run of 64-byte lines along `in`. For each of its 16 columns a
/// line holds one of these: one f32; a bf16 pair of two adjacent steps of k, as the dot-product and tile instructions
/// take it; or, for f16, steps k and k + 1 in two half lines. `out` is padded with zeros to two panels, and `in` of
/// bf16 to 32.
pub(super) struct PlainPanels {
    map: Piece,
    pub(super) dtype: DType,
    /// 64-byte lines of one panel.
    pub(super) lines: usize,
}

impl PlainPanels {
    /// Reads and packs the sources, stacked along `out`.
    pub(super) fn pack(pages: &Pages, sources: &[&dyn MatrixSource], dtype: DType) -> Result<Self> {
        let columns = sources.first().map_or(0, |s| s.shape().1);
        let rows = sources.iter().map(|s| s.shape().0).sum::<usize>();
        let lines = match dtype {
            DType::F32 => columns,
            DType::F16 => columns.div_ceil(2),
            DType::Bf16 => columns.next_multiple_of(K_PAD) / 2,
        };
        let panels = rows.next_multiple_of(2 * PANEL) / PANEL;
        let mut map = pages.piece((panels * lines * LINE).max(LINE))?;
        let panel_bytes = (lines * LINE).max(1);
        let panels_a_task = ((1 << 20) / panel_bytes).max(1);
        map.par_chunks_mut(panels_a_task * panel_bytes)
            .enumerate()
            .try_for_each(|(task, out)| {
                let first = task * panels_a_task * PANEL;
                let target = Panels {
                    out,
                    first,
                    panel_bytes,
                    dtype,
                };
                pack_rows(sources, target, rows)
            })?;
        Ok(Self { map, dtype, lines })
    }

    /// Resident bytes, padding included.
    pub(super) fn bytes(&self) -> usize {
        self.map.len()
    }

    /// Steps of k in a line.
    pub(super) fn line_k(&self) -> usize {
        LINE / PANEL / self.dtype.size()
    }

    /// The lines of a pair of panels, first panel first.
    pub(super) fn pair(&self, pair: usize) -> &[u8] {
        let bytes = 2 * self.lines * LINE;
        &self.map[pair * bytes..][..bytes]
    }

    /// The lines of the pair after this one; empty after the last.
    pub(super) fn next_pair(&self, pair: usize) -> &[u8] {
        let bytes = 2 * self.lines * LINE;
        self.map
            .get((pair + 1) * bytes..(pair + 2) * bytes)
            .unwrap_or_default()
    }

    /// Up to `n` lines of each panel of a pair, from line `first` on.
    pub(super) fn panels(&self, pair: usize, first: usize, n: usize) -> [&[u8]; 2] {
        let (start, end) = (first.min(self.lines), self.lines.min(first + n));
        let (first, second) = self.pair(pair).split_at(self.lines * LINE);
        [first, second].map(|panel| &panel[start * LINE..end * LINE])
    }

    /// Unpacks row `row` to f32, exactly.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) {
        let panel = &self.map[row / PANEL * self.lines * LINE..][..self.lines * LINE];
        let lane = row % PANEL;
        match self.dtype {
            DType::F32 => {
                let v: &[f32] = bytemuck::cast_slice(panel);
                for (k, x) in out.iter_mut().enumerate() {
                    *x = v[k * PANEL + lane];
                }
            }
            DType::F16 => {
                let v: &[f16] = bytemuck::cast_slice(panel);
                for (k, x) in out.iter_mut().enumerate() {
                    *x = v[k * PANEL + lane].to_f32();
                }
            }
            DType::Bf16 => {
                let v: &[bf16] = bytemuck::cast_slice(panel);
                for (k, x) in out.iter_mut().enumerate() {
                    *x = v[bf16_at(k, lane)].to_f32();
                }
            }
        }
    }
}

/// Index of `(k, lane)` within a panel of bf16 pairs.
fn bf16_at(k: usize, lane: usize) -> usize {
    k / 2 * 2 * PANEL + lane * 2 + k % 2
}

/// A run of panels for one task to fill; `first` is its first row in the matrix.
struct Panels<'a> {
    out: &'a mut [u8],
    first: usize,
    panel_bytes: usize,
    dtype: DType,
}

fn pack_rows(sources: &[&dyn MatrixSource], mut target: Panels<'_>, rows: usize) -> Result<()> {
    let end = rows.min(target.first + target.out.len() / target.panel_bytes * PANEL);
    let mut start = 0;
    for source in sources {
        let (n, columns) = source.shape();
        let from = target.first.max(start);
        let to = end.min(start + n);
        if from < to {
            let mut packed = Ok(());
            source.with_rows(from - start..to - start, &mut |bytes| {
                packed = match source.dtype() {
                    DType::F32 => pack_from::<f32>(bytes, columns, from..to, &mut target),
                    DType::Bf16 => pack_from::<bf16>(bytes, columns, from..to, &mut target),
                    DType::F16 => pack_from::<f16>(bytes, columns, from..to, &mut target),
                };
            })?;
            packed?;
        }
        start += n;
    }
    Ok(())
}

fn pack_from<S: Element>(
    bytes: &[u8],
    columns: usize,
    rows: Range<usize>,
    target: &mut Panels<'_>,
) -> Result<()> {
    if bytes.len() != rows.len() * columns * size_of::<S>() {
        return Err(wrong_length(rows.len(), bytes.len()));
    }
    match target.dtype {
        DType::F32 => pack_as::<S, f32, f32>(bytes, columns, rows, target),
        DType::F16 => pack_as::<S, f16, f16>(bytes, columns, rows, target),
        DType::Bf16 => pack_as::<S, bf16, u32>(bytes, columns, rows, target),
    }
}

/// The error for a source that gives a wrong number of bytes for its shape.
#[cold]
pub(super) fn wrong_length(rows: usize, bytes: usize) -> KernelError {
    KernelError::Read(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("{rows} rows of a weight came as {bytes} bytes"),
    ))
}

/// Columns to pack at a time.
const BLOCK: usize = 128;

/// Writes rows of `S` into panels of `D`. A line holds one `W` per column, which is one or two steps of k.
fn pack_as<S: Element, D: Element, W: Pod>(
    bytes: &[u8],
    columns: usize,
    rows: Range<usize>,
    target: &mut Panels<'_>,
) -> Result<()> {
    let row_bytes = columns * size_of::<S>();
    let line_k = size_of::<W>() / size_of::<D>();
    let mut block = [[D::zeroed(); BLOCK]; PANEL];
    let mut row = rows.start;
    while row < rows.end {
        let panel = (row - target.first) / PANEL;
        let panel_end = rows.end.min(target.first + (panel + 1) * PANEL);
        let lanes = (row - target.first) % PANEL..(panel_end - 1 - target.first) % PANEL + 1;
        let out = &mut target.out[panel * target.panel_bytes..][..target.panel_bytes];
        let (out, _) = bytemuck::cast_slice_mut::<_, W>(out).as_chunks_mut::<PANEL>();
        for k0 in (0..columns).step_by(BLOCK) {
            let k1 = columns.min(k0 + BLOCK);
            for (r, block) in (row..panel_end).zip(&mut block[lanes.clone()]) {
                let source = &bytes[(r - rows.start) * row_bytes..][..row_bytes];
                let source = &source[k0 * size_of::<S>()..k1 * size_of::<S>()];
                if !convert::<S, D>(source, block) {
                    return Err(not_finite::<S, D>(source, r, k0, target.dtype));
                }
            }
            let out = &mut out[k0 / line_k..k1.div_ceil(line_k)];
            transpose(
                bytemuck::cast_slice::<_, W>(block.as_flattened()),
                lanes.clone(),
                out,
            );
        }
        row = panel_end;
    }
    Ok(())
}

/// Converts a part of a row and returns whether all of it is finite. The rest of `out` becomes 0.
fn convert<S: Element, D: Element>(source: &[u8], out: &mut [D; BLOCK]) -> bool {
    let mut finite = true;
    let n = source.len() / size_of::<S>();
    for (out, value) in out.iter_mut().zip(source.chunks_exact(size_of::<S>())) {
        *out = D::convert(S::read(value));
        finite &= out.finite();
    }
    out[n..].fill(D::zeroed());
    finite
}

/// Transposes a block: its rows, the lanes of a panel, become columns.
fn transpose<W: Pod>(block: &[W], lanes: Range<usize>, out: &mut [[W; PANEL]]) {
    let width = block.len() / PANEL;
    if lanes.len() == PANEL {
        for (k, out) in out.iter_mut().enumerate() {
            *out = std::array::from_fn(|lane| block[lane * width + k]);
        }
    } else {
        for (k, out) in out.iter_mut().enumerate() {
            for lane in lanes.clone() {
                out[lane] = block[lane * width + k];
            }
        }
    }
}
