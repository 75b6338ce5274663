//! How many warps of a kernel fit on a multiprocessor (CUDA programming guide, technical specifications by compute
//! capability).

/// The resources of a multiprocessor.
struct Multiprocessor {
    warps: u32,
    blocks: u32,
    /// Shared memory in bytes.
    shared: u32,
}

/// Registers of 4 bytes, the same on all architectures.
const REGISTERS: u32 = 65_536;
/// Registers are allocated to warps in units of this size.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is allocated to blocks in units of this size; the system reserves more per block.
const SHARED_UNIT: u32 = 128;
const SHARED_RESERVED: u32 = 1024;

fn multiprocessor(architecture: u32) -> Multiprocessor {
    let (warps, blocks, kilobytes) = match architecture {
        80 => (64, 32, 164),
        90 | 100 => (64, 32, 228),
        _ => (48, 24, 100),
    };
    Multiprocessor {
        warps,
        blocks,
        shared: kilobytes << 10,
    }
}

/// The share of a multiprocessor's warps that can be resident, in percent.
pub(super) fn occupancy(architecture: u32, threads: u32, registers: u32, shared: u32) -> u32 {
    let has = multiprocessor(architecture);
    let warps = threads.div_ceil(32);
    let warp_registers = (registers * 32).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS / warp_registers / warps;
    let by_shared = has.shared / (shared + SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
    let blocks = has
        .blocks
        .min(has.warps / warps)
        .min(by_registers)
        .min(by_shared);
    100 * blocks * warps / has.warps
}

#[cfg(test)]
mod tests {
    use super::occupancy;

    #[test]
    fn limits() {
        // Warps: 8 blocks of 8. Registers: 128 * 32 = 4096 per warp, so 16 warps. Blocks: 32 of one warp.
        assert_eq!(occupancy(80, 256, 32, 0), 100);
        assert_eq!(occupancy(80, 256, 128, 0), 25);
        assert_eq!(occupancy(90, 32, 32, 0), 50);
        // 47 KB plus 1 KB reserved: 3 blocks in 164 KB, 4 in 228, 2 in 100.
        assert_eq!(occupancy(80, 256, 32, 47 << 10), 37);
        assert_eq!(occupancy(90, 256, 32, 47 << 10), 50);
        assert_eq!(occupancy(120, 256, 32, 47 << 10), 33);
    }
}
