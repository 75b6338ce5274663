//! Tiles in plain Rust. They run on every machine, and show how to read the packed lines.

use half::{bf16, f16};

use super::blocks::{Kernel, Strip};
use super::{CpuActs, PANEL, PlainPanels, TILE};
use crate::DType;

/// One row at a time; the operand is f32 for weights of any type.
pub(super) struct Rows;

impl Kernel for Rows {
    type Element = f32;

    const ELEMENT_K: usize = 1;

    fn elements(a: &CpuActs) -> &[f32] {
        a.values.f32()
    }

    const BLOCK_ROWS: usize = 64;

    fn block_lines(_rows: usize, _w: &PlainPanels) -> usize {
        256
    }

    fn multiply(&mut self, strip: &Strip<'_, f32>, sums: &mut [[f32; TILE]], sums_stride: usize) {
        let rows = strip
            .a
            .chunks(strip.stride)
            .zip(sums.chunks_mut(sums_stride));
        for (a, sums) in rows.take(strip.rows) {
            for (lines, sums) in strip.panels.iter().zip(sums[0].as_chunks_mut::<PANEL>().0) {
                if strip.first {
                    *sums = [0.0; PANEL];
                }
                match strip.dtype {
                    DType::F32 => add(sums, a, bytemuck::cast_slice(lines), |&w| w),
                    DType::F16 => add(sums, a, bytemuck::cast_slice(lines), |w: &f16| w.to_f32()),
                    DType::Bf16 => add_pairs(sums, a, bytemuck::cast_slice(lines)),
                }
            }
        }
    }
}

fn add<T>(sums: &mut [f32; PANEL], a: &[f32], steps: &[[T; PANEL]], value: impl Fn(&T) -> f32) {
    for (step, &a) in steps.iter().zip(a) {
        for (sum, w) in sums.iter_mut().zip(step) {
            *sum += a * value(w);
        }
    }
}

/// A line of bf16 holds two adjacent steps of k for each column.
fn add_pairs(sums: &mut [f32; PANEL], a: &[f32], lines: &[[[bf16; 2]; PANEL]]) {
    for (line, a) in lines.iter().zip(a.as_chunks::<2>().0) {
        for (sum, w) in sums.iter_mut().zip(line) {
            *sum += a[0] * w[0].to_f32();
            *sum += a[1] * w[1].to_f32();
        }
    }
}
