//! Loads, stores and atomics.

use std::ops::Range;

use super::block::Block;
use super::regs::{LANES, Regs, lanes};
use super::warp::Warp;
use crate::check::{Clash, OtherBlock, SharedShadow, Thread};
use crate::decode::{SHARED_BASE, SHARED_WINDOW};
use crate::device::Allocation;
use crate::error::{Result, SimError, Space};
use crate::ir::{AccessSpace, Elements, Reduce, Reg, Target, Type};

/// Generic addresses from this one on are not shared.
const SHARED_WINDOW_END: u64 = SHARED_WINDOW + (1 << 24);

/// The values of up to four elements.
type Values = [[u64; LANES]; 4];

pub(super) fn addresses(regs: &Regs, target: Target) -> [u64; LANES] {
    let base = target.base.map_or([0; LANES], |base| regs.get(base));
    base.map(|base| base.wrapping_add(target.offset as u64))
}

/// Splits the lanes into those with a global address and those with a shared one. Shared addresses are made relative.
fn split(space: AccessSpace, addresses: &mut [u64; LANES], mask: u32) -> (u32, u32) {
    match space {
        AccessSpace::In(Space::Shared) => (0, mask),
        AccessSpace::In(_) => (mask, 0),
        AccessSpace::Generic => {
            let mut shared = 0;
            for lane in lanes(mask) {
                if (SHARED_WINDOW..SHARED_WINDOW_END).contains(&addresses[lane]) {
                    addresses[lane] -= SHARED_WINDOW;
                    shared |= 1 << lane;
                }
            }
            (mask & !shared, shared)
        }
    }
}

/// An access, for error messages. Its size is a power of two.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) pc: usize,
    pub(super) lane: usize,
    pub(super) address: u64,
    pub(super) bytes: u32,
}

/// How to check and record an access to shared memory: a method of [`SharedShadow`].
type Note = fn(&mut SharedShadow, Thread, usize, usize) -> std::result::Result<(), Clash>;

impl<'a> Block<'a> {
    fn misaligned(&self, warp: &Warp, access: Access, space: Space) -> SimError {
        let Access {
            pc,
            lane,
            address,
            bytes,
        } = access;
        SimError::Misaligned {
            place: self.place(warp, pc, lane),
            space,
            address,
            bytes,
        }
    }

    /// The allocation of a global access, and the offset in it.
    pub(super) fn global(
        &self,
        warp: &mut Warp,
        access: Access,
    ) -> Result<(&'a Allocation, usize)> {
        let Access {
            pc,
            lane,
            address,
            bytes,
        } = access;
        if address & u64::from(bytes - 1) != 0 {
            return Err(self.misaligned(warp, access, Space::Global));
        }
        match self.env.memory.find(address, bytes.into(), &mut warp.hint) {
            Some(allocation) => Ok((allocation, (address - allocation.base) as usize)),
            None => Err(SimError::OutOfBounds {
                place: self.place(warp, pc, lane),
                space: Space::Global,
                address,
                bytes,
                nearest: self.env.memory.nearest(address),
            }),
        }
    }

    /// The offset of a shared access.
    pub(super) fn shared_offset(&self, warp: &Warp, access: Access) -> Result<usize> {
        let Access {
            pc,
            lane,
            address,
            bytes,
        } = access;
        if address & u64::from(bytes - 1) != 0 {
            return Err(self.misaligned(warp, access, Space::Shared));
        }
        let offset = address.wrapping_sub(SHARED_BASE);
        if offset
            .checked_add(bytes.into())
            .is_none_or(|end| end > self.shared.len() as u64)
        {
            let size = self.shared.len();
            return Err(SimError::OutOfBounds {
                place: self.place(warp, pc, lane),
                space: Space::Shared,
                address,
                bytes,
                nearest: format!("the block has {size} bytes, from {SHARED_BASE:#x}"),
            });
        }
        Ok(offset as usize)
    }

    pub(super) fn clash(&self, warp: &Warp, pc: usize, lane: usize, clash: Clash) -> SimError {
        let place = self.place(warp, pc, lane);
        let address = |offset: usize| SHARED_BASE + offset as u64;
        match clash {
            Clash::Unwritten { offset } => SimError::UninitialisedMemory {
                place,
                space: Space::Shared,
                address: address(offset),
            },
            Clash::Race { offset, other, did } => SimError::SharedRace {
                place,
                address: address(offset),
                other,
                did,
            },
            Clash::Copying { offset, issuer } => SimError::PendingCopy {
                place,
                address: address(offset),
                issuer,
            },
        }
    }

    /// The offset of a shared access, recorded with `note`.
    pub(super) fn shared(&mut self, warp: &Warp, access: Access, note: Note) -> Result<usize> {
        let Access {
            pc, lane, bytes, ..
        } = access;
        let offset = self.shared_offset(warp, access)?;
        let thread = Thread(32 * warp.index + lane as u32);
        match note(&mut self.shadow, thread, offset, bytes as usize) {
            Ok(()) => Ok(offset),
            Err(clash) => Err(self.clash(warp, pc, lane, clash)),
        }
    }

    pub(super) fn check_global_read(
        &self,
        warp: &Warp,
        access: Access,
        allocation: &Allocation,
        offset: usize,
    ) -> Result<()> {
        if !self.env.many_blocks || self.fenced {
            return Ok(());
        }
        let races = allocation.races();
        for granule in self.granules(offset, access) {
            if let Some(other) = races.read(granule, self.env.memory.launch, self.index) {
                return Err(self.global_race(warp, access, other));
            }
        }
        Ok(())
    }

    fn check_global_write(
        &self,
        warp: &Warp,
        access: Access,
        allocation: &Allocation,
        offset: usize,
    ) -> Result<()> {
        if !self.env.many_blocks {
            return Ok(());
        }
        let races = allocation.races();
        for granule in self.granules(offset, access) {
            if let Some(other) =
                races.write(granule, self.env.memory.launch, self.index, !self.fenced)
            {
                return Err(self.global_race(warp, access, other));
            }
        }
        Ok(())
    }

    /// The entries of an access in a table of [`BlockRaces`](crate::check::BlockRaces).
    fn granules(&self, offset: usize, access: Access) -> Range<usize> {
        let shift = self.env.kernel.global_granule.trailing_zeros();
        let granule = (1 << shift) - 1;
        offset >> shift..(offset + access.bytes as usize + granule) >> shift
    }

    fn global_race(&self, warp: &Warp, access: Access, other: OtherBlock) -> SimError {
        let OtherBlock { block, did } = other;
        let place = self.place(warp, access.pc, access.lane);
        SimError::GlobalRace {
            place,
            address: access.address,
            other: block,
            did,
        }
    }

    fn unwritten(&self, warp: &Warp, access: Access) -> SimError {
        let place = self.place(warp, access.pc, access.lane);
        SimError::UninitialisedMemory {
            place,
            space: Space::Global,
            address: access.address,
        }
    }

    /// 1, 2, 4 or 8 bytes of shared memory.
    fn shared_bytes(&self, offset: usize, bytes: u32) -> u64 {
        let source = &self.shared[offset..offset + bytes as usize];
        match *source {
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
            [a, b] => u16::from_le_bytes([a, b]).into(),
            [a] => a.into(),
            _ => source
                .iter()
                .rev()
                .fold(0, |value, &byte| value << 8 | u64::from(byte)),
        }
    }

    fn set_shared_bytes(&mut self, offset: usize, bytes: u32, value: u64) {
        let target = &mut self.shared[offset..offset + bytes as usize];
        match target.as_chunks_mut::<4>() {
            ([word], []) => *word = (value as u32).to_le_bytes(),
            _ => target.copy_from_slice(&value.to_le_bytes()[..bytes as usize]),
        }
    }
}

pub(super) fn ld(
    block: &mut Block<'_>,
    warp: &mut Warp,
    pc: usize,
    mask: u32,
    to: &Elements,
    from: Target,
) -> Result<()> {
    let mut values: Values = [[0; LANES]; 4];
    let count = to.regs.len();
    let bytes = to.bytes * count as u32;
    if from.space == AccessSpace::In(Space::Param) {
        load_param(block, warp, pc, mask, to, from.offset as u64, &mut values)?;
    } else {
        let mut at = addresses(&warp.regs, from);
        let (global, shared) = split(from.space, &mut at, mask);
        for lane in lanes(global) {
            let access = Access {
                pc,
                lane,
                address: at[lane],
                bytes,
            };
            let (allocation, offset) = block.global(warp, access)?;
            for (i, values) in values.iter_mut().enumerate().take(count) {
                let offset = offset + i * to.bytes as usize;
                if !allocation.is_written(offset, to.bytes) {
                    return Err(block.unwritten(warp, access));
                }
                values[lane] = allocation.load(offset, to.bytes);
            }
            block.check_global_read(warp, access, allocation, offset)?;
        }
        block.count_global_load(pc, &at, global, bytes);
        for lane in lanes(shared) {
            let access = Access {
                pc,
                lane,
                address: at[lane],
                bytes,
            };
            let offset = block.shared(warp, access, SharedShadow::read)?;
            for (i, values) in values.iter_mut().enumerate().take(count) {
                values[lane] = block.shared_bytes(offset + i * to.bytes as usize, to.bytes);
            }
        }
        block.count_shared_load(pc, &at, shared, bytes);
    }
    for (reg, values) in to.regs.iter().zip(&values) {
        let Some(reg) = *reg else { continue };
        if to.signed {
            let shift = 64 - 8 * to.bytes;
            warp.regs.put(
                reg,
                mask,
                &values.map(|value| ((value << shift) as i64 >> shift) as u64),
            );
        } else {
            warp.regs.put(reg, mask, values);
        }
    }
    Ok(())
}

/// The decoder has checked that the access is inside its parameter.
fn load_param(
    block: &Block<'_>,
    warp: &Warp,
    pc: usize,
    mask: u32,
    to: &Elements,
    offset: u64,
    values: &mut Values,
) -> Result<()> {
    let bytes = to.bytes * to.regs.len() as u32;
    let lane = mask.trailing_zeros() as usize;
    if !offset.is_multiple_of(u64::from(bytes)) {
        let access = Access {
            pc,
            lane,
            address: offset,
            bytes,
        };
        return Err(block.misaligned(warp, access, Space::Param));
    }
    for (i, values) in values.iter_mut().enumerate().take(to.regs.len()) {
        let start = offset as usize + i * to.bytes as usize;
        let Some(source) = block.env.params.get(start..start + to.bytes as usize) else {
            return Err(SimError::OutOfBounds {
                place: block.place(warp, pc, lane),
                space: Space::Param,
                address: offset,
                bytes,
                nearest: format!("the parameters have {} bytes", block.env.params.len()),
            });
        };
        let mut value = [0; 8];
        value[..source.len()].copy_from_slice(source);
        *values = [u64::from_le_bytes(value); LANES];
    }
    Ok(())
}

pub(super) fn st(
    block: &mut Block<'_>,
    warp: &mut Warp,
    pc: usize,
    mask: u32,
    from: &Elements,
    to: Target,
) -> Result<()> {
    let mut values: Values = [[0; LANES]; 4];
    for (reg, values) in from.regs.iter().zip(&mut values) {
        if let Some(reg) = *reg {
            *values = warp.regs.get(reg);
        }
    }
    let count = from.regs.len();
    let bytes = from.bytes * count as u32;
    let mut at = addresses(&warp.regs, to);
    let (global, shared) = split(to.space, &mut at, mask);
    for lane in lanes(global) {
        let access = Access {
            pc,
            lane,
            address: at[lane],
            bytes,
        };
        let (allocation, offset) = block.global(warp, access)?;
        block.check_global_write(warp, access, allocation, offset)?;
        for (i, values) in values.iter().enumerate().take(count) {
            allocation.store(offset + i * from.bytes as usize, from.bytes, values[lane]);
        }
    }
    block.count_global_store(pc, &at, global, bytes);
    for lane in lanes(shared) {
        let access = Access {
            pc,
            lane,
            address: at[lane],
            bytes,
        };
        let offset = block.shared(warp, access, SharedShadow::write)?;
        for (i, values) in values.iter().enumerate().take(count) {
            block.set_shared_bytes(offset + i * from.bytes as usize, from.bytes, values[lane]);
        }
    }
    block.count_shared_store(pc, &at, shared, bytes);
    Ok(())
}

/// Lanes run one after the other, in order.
pub(super) fn atom(
    block: &mut Block<'_>,
    warp: &mut Warp,
    pc: usize,
    mask: u32,
    f: Reduce,
    ty: Type,
    d: Option<Reg>,
    target: Target,
    (b, c): (Reg, Option<Reg>),
) -> Result<()> {
    let bytes = ty.bytes() as u32;
    let mut at = addresses(&warp.regs, target);
    let (global, shared) = split(target.space, &mut at, mask);
    let b = warp.regs.get(b);
    let c = c.map_or([0; LANES], |c| warp.regs.get(c));
    let mut out = [0; LANES];
    for lane in lanes(global) {
        let access = Access {
            pc,
            lane,
            address: at[lane],
            bytes,
        };
        let (allocation, offset) = block.global(warp, access)?;
        if !allocation.is_written(offset, bytes) {
            return Err(block.unwritten(warp, access));
        }
        out[lane] = allocation.update(offset, bytes, |old| combine(f, ty, old, b[lane], c[lane]));
    }
    if d.is_some() && global != 0 {
        // Its value tells this block about other blocks.
        block.fenced = true;
        block.count_global_load(pc, &at, global, bytes);
    }
    block.count_global_store(pc, &at, global, bytes);
    for lane in lanes(shared) {
        let access = Access {
            pc,
            lane,
            address: at[lane],
            bytes,
        };
        let offset = block.shared(warp, access, SharedShadow::update)?;
        out[lane] = block.shared_bytes(offset, bytes);
        let new = combine(f, ty, out[lane], b[lane], c[lane]);
        block.set_shared_bytes(offset, bytes, new);
    }
    if d.is_some() {
        block.count_shared_load(pc, &at, shared, bytes);
    }
    block.count_shared_store(pc, &at, shared, bytes);
    if let Some(d) = d {
        warp.regs.put(d, mask, &out);
    }
    Ok(())
}

/// The value that an atomic stores. `cas` compares `b` and stores `c`.
fn combine(f: Reduce, ty: Type, old: u64, b: u64, c: u64) -> u64 {
    let wide = ty.bytes() == 8;
    let cut = |value: u64| if wide { value } else { value & 0xffff_ffff };
    let float = |x: u64| f32::from_bits(x as u32);
    let signed = |x: u64| if wide { x as i64 } else { (x as i32).into() };
    let (old, b, c) = (cut(old), cut(b), cut(c));
    cut(match f {
        Reduce::Add if ty == Type::F32 => (float(old) + float(b)).to_bits().into(),
        Reduce::Add if ty == Type::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        Reduce::Add => old.wrapping_add(b),
        Reduce::Min if ty.is_signed() => signed(old).min(signed(b)) as u64,
        Reduce::Max if ty.is_signed() => signed(old).max(signed(b)) as u64,
        Reduce::Min => old.min(b),
        Reduce::Max => old.max(b),
        Reduce::And => old & b,
        Reduce::Or => old | b,
        Reduce::Xor => old ^ b,
        Reduce::Inc if old >= b => 0,
        Reduce::Inc => old + 1,
        Reduce::Dec if old == 0 || old > b => b,
        Reduce::Dec => old - 1,
        Reduce::Exch => b,
        Reduce::Cas if old == b => c,
        Reduce::Cas => old,
    })
}

/// A prefetch changes nothing, but its address must exist.
pub(super) fn prefetch(
    block: &mut Block<'_>,
    warp: &mut Warp,
    pc: usize,
    mask: u32,
    at: Target,
) -> Result<()> {
    let mut addresses = addresses(&warp.regs, at);
    let (global, shared) = split(at.space, &mut addresses, mask);
    for lane in lanes(global) {
        block.global(
            warp,
            Access {
                pc,
                lane,
                address: addresses[lane],
                bytes: 1,
            },
        )?;
    }
    for lane in lanes(shared) {
        block.shared_offset(
            warp,
            Access {
                pc,
                lane,
                address: addresses[lane],
                bytes: 1,
            },
        )?;
    }
    Ok(())
}
