//! Device memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::check::{BlockRaces, SMALLEST};
use crate::error::{Result, SimError};
use crate::exec::{self, Arg, Config, Settings, TensorCores};
use crate::module::Module;
use crate::report::Report;

/// Where device memory starts.
const BASE: u64 = 0x7f00_0000_0000;
/// Allocations start at multiples of this.
const ALIGN: u64 = 256;
/// Addresses between two allocations, so that an index that is off by some rows does not hit the next one.
const GAP: u64 = 1 << 24;
/// Warp instructions that a block may run by default.
const INSTRUCTION_LIMIT: u64 = 1 << 28;

/// A simulated GPU: its memory, and the launches on it.
#[derive(Debug)]
pub struct Gpu {
    allocations: BTreeMap<u64, Allocation>,
    next: u64,
    used: u64,
    capacity: u64,
    settings: Settings,
    launches: u32,
    /// Where each module's variables are.
    variables: HashMap<u64, u64>,
}

/// One allocation. Blocks run in parallel, so words are atomic. Accesses are relaxed; [`BlockRaces`] detects races
/// between blocks.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) bytes: u64,
    words: Box<[AtomicU32]>,
    /// For each word, one bit per byte: whether it has been written.
    written: Box<[AtomicU8]>,
    races: OnceLock<BlockRaces>,
}

impl Allocation {
    fn new(base: u64, bytes: u64) -> Self {
        let words = bytes.div_ceil(4) as usize;
        Self {
            base,
            bytes,
            // A pattern that is a NaN in f32, bf16 and f16, for people who look at it in a debugger.
            words: (0..words).map(|_| AtomicU32::new(0xfff7_fff7)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
            races: OnceLock::new(),
        }
    }

    pub(crate) fn holds(&self, address: u64, bytes: u64) -> bool {
        address
            .checked_sub(self.base)
            .is_some_and(|offset| offset + bytes <= self.bytes)
    }

    pub(crate) fn races(&self) -> &BlockRaces {
        self.races
            .get_or_init(|| BlockRaces::new(4 / SMALLEST as usize * self.words.len()))
    }

    /// The `bytes` (1, 2, 4 or 8, aligned) at `offset`.
    pub(crate) fn load(&self, offset: usize, bytes: u32) -> u64 {
        let word = self.words[offset / 4].load(Relaxed);
        match bytes {
            4 => word.into(),
            8 => u64::from(word) | u64::from(self.words[offset / 4 + 1].load(Relaxed)) << 32,
            2 => u64::from((word >> (8 * (offset % 4))) & 0xffff),
            _ => u64::from((word >> (8 * (offset % 4))) & 0xff),
        }
    }

    /// Whether those bytes have been written.
    pub(crate) fn is_written(&self, offset: usize, bytes: u32) -> bool {
        let bits = self.written[offset / 4].load(Relaxed);
        match bytes {
            4 => bits == 15,
            8 => bits & self.written[offset / 4 + 1].load(Relaxed) == 15,
            _ => {
                let wanted = ((1 << bytes) - 1) << (offset % 4);
                bits & wanted == wanted
            }
        }
    }

    pub(crate) fn store(&self, offset: usize, bytes: u32, value: u64) {
        let word = offset / 4;
        match bytes {
            4 => self.store_word(word, value as u32),
            8 => {
                self.store_word(word, value as u32);
                self.store_word(word + 1, (value >> 32) as u32);
            }
            _ => {
                let shift = 8 * (offset % 4);
                let mask = ((1u32 << (8 * bytes)) - 1) << shift;
                let value = (value as u32) << shift & mask;
                // Another block may write the word's other half at the same time.
                let _ = self.words[word]
                    .fetch_update(Relaxed, Relaxed, |old| Some(old & !mask | value));
                self.written[word].fetch_or(((1 << bytes) - 1) << (offset % 4), Relaxed);
            }
        }
    }

    /// Replaces the value at `offset` with `f` of it, and returns the old value. 4 bytes change atomically; blocks that
    /// update 8 bytes run one after the other.
    pub(crate) fn update(&self, offset: usize, bytes: u32, f: impl Fn(u64) -> u64) -> u64 {
        if bytes == 8 {
            let old = self.load(offset, 8);
            self.store(offset, 8, f(old));
            return old;
        }
        let change = |old| Some(f(u64::from(old)) as u32);
        let old = self.words[offset / 4].fetch_update(Relaxed, Relaxed, change);
        old.unwrap_or_else(|old| old).into()
    }

    fn store_word(&self, word: usize, value: u32) {
        self.words[word].store(value, Relaxed);
        self.written[word].store(15, Relaxed);
    }

    fn write_bytes(&mut self, offset: usize, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = if at.is_multiple_of(4) && rest.len() >= 4 {
                4
            } else {
                1
            };
            let (now, later) = rest.split_at(n);
            let mut value = [0; 8];
            value[..n].copy_from_slice(now);
            self.store(at, n as u32, u64::from_le_bytes(value));
            at += n;
            rest = later;
        }
    }

    /// Fills `bytes`; an error is the first unwritten place.
    fn read_bytes(&self, offset: usize, bytes: &mut [u8]) -> std::result::Result<(), usize> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let is_word = at.is_multiple_of(4) && rest.len() >= 4 && self.is_written(at, 4);
            let n = if is_word { 4 } else { 1 };
            if !self.is_written(at, n as u32) {
                return Err(at);
            }
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&self.load(at, n as u32).to_le_bytes()[..n]);
            at += n;
            rest = later;
        }
        Ok(())
    }
}

impl Default for Gpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Gpu {
    /// A GPU without a memory limit.
    pub fn new() -> Self {
        Self::with_memory(1 << 40)
    }

    /// A GPU with `capacity` bytes of memory.
    pub fn with_memory(capacity: u64) -> Self {
        Self {
            allocations: BTreeMap::new(),
            next: BASE,
            used: 0,
            capacity,
            settings: Settings {
                limit: INSTRUCTION_LIMIT,
                schedule: None,
                tensor_cores: TensorCores::default(),
            },
            launches: 0,
            variables: HashMap::new(),
        }
    }

    /// Sets how many warp instructions a block may run before its launch fails. This guards against endless loops.
    pub fn set_instruction_limit(&mut self, limit: u64) {
        self.settings.limit = limit;
    }

    /// Lets warps take turns whose order and lengths are drawn from `seed`, anew for each block. By default they run in
    /// order, each until it waits. What a kernel computes must not depend on it.
    pub fn set_schedule(&mut self, seed: u64) {
        self.settings.schedule = Some(seed);
    }

    /// Sets how `mma.sync` rounds.
    pub fn set_tensor_cores(&mut self, tensor_cores: TensorCores) {
        self.settings.tensor_cores = tensor_cores;
    }

    /// How `mma.sync` rounds.
    pub fn tensor_cores(&self) -> TensorCores {
        self.settings.tensor_cores
    }

    /// The bytes in use, and all bytes.
    pub fn memory(&self) -> (u64, u64) {
        (self.used, self.capacity)
    }

    /// Allocates `bytes` of memory, aligned to 256 bytes. Reading it before it is written is an error. Addresses are
    /// never reused, so uses of freed memory are detected.
    ///
    /// # Errors
    ///
    /// The capacity is used up.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64> {
        if bytes > self.capacity - self.used {
            return Err(SimError::OutOfMemory {
                asked: bytes,
                used: self.used,
                capacity: self.capacity,
            });
        }
        let base = self.next;
        self.next += bytes.next_multiple_of(ALIGN) + GAP;
        self.used += bytes;
        self.allocations.insert(base, Allocation::new(base, bytes));
        Ok(base)
    }

    /// Frees memory from [`Gpu::alloc`].
    ///
    /// # Errors
    ///
    /// `address` is not the start of an allocation.
    pub fn free(&mut self, address: u64) -> Result<()> {
        let freed = self
            .allocations
            .remove(&address)
            .ok_or(SimError::BadPointer { address, bytes: 0 })?;
        self.used -= freed.bytes;
        Ok(())
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    ///
    /// The range is not inside one allocation.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let allocation = self.find_mut(address, bytes.len() as u64)?;
        allocation.write_bytes((address - allocation.base) as usize, bytes);
        Ok(())
    }

    /// Copies bytes from the device.
    ///
    /// # Errors
    ///
    /// The range is not inside one allocation, or some of it is unwritten.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        let allocation = self.find(address, bytes.len() as u64)?;
        let start = (address - allocation.base) as usize;
        allocation
            .read_bytes(start, bytes)
            .map_err(|at| SimError::UninitialisedCopy {
                address: allocation.base + at as u64,
            })
    }

    /// Copies `bytes` from one place on the device to another; unwritten bytes stay unwritten.
    ///
    /// # Errors
    ///
    /// A range is not inside one allocation.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<()> {
        let source = self.find(from, bytes)?;
        let start = (from - source.base) as usize;
        let content: Vec<Option<u8>> = (start..start + bytes as usize)
            .map(|at| source.is_written(at, 1).then(|| source.load(at, 1) as u8))
            .collect();
        let target = self.find_mut(to, bytes)?;
        let start = (to - target.base) as usize;
        for (i, byte) in content.into_iter().enumerate() {
            match byte {
                Some(byte) => target.store(start + i, 1, byte.into()),
                None => {
                    target.written[(start + i) / 4].fetch_and(!(1 << ((start + i) % 4)), Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    ///
    /// The arguments or sizes do not fit the kernel, or the kernel does something forbidden: see [`SimError`]. If
    /// several blocks fail, the error of the first of them is returned.
    pub fn launch(
        &mut self,
        module: &Module,
        entry: &str,
        config: &Config,
        args: &[Arg],
    ) -> Result<Report> {
        let kernel = module.kernel(entry)?;
        let variables = self.module_variables(module)?;
        self.launches += 1;
        let memory = Memory::new(&self.allocations, self.launches);
        exec::launch(kernel, &memory, variables, config, args, self.settings)
    }

    /// The address of the module's variables. They are allocated at the module's first launch.
    fn module_variables(&mut self, module: &Module) -> Result<u64> {
        if let Some(&address) = self.variables.get(&module.id()) {
            return Ok(address);
        }
        let data = module.data();
        if data.is_empty() {
            return Ok(0);
        }
        let address = self.alloc(data.len() as u64)?;
        self.write(address, data)?;
        self.variables.insert(module.id(), address);
        Ok(address)
    }

    fn find(&self, address: u64, bytes: u64) -> Result<&Allocation> {
        let below = self.allocations.range(..=address).next_back();
        below
            .map(|(_, a)| a)
            .filter(|a| a.holds(address, bytes))
            .ok_or(SimError::BadPointer { address, bytes })
    }

    fn find_mut(&mut self, address: u64, bytes: u64) -> Result<&mut Allocation> {
        let below = self.allocations.range_mut(..=address).next_back();
        below
            .map(|(_, a)| a)
            .filter(|a| a.holds(address, bytes))
            .ok_or(SimError::BadPointer { address, bytes })
    }
}

/// Device memory, as a launch sees it.
pub(crate) struct Memory<'a> {
    bases: Vec<u64>,
    allocations: Vec<&'a Allocation>,
    /// The number of the launch, to distinguish its accesses from older ones.
    pub(crate) launch: u32,
}

impl<'a> Memory<'a> {
    fn new(allocations: &'a BTreeMap<u64, Allocation>, launch: u32) -> Self {
        Self {
            bases: allocations.keys().copied().collect(),
            allocations: allocations.values().collect(),
            launch,
        }
    }

    /// The allocation that contains the range. `hint`: the index of the last one found.
    pub(crate) fn find(
        &self,
        address: u64,
        bytes: u64,
        hint: &mut usize,
    ) -> Option<&'a Allocation> {
        if let Some(allocation) = self.allocations.get(*hint)
            && allocation.holds(address, bytes)
        {
            return Some(allocation);
        }
        let i = self
            .bases
            .partition_point(|&base| base <= address)
            .checked_sub(1)?;
        *hint = i;
        Some(self.allocations[i]).filter(|allocation| allocation.holds(address, bytes))
    }

    /// Describes what is near an address outside all allocations.
    pub(crate) fn nearest(&self, address: u64) -> String {
        match self
            .bases
            .partition_point(|&base| base <= address)
            .checked_sub(1)
        {
            Some(i) => {
                let Allocation { base, bytes, .. } = self.allocations[i];
                let end = base + bytes;
                match address.checked_sub(end) {
                    Some(past) => {
                        format!("{past} bytes past the end of {base:#x}, which has {bytes} bytes")
                    }
                    None => format!(
                        "{} bytes before the end of {base:#x}, which has {bytes} bytes",
                        end - address
                    ),
                }
            }
            None => "no allocation lies below it".into(),
        }
    }
}

/// The zeroed words of a [`BlockRaces`] table.
pub(crate) fn zeros(count: usize) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}
