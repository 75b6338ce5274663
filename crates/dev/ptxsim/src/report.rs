//! The counters of a launch.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Range};

use crate::ir::Kernel;

/// How often an instruction was executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// By warps, including warps in which its predicate is false in all lanes.
    pub warps: u64,
    /// By threads in which its predicate was true.
    pub threads: u64,
}

/// Accesses to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp instructions.
    pub requests: u64,
    /// 32-byte sectors that the requests touch.
    pub sectors: u64,
    /// Sectors that would suffice if each request's distinct bytes were adjacent. Equals `sectors` if every access is
    /// coalesced.
    pub ideal_sectors: u64,
    /// Bytes that threads requested.
    pub bytes: u64,
}

/// Accesses to shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedTraffic {
    /// Warp instructions.
    pub requests: u64,
    /// Passes of the requests over the 32 banks. 8-byte accesses go by half warps, 16-byte accesses by quarter warps,
    /// `ldmatrix` by matrices. Each of these takes one pass if there is no conflict.
    pub passes: u64,
    /// Extra passes due to bank conflicts.
    pub conflicts: u64,
    /// Bytes that threads requested.
    pub bytes: u64,
}

/// The counters of an instruction, a line, or a launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions.
    pub instructions: Count,
    /// `ld.global`, the reading half of `cp.async`, and atomics.
    pub global_load: Traffic,
    /// `st.global`, `red` and atomics.
    pub global_store: Traffic,
    /// `ld.shared`, `ldmatrix` and atomics.
    pub shared_load: SharedTraffic,
    /// `st.shared`, the writing half of `cp.async`, and atomics.
    pub shared_store: SharedTraffic,
}

/// The counters of one or several launches. Reports can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Launches in this report.
    pub launches: u64,
    /// All counters together.
    pub total: Counters,
    /// By instruction with its modifiers, such as `ld.global.v4.f32`.
    pub instructions: BTreeMap<String, Count>,
    /// By kernel and line of the source.
    pub lines: BTreeMap<(String, u32), Counters>,
}

impl Report {
    pub(crate) fn new(kernel: &Kernel, tallies: &[Counters]) -> Self {
        let mut report = Self {
            launches: 1,
            ..Self::default()
        };
        for (source, counters) in kernel.sources.iter().zip(tallies) {
            if counters.instructions.warps == 0 {
                continue;
            }
            report.total += *counters;
            *report.instructions.entry(source.text.clone()).or_default() += counters.instructions;
            *report
                .lines
                .entry((kernel.name.clone(), source.at.line))
                .or_default() += *counters;
        }
        report
    }

    /// How often instructions were executed whose name is `name` or begins with `name.`: `ld` or `ld.global`.
    pub fn count(&self, name: &str) -> Count {
        let mut sum = Count::default();
        for (text, &count) in &self.instructions {
            let rest = text.strip_prefix(name);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
                sum += count;
            }
        }
        sum
    }

    /// The counters of a range of a kernel's lines, counted from 1, such as a loop.
    pub fn within(&self, entry: &str, lines: Range<u32>) -> Counters {
        let in_range = self
            .lines
            .iter()
            .filter(|((name, line), _)| name == entry && lines.contains(line));
        in_range.map(|(_, &counters)| counters).sum()
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.warps += other.warps;
        self.threads += other.threads;
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.ideal_sectors += other.ideal_sectors;
        self.bytes += other.bytes;
    }
}

impl AddAssign for SharedTraffic {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.passes += other.passes;
        self.conflicts += other.conflicts;
        self.bytes += other.bytes;
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.instructions += other.instructions;
        self.global_load += other.global_load;
        self.global_store += other.global_store;
        self.shared_load += other.shared_load;
        self.shared_store += other.shared_store;
    }
}

impl Sum for Counters {
    fn sum<I: Iterator<Item = Self>>(counters: I) -> Self {
        counters.fold(Self::default(), |mut sum, next| {
            sum += next;
            sum
        })
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.launches += other.launches;
        self.total += other.total;
        for (text, count) in other.instructions {
            *self.instructions.entry(text).or_default() += count;
        }
        for (line, counters) in other.lines {
            *self.lines.entry(line).or_default() += counters;
        }
    }
}

impl Add for Report {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sum for Report {
    fn sum<I: Iterator<Item = Self>>(reports: I) -> Self {
        reports.fold(Self::default(), Add::add)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters {
            instructions,
            global_load,
            global_store,
            shared_load,
            shared_store,
        } = self.total;
        writeln!(
            f,
            "{} launches, {} warp instructions, {} thread instructions",
            self.launches, instructions.warps, instructions.threads
        )?;
        for (name, t) in [
            ("global loads", global_load),
            ("global stores", global_store),
        ] {
            let Traffic {
                requests,
                sectors,
                ideal_sectors,
                bytes,
            } = t;
            writeln!(
                f,
                "{name}: {requests} requests, {sectors} sectors (coalesced: {ideal_sectors}), {bytes} bytes"
            )?;
        }
        for (name, t) in [
            ("shared loads", shared_load),
            ("shared stores", shared_store),
        ] {
            let SharedTraffic {
                requests,
                passes,
                conflicts,
                bytes,
            } = t;
            writeln!(
                f,
                "{name}: {requests} requests, {passes} passes, {conflicts} bank conflicts, {bytes} bytes"
            )?;
        }
        for (text, count) in &self.instructions {
            writeln!(f, "{:>12} {text}", count.warps)?;
        }
        Ok(())
    }
}
