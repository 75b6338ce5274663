//! The operand of a product with blocks.

use bytemuck::{Pod, Zeroable};

use crate::cpu::simd::{Isa, Loop, Simd};
use crate::cpu::threads::Threads;

/// Values of a block.
pub(in crate::cpu) const VALUES: usize = 32;

/// 2^-120: slightly above where the inverse of a scale would overflow. A block below it becomes 0.
const TINY: f32 = f32::from_bits(7 << 23);

/// 32 values of a row, each `scale * code`. Codes are rounded to nearest, ties to even; the largest is 127.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(in crate::cpu) struct OperandBlock {
    pub(super) codes: [i8; VALUES],
    /// NaN if one of the values is not finite, so that every product with the block is NaN.
    pub(super) scale: f32,
    /// The sum of all codes times the scale: the factor of a minimum.
    pub(super) sum: f32,
    /// The start value of each half's sum: its codes times the negative offset of the weights' codes.
    pub(super) starts: [i32; 2],
}

/// Quantizes rows of `width`, `stride` apart, into `[rows, blocks]`, for weights whose codes are `offset` too high.
pub(in crate::cpu) fn quantize_rows(
    isa: Isa,
    threads: &Threads,
    values: &[f32],
    stride: usize,
    width: usize,
    offset: i16,
    out: &mut [OperandBlock],
) {
    let n = values.len().div_ceil(stride);
    let blocks = out.len() / n.max(1);
    let rows = out.chunks_mut(blocks.max(1)).zip(values.chunks(stride));
    threads.each(n, width, rows, |(out, row)| {
        isa.run(Row {
            values: &row[..width],
            offset: i32::from(offset),
            out,
        });
    });
}

struct Row<'a> {
    values: &'a [f32],
    offset: i32,
    out: &'a mut [OperandBlock],
}

impl Loop for Row<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (whole, rest) = self.values.as_chunks::<VALUES>();
        let (out, padding) = self.out.split_at_mut(whole.len());
        for (out, values) in out.iter_mut().zip(whole) {
            *out = quantize(values, self.offset);
        }
        // Values past the end of the row are 0.
        let mut last = [0.0; VALUES];
        last[..rest.len()].copy_from_slice(rest);
        for out in padding {
            *out = quantize(&last, self.offset);
            last = [0.0; VALUES];
        }
    }
}

#[inline(always)]
fn quantize(values: &[f32; VALUES], offset: i32) -> OperandBlock {
    // Without the sign, the bits sort as the numbers do, and values that are not finite come last.
    let mut most = 0;
    for x in values {
        most = most.max(x.to_bits() & 0x7fff_ffff);
    }
    let largest = f32::from_bits(most);
    if !largest.is_finite() {
        return OperandBlock {
            scale: f32::NAN,
            sum: f32::NAN,
            ..OperandBlock::default()
        };
    }
    if largest < TINY {
        return OperandBlock::default();
    }
    let (scale, inverse) = (largest / 127.0, 127.0 / largest);
    // Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    let mut codes = [0i8; VALUES];
    for (code, x) in codes.iter_mut().zip(values) {
        *code = (x * inverse + ROUND).to_bits() as i8;
    }
    let sums = [&codes[..VALUES / 2], &codes[VALUES / 2..]].map(|half| {
        let mut sum = 0i32;
        for &code in half {
            sum += i32::from(code);
        }
        sum
    });
    OperandBlock {
        codes,
        scale,
        sum: scale * (sums[0] + sums[1]) as f32,
        starts: sums.map(|sum| -offset * sum),
    }
}
