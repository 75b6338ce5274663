//! The tile registers of AMX: what all kernels with tiles share.

#[cfg(target_arch = "x86_64")]
use std::arch::asm;

use super::simd::AmxBf16;

/// Tile registers of a thread.
pub(super) const REGISTERS: usize = 8;

/// Most rows of a tile register.
pub(super) const ROWS: usize = 16;

/// Most bytes of a row.
pub(super) const BYTES: usize = 64;

/// The size of a tile register.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// The tile registers of this thread, released on drop.
pub(super) struct Tiles {
    _proof: AmxBf16,
}

/// The operand of `ldtilecfg`: palette 1, then the bytes per row and the number of rows of each register.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    pub(super) fn new(proof: AmxBf16) -> Self {
        Self { _proof: proof }
    }
}

#[cfg(target_arch = "x86_64")]
impl Tiles {
    /// Gives the registers from `tmm0` on these sizes, and zeros them. The others cannot be used.
    pub(super) fn configure<const N: usize>(&mut self, shapes: [Shape; N]) {
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        const { assert!(N <= REGISTERS) };
        for (i, shape) in shapes.into_iter().enumerate() {
            assert!((1..=ROWS).contains(&shape.rows));
            assert!((1..=BYTES).contains(&shape.bytes));
            config.rows[i] = shape.rows as u8;
            config.row_bytes[i] = shape.bytes as u16;
        }
        // SAFETY: the proof shows that tiles are present and allowed. The operand is 64 bytes, and the assertions make
        // it valid.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
    }
}

/// On other targets the proof cannot be constructed, so nothing calls this.
#[cfg(not(target_arch = "x86_64"))]
impl Tiles {
    pub(super) fn configure<const N: usize>(&mut self, _: [Shape; N]) {}
}

#[cfg(target_arch = "x86_64")]
impl Drop for Tiles {
    fn drop(&mut self) {
        // While they are in use, the kernel has to save the registers whenever it interrupts this thread.
        // SAFETY: the proof shows that tiles are present and allowed.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}
