//! A block: runs its warps in turn, with the barriers between them.

use super::launch::Env;
use super::regs::{LANES, Regs};
use super::warp::{Frame, Wait, Warp};
use crate::check::{SharedShadow, Thread};
use crate::decode::SHARED_BASE;
use crate::error::{Place, Result, SimError};
use crate::ir::{Constant, Special};
use crate::report::Counters;

/// Instructions that a warp runs before the next warp's turn.
const SLICE: u32 = 4096;

/// The state of a running block. Each worker has one, and runs block after block in it.
pub(super) struct Block<'a> {
    pub(super) env: &'a Env<'a>,
    /// The linear index in the grid.
    pub(super) index: u32,
    pub(super) shared: Vec<u8>,
    pub(super) shadow: SharedShadow,
    /// The counters of each instruction.
    pub(super) tallies: Vec<Counters>,
    /// Whether it has synchronised with other blocks, and so may read what they wrote.
    pub(super) fenced: bool,
    /// Warp instructions that it may still run.
    pub(super) budget: u64,
    /// What draws the warps' turns, unless they run in order.
    draws: Option<Draws>,
    warps: Vec<Warp>,
}

/// The random numbers of a schedule (SplitMix64).
struct Draws(u64);

impl Draws {
    /// Each block has its own.
    fn new(seed: u64, block: u32) -> Self {
        let mut draws = Self(seed);
        Self(draws.next() ^ u64::from(block))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// One of `0..n`.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn position(linear: u32, [x, y, _]: [u32; 3]) -> [u32; 3] {
    [linear % x, linear / x % y, linear / x / y]
}

impl<'a> Block<'a> {
    pub(super) fn new(env: &'a Env<'a>) -> Self {
        let kernel = env.kernel;
        let threads = env.threads();
        let warps = (0..threads.div_ceil(32))
            .map(|index| {
                let existing = u32::MAX >> (32 - (threads - 32 * index).min(32));
                Warp::new(
                    index,
                    existing,
                    Regs::new(kernel.rows_32, kernel.rows_64, kernel.rows_pred),
                )
            })
            .collect();
        Self {
            env,
            index: 0,
            shared: vec![0; env.shared_bytes as usize],
            shadow: SharedShadow::new(env.shared_bytes as usize, kernel.shared_granule),
            tallies: vec![Counters::default(); kernel.insts.len()],
            fenced: false,
            budget: 0,
            draws: None,
            warps,
        }
    }

    pub(super) fn run(&mut self, index: u32) -> Result<()> {
        self.start(index);
        let mut warps = std::mem::take(&mut self.warps);
        let result = self.run_warps(&mut warps);
        self.warps = warps;
        result
    }

    fn start(&mut self, index: u32) {
        self.index = index;
        self.fenced = false;
        self.budget = self.env.settings.limit;
        self.draws = self
            .env
            .settings
            .schedule
            .map(|seed| Draws::new(seed, index));
        self.shadow.start_block(self.warps.len());
        // Unwritten memory must not be read; the pattern is a NaN in every float type.
        self.shared.fill(0xff);
        let mut warps = std::mem::take(&mut self.warps);
        for warp in &mut warps {
            warp.start();
            for &(reg, constant) in &self.env.kernel.constants {
                let values = self.constant(warp.index, constant);
                warp.regs.put(reg, u32::MAX, &values);
            }
        }
        self.warps = warps;
    }

    fn constant(&self, warp: u32, constant: Constant) -> [u64; LANES] {
        let Env {
            config,
            dynamic_start,
            variables,
            ..
        } = self.env;
        let same = |value: u64| [value; LANES];
        let each = |f: &dyn Fn(u32) -> u32| std::array::from_fn(|lane| u64::from(f(lane as u32)));
        let special = match constant {
            Constant::Bits(bits) => return same(bits),
            Constant::DynamicShared => return same(SHARED_BASE + dynamic_start),
            Constant::Global(offset) => return same(variables + offset),
            Constant::Special(special) => special,
        };
        match special {
            Special::Tid(axis) => {
                each(&|lane| position(32 * warp + lane, config.block)[axis as usize])
            }
            Special::Ntid(axis) => same(config.block[axis as usize].into()),
            Special::Ctaid(axis) => same(position(self.index, config.grid)[axis as usize].into()),
            Special::Nctaid(axis) => same(config.grid[axis as usize].into()),
            Special::LaneId => each(&|lane| lane),
            Special::WarpId => same(warp.into()),
            Special::Nwarpid => same(self.env.threads().div_ceil(32).into()),
            Special::LaneMaskEq => each(&|lane| 1 << lane),
            Special::LaneMaskLt => each(&|lane| (1 << lane) - 1),
            Special::LaneMaskLe => each(&|lane| u32::MAX >> (31 - lane)),
            Special::LaneMaskGt => each(&|lane| !(u32::MAX >> (31 - lane))),
            Special::LaneMaskGe => each(&|lane| u32::MAX << lane),
            Special::DynamicSmemSize => same(config.dynamic_shared.into()),
            Special::TotalSmemSize => same(self.env.shared_bytes),
        }
    }

    fn run_warps(&mut self, warps: &mut [Warp]) -> Result<()> {
        loop {
            let ran = self.run_some(warps)?;
            let released = self.release(warps)?;
            if !ran && !released {
                return match warps.iter().find_map(|warp| Some((warp, warp.wait?))) {
                    None => Ok(()),
                    Some((warp, wait)) => Err(self.deadlock(warps, warp, wait)),
                };
            }
        }
    }

    /// Gives each warp that can run its turn, or one of them if turns are drawn. Returns whether there was one.
    fn run_some(&mut self, warps: &mut [Warp]) -> Result<bool> {
        let mut ready: Vec<&mut Warp> = warps.iter_mut().filter(|warp| warp.is_ready()).collect();
        if ready.is_empty() {
            return Ok(false);
        }
        match &mut self.draws {
            None => {
                for warp in ready {
                    self.run_warp(warp, SLICE)?;
                }
            }
            Some(draws) => {
                // Mostly a few instructions, sometimes a hundred.
                let most = 1 << draws.below(8);
                let slice = 1 + draws.below(most) as u32;
                let warp = ready.swap_remove(draws.below(ready.len()));
                self.run_warp(warp, slice)?;
            }
        }
        Ok(true)
    }

    /// The number of threads waiting at a barrier, and the number it waits for. A warp counts as 32 threads, as on
    /// hardware.
    fn arrivals(&self, warps: &[Warp], barrier: u32) -> (u32, u32) {
        let waiting = warps
            .iter()
            .filter_map(|warp| warp.wait)
            .filter(|wait| wait.barrier == barrier);
        let arrived = 32 * waiting.clone().count() as u32;
        let running = 32 * warps.iter().filter(|warp| warp.live != 0).count() as u32;
        (
            arrived,
            waiting
                .filter_map(|wait| wait.count)
                .next()
                .unwrap_or(running),
        )
    }

    /// Releases the warps at complete barriers. Returns whether there were any.
    fn release(&mut self, warps: &mut [Warp]) -> Result<bool> {
        let mut any = false;
        for barrier in 0..16 {
            let (arrived, expected) = self.arrivals(warps, barrier);
            if arrived == 0 || arrived < expected {
                continue;
            }
            let members: Vec<usize> = (0..warps.len())
                .filter(|&w| warps[w].wait.is_some_and(|wait| wait.barrier == barrier))
                .collect();
            let counts_agree = {
                let first = warps[members[0]].wait.and_then(|wait| wait.count);
                members
                    .iter()
                    .all(|&w| warps[w].wait.and_then(|wait| wait.count) == first)
            };
            if arrived > expected || !counts_agree {
                let warp = &warps[members[0]];
                let wait = warp.wait.expect("a member waits");
                return Err(self.deadlock(warps, warp, wait));
            }
            self.shadow.barrier(&members);
            for w in members {
                warps[w].wait = None;
            }
            any = true;
        }
        Ok(any)
    }

    fn deadlock(&self, warps: &[Warp], warp: &Warp, wait: Wait) -> SimError {
        let (arrived, expected) = self.arrivals(warps, wait.barrier);
        let lane = warp.live.trailing_zeros() as usize;
        SimError::Deadlock {
            place: self.place(warp, wait.pc, lane),
            barrier: wait.barrier,
            arrived,
            expected,
        }
    }

    pub(super) fn thread(&self, warp: &Warp, lane: usize) -> Thread {
        Thread(32 * warp.index + lane as u32)
    }

    pub(super) fn place(&self, warp: &Warp, pc: usize, lane: usize) -> Box<Place> {
        let kernel = self.env.kernel;
        let source = &kernel.sources[pc];
        Box::new(Place {
            entry: kernel.name.clone(),
            line: source.at.line,
            instruction: source.text.clone(),
            block: position(self.index, self.env.config.grid),
            thread: position(32 * warp.index + lane as u32, self.env.config.block),
        })
    }
}

/// The first frame of a warp: no path continues after it.
pub(super) fn first_frame(mask: u32) -> Frame {
    Frame {
        pc: 0,
        meets: u32::MAX,
        mask,
        parked: false,
    }
}
