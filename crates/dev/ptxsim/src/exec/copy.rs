//! `cp.async`: asynchronous copies from global to shared memory.
//!
//! The bytes move at once, but shared memory knows that they may still be in flight. Using them before the wait is an
//! error.

use super::block::Block;
use super::memory::{Access, addresses};
use super::regs::lanes;
use super::warp::Warp;
use crate::check::SharedShadow;
use crate::error::{Result, SimError, Space};
use crate::ir::Op;

/// A copy that a lane has issued but not waited for.
#[derive(Clone, Copy)]
pub(super) struct Copying {
    lane: usize,
    offset: usize,
    bytes: u32,
    /// The number of groups that the lane had committed before it.
    group: u32,
}

pub(super) fn start(
    block: &mut Block<'_>,
    warp: &mut Warp,
    pc: usize,
    mask: u32,
    op: &Op,
) -> Result<()> {
    let Op::CpAsync {
        bytes,
        to,
        from,
        source_bytes,
        ignore,
    } = *op
    else {
        unreachable!("only cp.async comes here")
    };
    let targets = addresses(&warp.regs, to);
    let sources = addresses(&warp.regs, from);
    let ignored = ignore.map_or(0, |ignore| warp.regs.predicate(ignore));
    let mut reading = 0;
    let mut read_bytes = 0;
    for lane in lanes(mask) {
        let mut wanted = source_bytes.map_or(bytes, |row| warp.regs.b32[row as usize][lane]);
        if wanted > bytes {
            let message = format!("the source size, {wanted}, is larger than the copy, {bytes}");
            return Err(SimError::Undefined {
                place: block.place(warp, pc, lane),
                message,
            });
        }
        if ignored >> lane & 1 == 1 {
            wanted = 0;
        }
        let access = Access {
            pc,
            lane,
            address: targets[lane],
            bytes,
        };
        let offset = block.shared(warp, access, SharedShadow::start_copy)?;
        block.shared[offset..offset + bytes as usize].fill(0);
        if wanted > 0 {
            reading |= 1 << lane;
            read_bytes += u64::from(wanted);
            read_source(
                block,
                warp,
                Access {
                    pc,
                    lane,
                    address: sources[lane],
                    bytes,
                },
                wanted,
                offset,
            )?;
        }
        warp.copies.push(Copying {
            lane,
            offset,
            bytes,
            group: warp.groups[lane],
        });
    }
    block.count_global_load(pc, &sources, reading, bytes);
    // Bytes filled with zeros are not read.
    let load = &mut block.tallies[pc].global_load;
    load.bytes -= u64::from(reading.count_ones() * bytes) - read_bytes;
    block.count_shared_store(pc, &targets, mask, bytes);
    Ok(())
}

/// Moves `wanted` bytes of the source to shared memory.
fn read_source(
    block: &mut Block<'_>,
    warp: &mut Warp,
    access: Access,
    wanted: u32,
    offset: usize,
) -> Result<()> {
    let Access {
        pc,
        lane,
        address,
        bytes,
    } = access;
    if !address.is_multiple_of(u64::from(bytes)) {
        let place = block.place(warp, pc, lane);
        return Err(SimError::Misaligned {
            place,
            space: Space::Global,
            address,
            bytes,
        });
    }
    let step = if wanted.is_multiple_of(4) { 4 } else { 1 };
    for i in (0..wanted).step_by(step as usize) {
        let part = Access {
            pc,
            lane,
            address: address + u64::from(i),
            bytes: step,
        };
        let (allocation, source) = block.global(warp, part)?;
        if !allocation.is_written(source, step) {
            let place = block.place(warp, pc, lane);
            return Err(SimError::UninitialisedMemory {
                place,
                space: Space::Global,
                address: part.address,
            });
        }
        block.check_global_read(warp, part, allocation, source)?;
        let value = allocation.load(source, step).to_le_bytes();
        let start = offset + i as usize;
        block.shared[start..start + step as usize].copy_from_slice(&value[..step as usize]);
    }
    Ok(())
}

pub(super) fn commit(warp: &mut Warp, mask: u32) {
    for lane in lanes(mask) {
        warp.groups[lane] += 1;
    }
}

/// Waits until at most `groups` of each lane's newest groups are pending; `None` waits for everything.
pub(super) fn wait(block: &mut Block<'_>, warp: &mut Warp, mask: u32, groups: Option<u32>) {
    let mut copies = std::mem::take(&mut warp.copies);
    copies.retain(|copy| {
        let waits = mask >> copy.lane & 1 == 1;
        let is_done = match groups {
            Some(groups) => copy.group < warp.groups[copy.lane].saturating_sub(groups),
            None => true,
        };
        if waits && is_done {
            block.shadow.finish_copy(
                block.thread(warp, copy.lane),
                copy.offset,
                copy.bytes as usize,
            );
        }
        !(waits && is_done)
    });
    warp.copies = copies;
}
