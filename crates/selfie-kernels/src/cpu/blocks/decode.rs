//! Unpacks blocks for the products. Plain Rust that each path compiles with its own instructions.

use crate::cpu::{blocks::BlockPanels, pack::PANEL};
use crate::format::Scales;

/// Steps of four values in a block of 32.
pub(super) const STEPS: usize = 8;

/// Four adjacent steps of k for sixteen columns.
pub(super) type Line = [u8; 4 * PANEL];

/// The factors of both halves of 32 values, and the addend, for sixteen columns.
pub(super) struct Scaling {
    pub(super) halves: [[f32; PANEL]; 2],
    /// Zeros if the format has no minimum.
    pub(super) min: [f32; PANEL],
}

/// The codes of a block. The low four bits of two steps share a byte; the higher bits of all steps follow in one or two
/// more lines.
#[inline(always)]
pub(super) fn lines(bits: usize, codes: &[u8]) -> [Line; STEPS] {
    let codes = codes.as_chunks::<64>().0;
    let mut lines = [[0; 64]; STEPS];
    if bits == 8 {
        lines.copy_from_slice(&codes[..STEPS]);
        return lines;
    }
    for step in 0..STEPS / 2 {
        for (at, &byte) in codes[step].iter().enumerate() {
            lines[step][at] = byte & 0xf;
            lines[step + STEPS / 2][at] = byte >> 4;
        }
    }
    match bits {
        5 => {
            for (step, line) in lines.iter_mut().enumerate() {
                for (code, &high) in line.iter_mut().zip(&codes[4]) {
                    *code |= (high >> step & 1) << 4;
                }
            }
        }
        6 => {
            for (step, line) in lines.iter_mut().enumerate() {
                for (code, &high) in line.iter_mut().zip(&codes[4 + step / 4]) {
                    *code |= (high >> (step % 4 * 2) & 3) << 4;
                }
            }
        }
        _ => {}
    }
    lines
}

/// The scales of 32 values of each column of a panel, from value `32 * block` on.
#[inline(always)]
pub(super) fn scaling(w: &BlockPanels, panel: usize, block: usize) -> Scaling {
    let (unit, part) = w.scales(panel, block);
    let mut scale = halves(&unit[..2 * PANEL]);
    let mut second = scale;
    let mut min = [0.0; PANEL];
    match w.layout().scales {
        Scales::Scale => {}
        Scales::ScaleMin => min = halves(&unit[2 * PANEL..]),
        Scales::SubScaleMin => {
            min = halves(&unit[2 * PANEL..]);
            let (scales, mins) = part.split_at(PANEL);
            for lane in 0..PANEL {
                scale[lane] *= f32::from(scales[lane]);
                min[lane] = -(min[lane] * f32::from(mins[lane]));
            }
            second = scale;
        }
        Scales::SubScale => {
            let (first, last) = part.split_at(PANEL);
            for lane in 0..PANEL {
                second[lane] *= f32::from(last[lane] as i8);
                scale[lane] *= f32::from(first[lane] as i8);
            }
        }
    }
    Scaling {
        halves: [scale, second],
        min,
    }
}

/// Sixteen finite f16 values. Unlike [`half::f16::to_f32`], this has no branch.
#[inline(always)]
fn halves(bytes: &[u8]) -> [f32; PANEL] {
    let mut wide = [0.0; PANEL];
    for (wide, &bytes) in wide.iter_mut().zip(bytes.as_chunks::<2>().0) {
        let bits = u32::from(u16::from_le_bytes(bytes));
        // The shifted exponent is 112 too low, for subnormals too.
        let value = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        *wide = f32::from_bits(value.to_bits() | (bits & 0x8000) << 16);
    }
    wide
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half() {
        for bits in 0..=u16::MAX {
            let want = half::f16::from_bits(bits);
            if want.is_finite() {
                let got = halves(&[bits.to_le_bytes(); PANEL].concat());
                assert_eq!(got.map(f32::to_bits), [want.to_f32().to_bits(); PANEL]);
            }
        }
    }
}
