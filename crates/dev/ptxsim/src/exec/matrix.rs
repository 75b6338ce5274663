//! `ldmatrix` and `mma.sync`.

use super::block::Block;
use super::half::widen_f16;
use super::memory::{Access, addresses};
use super::regs::LANES;
use super::tensor::TensorCores;
use super::warp::Warp;
use crate::error::{Result, SimError};
use crate::ir::{Mma, MmaType, Row, Target};

/// Both instructions need all 32 lanes together.
fn whole_warp(block: &Block<'_>, warp: &Warp, pc: usize, mask: u32) -> Result<()> {
    if mask == u32::MAX {
        return Ok(());
    }
    let place = block.place(warp, pc, mask.trailing_zeros() as usize);
    Err(SimError::SyncMask {
        place,
        mask: u32::MAX,
        active: mask,
        why: "it needs all 32 lanes",
    })
}

/// Lanes 8i..8i+8 hold the addresses of the rows of matrix i. Of each matrix, or of its transpose, lane l gets row l/4,
/// columns 2(l%4) and 2(l%4) + 1.
pub(super) fn ldmatrix(
    block: &mut Block<'_>,
    warp: &mut Warp,
    pc: usize,
    mask: u32,
    d: &[Row],
    transpose: bool,
    from: Target,
) -> Result<()> {
    whole_warp(block, warp, pc, mask)?;
    let at = addresses(&warp.regs, from);
    for (i, &d) in d.iter().enumerate() {
        let mut matrix = [[0u16; 8]; 8];
        for (row, values) in matrix.iter_mut().enumerate() {
            let lane = 8 * i + row;
            let offset = block.shared_offset(
                warp,
                Access {
                    pc,
                    lane,
                    address: at[lane],
                    bytes: 16,
                },
            )?;
            let read = block.shadow.read_by_warp(warp.index as usize, offset, 16);
            read.map_err(|clash| block.clash(warp, pc, lane, clash))?;
            for (column, value) in values.iter_mut().enumerate() {
                let start = offset + 2 * column;
                *value = u16::from_le_bytes([block.shared[start], block.shared[start + 1]]);
            }
        }
        // A matrix takes one pass, like the 16-byte accesses of a quarter warp. The four matrices of an x4 are one
        // request.
        block.count_shared_load(pc, &at, 0xff << (8 * i), 16);
        if i > 0 {
            block.tallies[pc].shared_load.requests -= 1;
        }
        let out = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, 2 * (lane % 4));
            let [low, high] = if transpose {
                [matrix[column][row], matrix[column + 1][row]]
            } else {
                [matrix[row][column], matrix[row][column + 1]]
            };
            u32::from(high) << 16 | u32::from(low)
        });
        warp.regs.put_32(d, mask, &out);
    }
    Ok(())
}

/// D = A B + C for A `[16, k]`, B `[k, 8]`, C and D f32 `[16, 8]`.
///
/// The ISA leaves order and rounding of the sums open ([`TensorCores`]), so results are compared with a tolerance.
pub(super) fn mma(
    block: &Block<'_>,
    warp: &mut Warp,
    pc: usize,
    mask: u32,
    mma: &Mma,
) -> Result<()> {
    whole_warp(block, warp, pc, mask)?;
    let (a, b) = operands(warp, mma);
    let row = |row: Row| &warp.regs.b32[row as usize];
    let mut sums = [[0f32; 8]; 16];
    for (i, &c) in mma.c.iter().enumerate() {
        for (lane, &bits) in row(c).iter().enumerate() {
            sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = f32::from_bits(bits);
        }
    }
    match (block.env.settings.tensor_cores, mma.k) {
        (TensorCores::Nearest, 16) => multiply::<16>(&mut sums, &a, &b),
        (TensorCores::Nearest, 8) => multiply::<8>(&mut sums, &a, &b),
        (TensorCores::Nearest, _) => multiply::<4>(&mut sums, &a, &b),
        (model, k) => multiply_as(model, &mut sums, &a, &b, k as usize),
    }
    for (i, &d) in mma.d.iter().enumerate() {
        let out = std::array::from_fn(|lane| {
            let sum = sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
            if sum.is_nan() {
                0x7fff_ffff
            } else {
                sum.to_bits()
            }
        });
        warp.regs.put_32(d, mask, &out);
    }
    Ok(())
}

fn multiply_as(
    model: TensorCores,
    sums: &mut [[f32; 8]; 16],
    a: &[[f32; 16]; 16],
    b: &[[f32; 8]; 16],
    k: usize,
) {
    for column in 0..8 {
        let b = b.map(|row| row[column]);
        for (sums, a) in sums.iter_mut().zip(a) {
            sums[column] = model.add_products(sums[column], &a[..k], &b[..k]);
        }
    }
}

/// [`TensorCores::Nearest`], for whole rows at a time. Products of halves and of tf32 are exact in f32.
fn multiply<const K: usize>(sums: &mut [[f32; 8]; 16], a: &[[f32; 16]; 16], b: &[[f32; 8]; 16]) {
    for (sums, a) in sums.iter_mut().zip(a) {
        let mut row = *sums;
        for k in 0..K {
            for (sum, b) in row.iter_mut().zip(&b[k]) {
                *sum += a[k] * b;
            }
        }
        *sums = row;
    }
}

/// The rows of A and the columns of B, from the fragments (PTX ISA, "Matrix fragments for mma.m16n8k16").
///
/// Lane l holds row l/4 of A and column l/4 of B. A's registers alternate between rows l/4 and l/4 + 8. Each pair of
/// them, and each register of B, is a step along k: 4 long with one tf32 per lane, or 8 long with two halves per lane.
fn operands(warp: &Warp, mma: &Mma) -> ([[f32; 16]; 16], [[f32; 8]; 16]) {
    let mut a = [[0f32; 16]; 16];
    let mut b = [[0f32; 8]; 16];
    let step = if mma.ty == MmaType::Tf32 { 4 } else { 8 };
    for k_step in 0..mma.k as usize / step {
        for upper in 0..2 {
            let values = unpack(warp, mma.a[2 * k_step + upper], mma.ty);
            for (lane, values) in values.iter().enumerate() {
                for (i, &value) in values.iter().take(step / 4).enumerate() {
                    a[lane / 4 + 8 * upper][k_step * step + lane % 4 * (step / 4) + i] = value;
                }
            }
        }
        for (lane, values) in unpack(warp, mma.b[k_step], mma.ty).iter().enumerate() {
            for (i, &value) in values.iter().take(step / 4).enumerate() {
                b[k_step * step + lane % 4 * (step / 4) + i][lane / 4] = value;
            }
        }
    }
    (a, b)
}

/// The values of a register: two halves, or a tf32, whose last 13 bits are ignored.
fn unpack(warp: &Warp, row: Row, ty: MmaType) -> [[f32; 2]; LANES] {
    let row = &warp.regs.b32[row as usize];
    match ty {
        MmaType::Tf32 => row.map(|bits| [f32::from_bits(bits & 0xffff_e000), 0.0]),
        MmaType::Bf16 => row.map(|bits| {
            [
                f32::from_bits(bits << 16),
                f32::from_bits(bits & 0xffff_0000),
            ]
        }),
        MmaType::F16 => row.map(|bits| [widen_f16(bits as u16), widen_f16((bits >> 16) as u16)]),
    }
}
