//! A warp: its lanes in lockstep, and a stack of diverging paths.
//!
//! A divergent branch pushes a frame for each path. A path ends where the paths meet again, at the immediate
//! post-dominator of the branch. The frame below then continues from there with all lanes.

use super::block::{Block, first_frame};
use super::collective;
use super::convert::{cvt, cvt_pair};
use super::copy::Copying;
use super::float::{float1, float2, fma};
use super::half::half;
use super::integer::{bfi, int1, int2, int3, lop3, prmt, shf};
use super::regs::{LANES, Regs, lanes};
use super::{matrix, memory};
use crate::decode::SHARED_WINDOW;
use crate::error::{Result, SimError, Space};
use crate::ir::{Op, PredSource, Reg};

#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) pc: u32,
    /// Where this path ends.
    pub(super) meets: u32,
    pub(super) mask: u32,
    /// Whether it waits at a barrier for paths that may still exit.
    pub(super) parked: bool,
}

/// The state of a warp waiting at a barrier.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    pub(super) barrier: u32,
    pub(super) count: Option<u32>,
    pub(super) pc: usize,
}

pub(super) struct Warp {
    pub(super) index: u32,
    pub(super) regs: Regs,
    /// Lanes that have a thread.
    existing: u32,
    /// Lanes that have not exited.
    pub(super) live: u32,
    stack: Vec<Frame>,
    pub(super) wait: Option<Wait>,
    /// The pending `cp.async` copies, and for each lane the number of groups that it has committed.
    pub(super) copies: Vec<Copying>,
    pub(super) groups: [u32; LANES],
    /// The allocation used last.
    pub(super) hint: usize,
}

impl Warp {
    pub(super) fn new(index: u32, existing: u32, regs: Regs) -> Self {
        Self {
            index,
            regs,
            existing,
            live: 0,
            stack: Vec::new(),
            wait: None,
            copies: Vec::new(),
            groups: [0; LANES],
            hint: 0,
        }
    }

    pub(super) fn start(&mut self) {
        self.regs.forget();
        self.live = self.existing;
        self.stack.clear();
        self.stack.push(first_frame(self.existing));
        self.wait = None;
        self.copies.clear();
        self.groups = [0; LANES];
    }

    pub(super) fn is_ready(&self) -> bool {
        self.live != 0 && self.wait.is_none()
    }

    fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        for frame in &mut self.stack {
            frame.mask &= !mask;
        }
        while self.stack.last().is_some_and(|frame| frame.mask == 0) {
            self.stack.pop();
        }
    }

    fn branch(&mut self, taken: u32, target: u32, meets: u32) {
        let top = self.stack.last_mut().expect("a running warp has a frame");
        let others = top.mask & !taken;
        if others == 0 {
            top.pc = target;
            return;
        }
        let next = top.pc;
        let ends = top.meets;
        // A path that ends where the path below ends replaces it.
        let meets = if meets == ends {
            self.stack.pop();
            ends
        } else {
            top.pc = meets;
            meets
        };
        self.stack.push(Frame {
            pc: next,
            meets,
            mask: others,
            parked: false,
        });
        self.stack.push(Frame {
            pc: target,
            meets,
            mask: taken,
            parked: false,
        });
    }
}

impl Warp {
    /// If a path reaches a barrier before others, lets those continue first that do not meet it again: they may exit,
    /// and the barrier does not wait for exited threads. Returns whether there is one.
    fn park(&mut self, pc: usize, end: u32) -> bool {
        let last = self.stack.len() - 1;
        if self.stack[last].meets != end {
            return false;
        }
        self.stack[last].pc = pc as u32;
        self.stack[last].parked = true;
        let siblings = self.stack[..last]
            .iter()
            .rev()
            .take_while(|frame| frame.meets == end && frame.pc < end);
        match siblings.enumerate().find(|(_, frame)| !frame.parked) {
            Some((i, _)) => {
                self.stack.swap(last - 1 - i, last);
                true
            }
            None => false,
        }
    }
}

impl Block<'_> {
    /// Runs a warp until it waits, ends, or has run `slice` instructions.
    pub(super) fn run_warp(&mut self, warp: &mut Warp, slice: u32) -> Result<()> {
        let kernel = self.env.kernel;
        for _ in 0..slice {
            let Some(top) = warp.stack.last_mut() else {
                return Ok(());
            };
            if top.pc == top.meets || top.mask == 0 {
                warp.stack.pop();
                continue;
            }
            let pc = top.pc as usize;
            let active = top.mask;
            top.pc += 1;
            if self.budget == 0 {
                let lane = active.trailing_zeros() as usize;
                return Err(SimError::InstructionLimit {
                    place: self.place(warp, pc, lane),
                    limit: self.env.settings.limit,
                });
            }
            self.budget -= 1;
            let inst = &kernel.insts[pc];
            let mut mask = active;
            if let Some(guard) = inst.guard {
                mask &= warp.regs.predicate(PredSource {
                    row: guard.row,
                    negated: guard.negated,
                });
            }
            for &reg in &inst.reads {
                // All lanes read the guard; the lanes that it lets through read the operands.
                let is_guard = inst.guard.is_some_and(|guard| reg == Reg::Pred(guard.row));
                let missing = if is_guard { active } else { mask } & !warp.regs.written(reg);
                if missing != 0 {
                    let place = self.place(warp, pc, missing.trailing_zeros() as usize);
                    return Err(SimError::UninitialisedRegister {
                        place,
                        register: kernel.register_name(reg),
                    });
                }
            }
            let tally = &mut self.tallies[pc].instructions;
            tally.warps += 1;
            tally.threads += u64::from(mask.count_ones());
            if mask == 0 {
                continue;
            }
            match &inst.op {
                Op::Bra { target, uniform } => {
                    if *uniform && mask != active {
                        let place = self.place(warp, pc, mask.trailing_zeros() as usize);
                        let message = "bra.uni, but only some lanes take it".into();
                        return Err(SimError::Undefined { place, message });
                    }
                    warp.branch(mask, *target, inst.meets);
                }
                Op::Exit => {
                    warp.exit(mask);
                    if warp.live == 0 {
                        return Ok(());
                    }
                }
                Op::Barrier { id, count } => {
                    self.arrive(warp, pc, mask, *id, *count)?;
                    return Ok(());
                }
                op => self.execute(warp, pc, mask, op)?,
            }
        }
        Ok(())
    }

    fn arrive(
        &mut self,
        warp: &mut Warp,
        pc: usize,
        mask: u32,
        id: u16,
        count: Option<u16>,
    ) -> Result<()> {
        let lane = mask.trailing_zeros() as usize;
        if mask != warp.live {
            let place = self.place(warp, pc, lane);
            if warp.park(pc, self.env.kernel.insts.len() as u32) {
                let tally = &mut self.tallies[pc].instructions;
                tally.warps -= 1;
                tally.threads -= u64::from(mask.count_ones());
                return Ok(());
            }
            return Err(SimError::DivergentBarrier {
                place,
                active: mask,
                live: warp.live,
            });
        }
        if let Some(frame) = warp.stack.last_mut() {
            frame.parked = false;
        }
        let undefined = |message: String| SimError::Undefined {
            place: self.place(warp, pc, lane),
            message,
        };
        let value = |row: u16| {
            let values = &warp.regs.b32[row as usize];
            let same = lanes(mask).all(|l| values[l] == values[lane]);
            same.then_some(values[lane])
                .ok_or_else(|| undefined("the lanes name different barriers".into()))
        };
        let barrier = value(id)?;
        let count = count.map(value).transpose()?;
        if barrier > 15 {
            return Err(undefined(format!(
                "barrier {barrier} does not exist: there are 0 to 15"
            )));
        }
        if let Some(count) = count
            && (count == 0 || count % 32 != 0 || count > self.env.threads().next_multiple_of(32))
        {
            return Err(undefined(format!(
                "{count} threads cannot meet at a barrier of this block"
            )));
        }
        warp.wait = Some(Wait { barrier, count, pc });
        Ok(())
    }

    fn execute(&mut self, warp: &mut Warp, pc: usize, mask: u32, op: &Op) -> Result<()> {
        let regs = &mut warp.regs;
        match op {
            Op::Mov { d: Reg::B32(d), a } => {
                let value = regs.b32[a.row() as usize];
                regs.put_32(*d, mask, &value);
            }
            Op::Mov { d, a } => {
                let value = regs.b64[a.row() as usize];
                regs.put_64(d.row(), mask, &value);
            }
            Op::MovPred { d, a } => {
                let value = regs.predicate(*a);
                regs.put_pred(*d, mask, value);
            }
            Op::Pack { d, parts, bits } => {
                let mut out = [0; LANES];
                for (i, &part) in parts.iter().enumerate() {
                    let values = regs.get(part);
                    for (out, value) in out.iter_mut().zip(values) {
                        *out |= (value & ((1 << bits) - 1)) << (i as u32 * bits);
                    }
                }
                regs.put(*d, mask, &out);
            }
            Op::Unpack { d, a, bits } => {
                let values = regs.get(*a);
                for (i, d) in d.iter().enumerate() {
                    if let Some(d) = *d {
                        regs.put(
                            d,
                            mask,
                            &values.map(|value| value >> (i as u32 * bits) & ((1 << bits) - 1)),
                        );
                    }
                }
            }
            Op::Int1 { f, ty, d, a } => int1(regs, mask, *f, *ty, *d, *a),
            Op::Int2 { f, ty, d, a, b } => int2(regs, mask, *f, *ty, *d, (*a, *b)),
            Op::Int3 { f, ty, d, a, b, c } => int3(regs, mask, *f, *ty, *d, (*a, *b, *c)),
            Op::Bfi {
                wide,
                d,
                a,
                b,
                position,
                length,
            } => bfi(regs, mask, *wide, *d, [*a, *b, *position, *length]),
            Op::Prmt { mode, d, a, b, c } => prmt(regs, mask, *mode, *d, (*a, *b, *c)),
            Op::Lop3 { table, d, a, b, c } => lop3(regs, mask, *table, *d, (*a, *b, *c)),
            Op::Shf {
                left,
                clamp,
                d,
                a,
                b,
                c,
            } => shf(regs, mask, *left, *clamp, *d, (*a, *b, *c)),
            Op::Float1 {
                f,
                wide,
                mode,
                d,
                a,
            } => float1(regs, mask, *f, *wide, *mode, *d, *a),
            Op::Float2 {
                f,
                wide,
                mode,
                d,
                a,
                b,
            } => float2(regs, mask, *f, *wide, *mode, *d, (*a, *b)),
            Op::Fma {
                wide,
                mode,
                d,
                a,
                b,
                c,
            } => fma(regs, mask, *wide, *mode, *d, (*a, *b, *c)),
            Op::Half {
                f,
                mode,
                d,
                a,
                b,
                c,
            } => half(regs, mask, *f, *mode, *d, (*a, *b, *c)),
            Op::Logic { f, d, a, b } => {
                let value = collective::logic(*f, regs.predicate(*a), regs.predicate(*b));
                regs.put_pred(*d, mask, value);
            }
            Op::Setp {
                f,
                ty,
                ftz,
                d,
                not_d,
                a,
                b,
                combine,
            } => {
                let holds = collective::compare(regs, *f, *ty, *ftz, *a, *b);
                collective::put_comparison(regs, mask, holds, *d, *not_d, *combine);
            }
            Op::Set {
                f,
                ty,
                ftz,
                float,
                d,
                a,
                b,
                combine,
            } => {
                let mut holds = collective::compare(regs, *f, *ty, *ftz, *a, *b);
                if let Some((logic, source)) = *combine {
                    holds = collective::logic(logic, holds, regs.predicate(source));
                }
                let yes = if *float { 1f32.to_bits() } else { u32::MAX };
                let out = std::array::from_fn(|lane| if holds >> lane & 1 == 1 { yes } else { 0 });
                regs.put_32(*d, mask, &out);
            }
            Op::Selp { d, a, b, c } => {
                let choice = regs.predicate(*c);
                collective::select(regs, mask, *d, *a, *b, choice);
            }
            Op::Slct {
                d,
                a,
                b,
                c,
                float,
                ftz,
            } => {
                let choice = collective::not_negative(regs, *c, *float, *ftz);
                collective::select(regs, mask, *d, *a, *b, choice);
            }
            Op::Cvt { how, d, a } => cvt(regs, mask, *how, *d, *a),
            Op::CvtPair { how, d, high, low } => cvt_pair(regs, mask, *how, *d, (*high, *low)),
            Op::Cvta {
                space,
                to_space,
                d,
                a,
            } => {
                let delta = if *space == Space::Shared {
                    SHARED_WINDOW
                } else {
                    0
                };
                let delta = if *to_space {
                    delta.wrapping_neg()
                } else {
                    delta
                };
                let out = regs.b64[*a as usize].map(|address| address.wrapping_add(delta));
                regs.put_64(*d, mask, &out);
            }
            Op::ActiveMask { d } => regs.put_32(*d, mask, &[mask; LANES]),
            Op::Fence { global } => self.fenced |= global,
            Op::WarpSync { .. }
            | Op::Shfl { .. }
            | Op::Vote { .. }
            | Op::MatchAny { .. }
            | Op::Redux { .. } => return collective::collective(self, warp, pc, mask, op),
            Op::Ld { to, from } => return memory::ld(self, warp, pc, mask, to, *from),
            Op::St { from, to } => return memory::st(self, warp, pc, mask, from, *to),
            Op::Atom { f, ty, d, at, b, c } => {
                return memory::atom(self, warp, pc, mask, *f, *ty, *d, *at, (*b, *c));
            }
            Op::Prefetch { at } => return memory::prefetch(self, warp, pc, mask, *at),
            Op::CpAsync { .. } => return super::copy::start(self, warp, pc, mask, op),
            Op::CpAsyncCommit => super::copy::commit(warp, mask),
            Op::CpAsyncWait { groups } => super::copy::wait(self, warp, mask, *groups),
            Op::LdMatrix { d, transpose, from } => {
                return matrix::ldmatrix(self, warp, pc, mask, d, *transpose, *from);
            }
            Op::Mma(mma) => return matrix::mma(self, warp, pc, mask, mma),
            Op::Bra { .. } | Op::Exit | Op::Barrier { .. } => {
                unreachable!("run_warp handles control flow")
            }
        }
        Ok(())
    }
}
