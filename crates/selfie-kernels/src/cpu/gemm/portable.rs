//! Tiles in plain Rust: what every machine can run, and how the packed lines are read.

use half::{bf16, f16};

use super::{Operand, PANEL, Sums, TILE, Tile};

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

pub(super) fn tile(tile: &Tile<'_>, sums: &mut Sums) {
    for r in 0..tile.rows {
        sums[r] = match tile.a {
            Operand::Bf16(a) => row_bf16(&a[r * tile.stride / 2..], tile),
            Operand::F32(a) => row_f32(&a[r * tile.stride..], tile),
        };
    }
}

fn row_bf16(a: &[u32], tile: &Tile<'_>) -> [f32; TILE] {
    let mut sums = [0f32; TILE];
    for (panel, sums) in tile
        .weights
        .chunks_exact(tile.lines * 64)
        .zip(sums.chunks_exact_mut(PANEL))
    {
        let lines: &[[u32; PANEL]] = bytemuck::cast_slice(panel);
        for (line, &pair) in lines.iter().zip(a) {
            let (a0, a1) = widen(pair);
            for (sum, &w) in sums.iter_mut().zip(line) {
                let (w0, w1) = widen(w);
                *sum += a0 * w0;
                *sum += a1 * w1;
            }
        }
    }
    sums
}

fn row_f32(a: &[f32], tile: &Tile<'_>) -> [f32; TILE] {
    let mut sums = [0f32; TILE];
    for (panel, sums) in tile
        .weights
        .chunks_exact(tile.lines * 64)
        .zip(sums.chunks_exact_mut(PANEL))
    {
        if tile.dtype == crate::DType::F16 {
            let steps: &[[f16; PANEL]] = bytemuck::cast_slice(panel);
            for (step, &a) in steps.iter().zip(a) {
                for (sum, w) in sums.iter_mut().zip(step) {
                    *sum += a * w.to_f32();
                }
            }
        } else {
            let steps: &[[f32; PANEL]] = bytemuck::cast_slice(panel);
            for (step, &a) in steps.iter().zip(a) {
                for (sum, &w) in sums.iter_mut().zip(step) {
                    *sum += a * w;
                }
            }
        }
    }
    sums
}

/// The two bf16 of a pair, the first one in the low half.
fn widen(pair: u32) -> (f32, f32) {
    (
        bf16::from_bits(pair as u16).to_f32(),
        bf16::from_bits((pair >> 16) as u16).to_f32(),
    )
}
