//! Counts the cost of a warp's request: sectors of global memory, passes over the banks of shared memory.

use super::block::Block;
use super::regs::{LANES, lanes};
use crate::report::{SharedTraffic, Traffic};

/// The addresses of the lanes in a mask, in order.
fn pick(addresses: &[u64; LANES], mask: u32) -> ([u64; LANES], usize) {
    if mask == u32::MAX {
        return (*addresses, LANES);
    }
    let mut picked = [0; LANES];
    let mut n = 0;
    for lane in lanes(mask) {
        picked[n] = addresses[lane];
        n += 1;
    }
    (picked, n)
}

fn traffic(addresses: &[u64; LANES], mask: u32, bytes: u32) -> Traffic {
    let first = addresses[0];
    let mut next = first;
    let in_a_row = addresses.iter().all(|&address| {
        let fits = address == next;
        next = next.wrapping_add(bytes.into());
        fits
    });
    if in_a_row && mask == u32::MAX {
        let size = u64::from(bytes) * LANES as u64;
        let sectors = (first % 32 + size).div_ceil(32);
        return Traffic {
            requests: 1,
            sectors,
            ideal_sectors: bytes.into(),
            bytes: size,
        };
    }
    let (mut picked, n) = pick(addresses, mask);
    let (sectors, ideal_sectors) = sectors(&mut picked[..n], bytes);
    Traffic {
        requests: 1,
        sectors,
        ideal_sectors,
        bytes: u64::from(mask.count_ones() * bytes),
    }
}

/// 8-byte accesses go by half warps, 16-byte accesses by quarter warps.
fn shared_traffic(addresses: &[u64; LANES], mask: u32, bytes: u32) -> SharedTraffic {
    let group = match bytes {
        16 => 8,
        8 => 16,
        _ => 32,
    };
    let mut sum = SharedTraffic {
        requests: 1,
        bytes: u64::from(mask.count_ones() * bytes),
        ..Default::default()
    };
    for start in (0..LANES).step_by(group) {
        let together = (u32::MAX >> (32 - group)) << start;
        let (picked, n) = pick(addresses, mask & together);
        let (passes, conflicts) = passes(&picked[..n], bytes);
        sum.passes += passes;
        sum.conflicts += conflicts;
    }
    sum
}

impl Block<'_> {
    pub(super) fn count_global_load(
        &mut self,
        pc: usize,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
    ) {
        if mask != 0 {
            self.tallies[pc].global_load += traffic(addresses, mask, bytes);
        }
    }

    pub(super) fn count_global_store(
        &mut self,
        pc: usize,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
    ) {
        if mask != 0 {
            self.tallies[pc].global_store += traffic(addresses, mask, bytes);
        }
    }

    pub(super) fn count_shared_load(
        &mut self,
        pc: usize,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
    ) {
        if mask != 0 {
            self.tallies[pc].shared_load += shared_traffic(addresses, mask, bytes);
        }
    }

    pub(super) fn count_shared_store(
        &mut self,
        pc: usize,
        addresses: &[u64; LANES],
        mask: u32,
        bytes: u32,
    ) {
        if mask != 0 {
            self.tallies[pc].shared_store += shared_traffic(addresses, mask, bytes);
        }
    }
}

/// The sectors touched by a request of aligned accesses of up to 16 bytes, and the sectors that its distinct bytes
/// would fill.
fn sectors(addresses: &mut [u64], bytes: u32) -> (u64, u64) {
    if !addresses.is_sorted() {
        addresses.sort_unstable();
    }
    let (mut sectors, mut distinct) = (0, 0);
    let mut last = None;
    for &address in addresses.iter() {
        distinct += u64::from(last != Some(address));
        // Each access lies in one sector.
        sectors += u64::from(last.is_none_or(|last| last / 32 != address / 32));
        last = Some(address);
    }
    (sectors, (distinct * u64::from(bytes)).div_ceil(32))
}

/// Passes and conflicts of accesses that go together. In a pass each bank delivers one 4-byte word to every lane that
/// wants it. Together the accesses have at most 32 words.
fn passes(addresses: &[u64], bytes: u32) -> (u64, u64) {
    let mut used = 0u32;
    let is_free = |&address: &u64| {
        let bits = ((1u32 << bytes.div_ceil(4)) - 1) << (address / 4 % 32);
        let free = used & bits == 0;
        used |= bits;
        free
    };
    if addresses.iter().all(is_free) {
        return (u64::from(!addresses.is_empty()), 0);
    }
    // Some lanes share a bank. A bank serves each word once, to however many lanes want it.
    let mut words = [0u64; 32];
    let mut n = 0;
    for &address in addresses {
        for word in address / 4..(address + u64::from(bytes)).div_ceil(4) {
            words[n] = word;
            n += 1;
        }
    }
    let words = &mut words[..n];
    words.sort_unstable();
    let mut counts = [0; 32];
    for group in words.chunk_by(|a, b| a == b) {
        counts[(group[0] % 32) as usize] += 1;
    }
    let most = counts.into_iter().max().unwrap_or(0);
    (most, most - 1)
}
