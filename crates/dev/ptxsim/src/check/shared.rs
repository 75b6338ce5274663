//! Shared memory: which bytes are written, and which accesses no barrier orders.
//!
//! Every warp has a clock for every warp: the time up to which that warp's accesses are known to precede its own. A
//! barrier joins the clocks of the warps that take part; `bar.warp.sync` advances a warp's own clock. An access is
//! stamped with its warp's own clock. It precedes another access if the other warp's clock for it is later than the
//! stamp. These are vector clocks (Flanagan and Freund, "FastTrack", PLDI 2009), with warps as threads.

const NOBODY: u16 = u16::MAX;
const MANY: u16 = u16::MAX - 1;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Atomic,
    /// A `cp.async` that its thread has not waited for.
    Copying,
}

/// The last accesses to a granule.
#[derive(Clone, Copy)]
struct Cell {
    write_time: u32,
    read_time: u32,
    /// The warps that have read, if there are several.
    read_warps: u32,
    writer: u16,
    reader: u16,
    kind: Kind,
}

const UNTOUCHED: Cell = Cell {
    write_time: 0,
    read_time: 0,
    read_warps: 0,
    writer: NOBODY,
    reader: NOBODY,
    kind: Kind::Plain,
};

/// A thread of the block, by its linear index.
#[derive(Clone, Copy)]
pub(crate) struct Thread(pub(crate) u32);

impl Thread {
    fn id(self) -> u16 {
        self.0 as u16
    }

    fn warp(self) -> usize {
        self.0 as usize / 32
    }

    fn lane(self) -> usize {
        self.0 as usize % 32
    }
}

/// Why an access is wrong.
pub(crate) enum Clash {
    Unwritten {
        offset: usize,
    },
    Race {
        offset: usize,
        other: u32,
        did: &'static str,
    },
    Copying {
        offset: usize,
        issuer: u32,
    },
}

/// Granules are as large as the kernel's smallest access, and accesses are aligned, so each access covers whole
/// granules.
pub(crate) struct SharedShadow {
    /// The base-2 logarithm of a granule's bytes.
    granule: u32,
    cells: Vec<Cell>,
    warps: usize,
    /// `clocks[w * warps + v]`: what warp w knows of warp v.
    clocks: Vec<u32>,
    /// Advances with every barrier and is never reset: anything older than a block's start precedes the block.
    now: u32,
    start: u32,
    /// For a warp that synchronised only some of its lanes: what each lane knows of each other lane.
    lanes: Vec<Option<Box<[[u32; 32]; 32]>>>,
}

impl SharedShadow {
    pub(crate) fn new(bytes: usize, granule: u32) -> Self {
        Self {
            granule: granule.trailing_zeros(),
            cells: vec![UNTOUCHED; bytes.div_ceil(granule as usize)],
            warps: 0,
            clocks: Vec::new(),
            now: 0,
            start: 0,
            lanes: Vec::new(),
        }
    }

    /// Forgets everything, for the next block.
    pub(crate) fn start_block(&mut self, warps: usize) {
        if self.now > u32::MAX / 2 {
            self.cells.fill(UNTOUCHED);
            self.now = 0;
        }
        self.now += 1;
        self.start = self.now;
        self.warps = warps;
        self.clocks.clear();
        self.clocks.resize(warps * warps, self.now);
        self.lanes.clear();
        self.lanes.resize(warps, None);
    }

    /// The current time of a thread.
    fn stamp(&self, thread: Thread) -> u32 {
        let warp = thread.warp();
        let own = self.clocks[warp * self.warps + warp];
        match &self.lanes[warp] {
            Some(known) => own.max(known[thread.lane()][thread.lane()]),
            None => own,
        }
    }

    /// Whether an access of `before` at `time` precedes what `thread` does now.
    fn is_ordered(&self, thread: Thread, before: u16, time: u32) -> bool {
        let before = Thread(before.into());
        let (warp, other) = (thread.warp(), before.warp());
        self.clocks[warp * self.warps + other] > time
            || warp == other
                && self.lanes[warp]
                    .as_ref()
                    .is_some_and(|known| known[thread.lane()][before.lane()] > time)
    }

    fn readers_are_ordered(&self, thread: Thread, cell: &Cell) -> bool {
        let warp = thread.warp();
        (0..self.warps)
            .filter(|v| cell.read_warps >> v & 1 == 1)
            .all(|v| self.clocks[warp * self.warps + v] > cell.read_time)
    }

    /// All lanes of these warps passed a barrier together.
    pub(crate) fn barrier(&mut self, warps: &[usize]) {
        self.now += 1;
        let n = self.warps;
        for v in 0..n {
            let known = warps
                .iter()
                .map(|&w| self.clocks[w * n + v])
                .max()
                .unwrap_or(0);
            for &w in warps {
                self.clocks[w * n + v] = known;
            }
        }
        for &w in warps {
            for &v in warps {
                self.clocks[w * n + v] = self.now;
            }
        }
    }

    /// These lanes of a warp passed `bar.warp.sync` together. `all`: they are all running lanes.
    pub(crate) fn warp_barrier(&mut self, warp: usize, mask: u32, all: bool) {
        self.now += 1;
        if all {
            self.clocks[warp * self.warps + warp] = self.now;
            return;
        }
        // Lanes outside the mask learn nothing, so the warp's own clock stays.
        let known = self.lanes[warp].get_or_insert_with(|| Box::new([[0; 32]; 32]));
        for a in (0..32).filter(|a| mask >> a & 1 == 1) {
            for b in (0..32).filter(|b| mask >> b & 1 == 1) {
                known[a][b] = self.now;
            }
        }
    }

    fn cells_of(&self, offset: usize, bytes: usize) -> std::ops::Range<usize> {
        offset >> self.granule..(offset + bytes) >> self.granule
    }

    /// Checks a read of `bytes` at `offset`, and records it.
    pub(crate) fn read(
        &mut self,
        thread: Thread,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Clash> {
        let stamp = self.stamp(thread);
        let warp_bit = 1 << thread.warp();
        for i in self.cells_of(offset, bytes) {
            let cell = self.cells[i];
            self.check_writer(thread, &cell, i, false)?;
            let known = cell.read_time == stamp
                && (cell.reader == thread.id()
                    || cell.reader == MANY && cell.read_warps & warp_bit != 0);
            if !known {
                self.note_read(thread, i, stamp, warp_bit);
            }
        }
        Ok(())
    }

    fn note_read(&mut self, thread: Thread, i: usize, stamp: u32, warp_bit: u32) {
        let cell = self.cells[i];
        let replaces = match cell.reader {
            NOBODY => true,
            MANY => self.readers_are_ordered(thread, &cell),
            reader => reader == thread.id() || self.is_ordered(thread, reader, cell.read_time),
        };
        let cell = &mut self.cells[i];
        if replaces {
            cell.reader = thread.id();
            cell.read_warps = warp_bit;
        } else {
            cell.reader = MANY;
            cell.read_warps |= warp_bit;
        }
        cell.read_time = stamp;
    }

    /// Checks a read by all lanes of a warp together (`ldmatrix`), and records it.
    pub(crate) fn read_by_warp(
        &mut self,
        warp: usize,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Clash> {
        let first = Thread(32 * warp as u32);
        let stamp = self.stamp(first);
        let warp_bit = 1 << warp;
        for i in self.cells_of(offset, bytes) {
            let cell = self.cells[i];
            // A lane of the warp wrote it, so the other lanes need bar.warp.sync.
            let own = cell.writer / 32 == warp as u16 && cell.write_time >= self.start;
            if own
                && cell.kind != Kind::Copying
                && cell.write_time >= self.clocks[warp * self.warps + warp]
            {
                return Err(Clash::Race {
                    offset: i << self.granule,
                    other: cell.writer.into(),
                    did: "wrote",
                });
            }
            self.check_writer(first, &cell, i, false)?;
            if cell.read_time != stamp || cell.read_warps & warp_bit == 0 || cell.reader != MANY {
                self.note_read(first, i, stamp, warp_bit);
                self.cells[i].reader = MANY;
            }
        }
        Ok(())
    }

    /// Checks that something has been written, and that the last write precedes `thread`'s access.
    #[inline]
    fn check_writer(
        &self,
        thread: Thread,
        cell: &Cell,
        i: usize,
        atomic: bool,
    ) -> Result<(), Clash> {
        if cell.write_time < self.start {
            return Err(Clash::Unwritten {
                offset: i << self.granule,
            });
        }
        if cell.kind == Kind::Copying {
            return Err(Clash::Copying {
                offset: i << self.granule,
                issuer: cell.writer.into(),
            });
        }
        let fine = cell.writer == thread.id()
            || self.is_ordered(thread, cell.writer, cell.write_time)
            || atomic && cell.kind == Kind::Atomic;
        if fine {
            return Ok(());
        }
        Err(Clash::Race {
            offset: i << self.granule,
            other: cell.writer.into(),
            did: "wrote",
        })
    }

    fn modify(
        &mut self,
        thread: Thread,
        offset: usize,
        bytes: usize,
        kind: Kind,
    ) -> Result<(), Clash> {
        let stamp = self.stamp(thread);
        for i in self.cells_of(offset, bytes) {
            let cell = self.cells[i];
            match self.check_writer(thread, &cell, i, kind == Kind::Atomic) {
                Ok(()) => {}
                // Of all writes, only an update needs an earlier value.
                Err(Clash::Unwritten { .. }) if kind != Kind::Atomic => {}
                Err(clash) => return Err(clash),
            }
            let fine = cell.read_time < self.start
                || match cell.reader {
                    NOBODY => true,
                    MANY => self.readers_are_ordered(thread, &cell),
                    reader => {
                        reader == thread.id() || self.is_ordered(thread, reader, cell.read_time)
                    }
                };
            if !fine {
                let first = cell.read_warps.trailing_zeros() * 32;
                let other = if cell.reader == MANY {
                    first
                } else {
                    cell.reader.into()
                };
                return Err(Clash::Race {
                    offset: i << self.granule,
                    other,
                    did: "read",
                });
            }
            self.cells[i] = Cell {
                write_time: stamp,
                writer: thread.id(),
                kind,
                reader: NOBODY,
                read_warps: 0,
                read_time: 0,
            };
        }
        Ok(())
    }

    /// Checks a write, and records it.
    pub(crate) fn write(
        &mut self,
        thread: Thread,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Clash> {
        self.modify(thread, offset, bytes, Kind::Plain)
    }

    /// Checks an atomic update, and records it. Two updates are not a race.
    pub(crate) fn update(
        &mut self,
        thread: Thread,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Clash> {
        self.modify(thread, offset, bytes, Kind::Atomic)
    }

    /// Checks the write of a `cp.async`. It may happen at any time until [`SharedShadow::finish_copy`].
    pub(crate) fn start_copy(
        &mut self,
        thread: Thread,
        offset: usize,
        bytes: usize,
    ) -> Result<(), Clash> {
        self.modify(thread, offset, bytes, Kind::Copying)
    }

    /// The thread has waited for the copy. It sees the bytes now; other threads see them after a barrier.
    pub(crate) fn finish_copy(&mut self, thread: Thread, offset: usize, bytes: usize) {
        let stamp = self.stamp(thread);
        for i in self.cells_of(offset, bytes) {
            let cell = &mut self.cells[i];
            if cell.kind == Kind::Copying && cell.writer == thread.id() {
                cell.kind = Kind::Plain;
                cell.write_time = stamp;
            }
        }
    }
}
