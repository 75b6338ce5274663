//! Tiles in plain Rust.

use super::decode::{Line, STEPS, lines, scaling};
use super::{Sums, Tile};
use crate::cpu::pack::PANEL;

/// Rows of a tile.
pub(super) const ROWS: usize = 4;

pub(super) fn multiply(tile: &Tile<'_>, sums: &mut Sums, at: usize) {
    let layout = tile.w.layout();
    let mut totals = [[0f32; PANEL]; ROWS];
    for block in 0..tile.stride {
        let lines = lines(layout.bits, tile.w.codes(tile.panel, block));
        let scaling = scaling(tile.w, tile.panel, block);
        for (row, totals) in tile.a.chunks_exact(tile.stride).zip(&mut totals) {
            let a = &row[block];
            let (codes, _) = a.codes.as_chunks::<4>();
            let (first, second) = lines.split_at(STEPS / 2);
            let first = dots(first, &codes[..STEPS / 2], a.starts[0]);
            let second = dots(second, &codes[STEPS / 2..], a.starts[1]);
            let [scale, second_scale] = &scaling.halves;
            if layout.has_halves() {
                fold(totals, first, scale, a.scale);
                fold(totals, second, second_scale, a.scale);
            } else {
                let both = std::array::from_fn(|lane| first[lane] + second[lane]);
                fold(totals, both, scale, a.scale);
            }
            if layout.has_min() {
                for (total, min) in totals.iter_mut().zip(&scaling.min) {
                    *total += min * a.sum;
                }
            }
        }
    }
    for (sums, totals) in sums.iter_mut().zip(&totals).take(tile.rows) {
        sums[at..at + PANEL].copy_from_slice(totals);
    }
}

fn dots(lines: &[Line], codes: &[[i8; 4]], start: i32) -> [i32; PANEL] {
    let mut dots = [start; PANEL];
    for (line, a) in lines.iter().zip(codes) {
        for (dot, w) in dots.iter_mut().zip(line.as_chunks::<4>().0) {
            for (&w, &a) in w.iter().zip(a) {
                *dot += i32::from(w) * i32::from(a);
            }
        }
    }
    dots
}

/// Adds the products of 16 or 32 values.
fn fold(totals: &mut [f32; PANEL], dots: [i32; PANEL], scales: &[f32; PANEL], a: f32) {
    for ((total, dot), scale) in totals.iter_mut().zip(dots).zip(scales) {
        *total += dot as f32 * (scale * a);
    }
}
