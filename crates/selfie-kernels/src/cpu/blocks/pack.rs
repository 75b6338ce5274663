//! The packed form of a matrix in blocks.

use std::ops::Range;

use rayon::prelude::*;

use super::decode::STEPS;
use super::operand::VALUES;
use crate::cpu::pack::{PANEL, wrong_length};
use crate::cpu::pages::{Pages, Piece};
use crate::format::{Block, Layout, Scales};
use crate::{BlockFormat, DType, KernelError, MatrixSource, Result, quantize};

/// Bytes of a line: four adjacent steps of k for sixteen columns, the operand of an integer dot product.
pub(super) const LINE: usize = 4 * PANEL;

/// Groups of 32 values in a block of a K format.
pub(super) const PARTS: usize = 8;

/// A weight matrix `[out, in]` in blocks. It takes as many bytes as the blocks do, apart from padding and from 6-bit
/// scales, which are stored in 8 bits.
///
/// Sixteen output columns form a panel, as in a plain matrix. A panel begins with the scales of all its blocks: for
/// each block of the format, the f16 of sixteen columns, then the 8-bit scales of each 32 values. The codes follow. For
/// each 32 values come the low four bits of eight lines, two lines in one (8-bit codes: all bits of each line). Then
/// come the fifth bits of all lines in one line, or the fifth and sixth in two. `out` is padded with zeros to two
/// panels.
pub(in crate::cpu) struct BlockPanels {
    map: Piece,
    format: BlockFormat,
    layout: Layout,
    rows: usize,
    columns: usize,
    /// Blocks of 32 values in a row.
    blocks: usize,
    /// A block of the format has `1 << shift` blocks of 32.
    shift: u32,
    /// Bytes of a panel's scales, padded to lines.
    scale_bytes: usize,
}

impl BlockPanels {
    /// Reads the sources, stacked along `out`, quantizes them if necessary, and packs them.
    pub(in crate::cpu) fn pack(
        pages: &Pages,
        sources: &[&dyn MatrixSource],
        format: BlockFormat,
    ) -> Result<Self> {
        let columns = sources.first().map_or(0, |s| s.shape().1);
        let rows = sources.iter().map(|s| s.shape().0).sum::<usize>();
        let units = columns.div_ceil(format.values());
        let layout = format.layout();
        let unit_scales = unit_scales(unit_parts(format), layout.has_min());
        let mut panels = Self {
            map: pages.piece(0)?,
            format,
            layout,
            rows,
            columns,
            blocks: units * unit_parts(format),
            shift: unit_parts(format).ilog2(),
            scale_bytes: (units * unit_scales).next_multiple_of(LINE),
        };
        let count = rows.next_multiple_of(2 * PANEL) / PANEL;
        let panel_bytes = panels.panel_bytes();
        let mut map = pages.piece((count * panel_bytes).max(LINE))?;
        map.par_chunks_mut(panel_bytes.max(LINE))
            .enumerate()
            .try_for_each(|(panel, out)| panels.pack_panel(sources, panel, out))?;
        panels.map = map;
        Ok(panels)
    }

    pub(in crate::cpu) fn format(&self) -> BlockFormat {
        self.format
    }

    pub(in crate::cpu) fn layout(&self) -> Layout {
        self.layout
    }

    /// Blocks of 32 values in a row.
    pub(in crate::cpu) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Resident bytes, padding included.
    pub(in crate::cpu) fn bytes(&self) -> usize {
        self.map.len()
    }

    /// The scales of a panel ([`unit_scales`] for each block of the format, then padding), and its codes.
    #[inline]
    pub(super) fn panel(&self, panel: usize) -> (&[u8], &[u8]) {
        let bytes = self.panel_bytes();
        self.map[panel * bytes..][..bytes].split_at(self.scale_bytes)
    }

    /// The lines of codes for one block of a panel.
    #[inline]
    pub(super) fn codes(&self, panel: usize, block: usize) -> &[u8] {
        let bytes = self.layout.bits * STEPS / 8 * LINE;
        let (_, codes) = self.panel(panel);
        &codes[block * bytes..][..bytes]
    }

    /// The f16 of one of a panel's blocks of the format, and the scales of the 32 values from `32 * block` on.
    #[inline]
    pub(super) fn scales(&self, panel: usize, block: usize) -> (&[u8], &[u8]) {
        let has_min = self.layout.has_min();
        let bytes = unit_scales(1 << self.shift, has_min);
        let (scales, _) = self.panel(panel);
        let unit = &scales[(block >> self.shift) * bytes..][..bytes];
        let (halves, parts) = unit.split_at(unit_scales(1, has_min));
        let part = parts.len() >> self.shift;
        let at = block & ((1 << self.shift) - 1);
        (halves, &parts[at * part..][..part])
    }

    /// Unpacks row `row` to f32, exactly: the bits of [`BlockFormat::dequantize`].
    pub(in crate::cpu) fn read_row(&self, row: usize, out: &mut [f32]) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        for (block, out) in out.chunks_mut(VALUES).enumerate() {
            let lines = super::decode::lines(self.layout.bits, self.codes(panel, block));
            let scaling = super::decode::scaling(self, panel, block);
            for (k, out) in out.iter_mut().enumerate() {
                let code = i16::from(lines[k / 4][lane * 4 + k % 4]) - self.layout.offset;
                let value = f32::from(code) * scaling.halves[2 * k / VALUES][lane];
                *out = if self.layout.has_min() {
                    value + scaling.min[lane]
                } else {
                    value
                };
            }
        }
    }

    fn panel_bytes(&self) -> usize {
        self.scale_bytes + self.blocks * self.layout.bits * STEPS / 8 * LINE
    }

    fn pack_panel(
        &self,
        sources: &[&dyn MatrixSource],
        panel: usize,
        out: &mut [u8],
    ) -> Result<()> {
        let (from, to) = (panel * PANEL, self.rows.min((panel + 1) * PANEL));
        let mut start = 0;
        for source in sources {
            let end = start + source.shape().0;
            let rows = from.max(start)..to.min(end);
            if rows.start < rows.end {
                let own = rows.start - start..rows.end - start;
                let blocks = self.blocks_of(*source, own, rows.start)?;
                let row_bytes = blocks.len() / rows.len();
                for (row, blocks) in rows.zip(blocks.chunks_exact(row_bytes.max(1))) {
                    self.pack_row(row, blocks, out)?;
                }
            }
            start = end;
        }
        Ok(())
    }

    /// The blocks of some rows; `first` is the number of the first one in this matrix.
    fn blocks_of(
        &self,
        source: &dyn MatrixSource,
        rows: Range<usize>,
        first: usize,
    ) -> Result<Vec<u8>> {
        let format = crate::Format::Blocks(self.format);
        let expected = rows.len() * format.row_bytes(self.columns);
        let mut blocks = Vec::with_capacity(expected);
        if source.blocks() == Some(self.format) {
            source.with_blocks(rows.clone(), &mut |bytes| blocks.extend_from_slice(bytes))?;
        } else {
            let mut values = Vec::new();
            source.with_rows(rows.clone(), &mut |bytes| {
                values = source.dtype().to_f32(bytes);
            })?;
            if values.len() != rows.len() * self.columns {
                return Err(wrong_length(
                    rows.len(),
                    values.len() * source.dtype().size(),
                ));
            }
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                return Err(KernelError::NotFinite {
                    row: first + at / self.columns,
                    column: at % self.columns,
                    value: values[at],
                    dtype: source.dtype(),
                });
            }
            for row in values.chunks_exact(self.columns.max(1)) {
                quantize(self.format, row, &mut blocks);
            }
        }
        if blocks.len() != expected {
            return Err(wrong_length(rows.len(), blocks.len()));
        }
        Ok(blocks)
    }

    fn pack_row(&self, row: usize, blocks: &[u8], out: &mut [u8]) -> Result<()> {
        let lane = row % PANEL;
        let (scales, codes) = out.split_at_mut(self.scale_bytes);
        let parts = unit_parts(self.format);
        let has_min = self.layout.has_min();
        let halves_bytes = unit_scales(1, has_min);
        let line_bytes = self.layout.bits * STEPS / 8 * LINE;
        let unit_scales = scales.chunks_exact_mut(unit_scales(parts, has_min));
        let unit_codes = codes.chunks_exact_mut(parts * line_bytes);
        let units = blocks.chunks_exact(self.format.bytes());
        for (at, ((bytes, scales), codes)) in units.zip(unit_scales).zip(unit_codes).enumerate() {
            let block = Block::read(self.format, bytes);
            for half in [block.scale, block.min] {
                if !half.is_finite() {
                    return Err(KernelError::NotFinite {
                        row,
                        column: at * self.format.values(),
                        value: half.to_f32(),
                        dtype: DType::F16,
                    });
                }
            }
            let halves = [block.scale, block.min].map(half::f16::to_le_bytes);
            let (unit, subs) = scales.split_at_mut(halves_bytes);
            for (out, half) in unit.chunks_exact_mut(2 * PANEL).zip(halves) {
                out[2 * lane..][..2].copy_from_slice(&half);
            }
            for part in 0..parts {
                let part_bytes = subs.len() / parts;
                let scales = &mut subs[part * part_bytes..][..part_bytes];
                match self.layout.scales {
                    Scales::Scale | Scales::ScaleMin => {}
                    Scales::SubScaleMin => {
                        scales[lane] = block.sub_scales[part];
                        scales[PANEL + lane] = block.sub_mins[part];
                    }
                    Scales::SubScale => {
                        scales[lane] = block.sub_scales[2 * part];
                        scales[PANEL + lane] = block.sub_scales[2 * part + 1];
                    }
                }
                let lines = codes[part * line_bytes..][..line_bytes]
                    .as_chunks_mut::<LINE>()
                    .0;
                let codes = &block.codes[part * VALUES..][..VALUES];
                pack_codes(self.layout.bits, codes, lane, lines);
            }
        }
        Ok(())
    }
}

/// Writes 32 codes of one column.
fn pack_codes(bits: usize, codes: &[u8], lane: usize, lines: &mut [[u8; LINE]]) {
    for (k, &code) in codes.iter().enumerate() {
        let (step, at) = (k / 4, lane * 4 + k % 4);
        if bits == 8 {
            lines[step][at] = code;
            continue;
        }
        lines[step % 4][at] |= (code & 0xf) << (step / 4 * 4);
        match bits {
            5 => lines[4][at] |= (code >> 4) << step,
            6 => lines[4 + step / 4][at] |= (code >> 4) << (step % 4 * 2),
            _ => {}
        }
    }
}

/// Bytes of the scales of a block with `parts` groups of 32 values, for sixteen columns.
#[inline(always)]
pub(super) const fn unit_scales(parts: usize, has_min: bool) -> usize {
    let halves = if has_min { 4 * PANEL } else { 2 * PANEL };
    if parts == 1 {
        halves
    } else {
        halves + parts * 2 * PANEL
    }
}

/// Groups of 32 values in a block of the format.
#[inline]
fn unit_parts(format: BlockFormat) -> usize {
    format.values() / VALUES
}
