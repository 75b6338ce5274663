//! All errors of the simulator, in one enum.

use std::fmt;

use thiserror::Error;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, SimError>;

/// A line and column of PTX source, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Where a running kernel was when it did something forbidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The kernel.
    pub entry: String,
    /// The line of the instruction, from 1.
    pub line: u32,
    /// The instruction with its modifiers, such as `ld.global.v4.f32`.
    pub instruction: String,
    /// `%ctaid` of the thread.
    pub block: [u32; 3],
    /// `%tid` of the thread.
    pub thread: [u32; 3],
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            entry,
            line,
            instruction,
            block,
            thread,
        } = self;
        write!(
            f,
            "{entry}, line {line}, `{instruction}`, block {block:?}, thread {thread:?}"
        )
    }
}

/// The state space of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// `.global`
    Global,
    /// `.shared`
    Shared,
    /// `.param`
    Param,
    /// `.const`
    Const,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Param => "param",
            Self::Const => "const",
        })
    }
}

/// Every way in which parsing, launching or running a kernel can fail.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SimError {
    /// The text is not PTX, or uses a form of PTX that is not supported.
    #[error("{at}: {message}")]
    Syntax {
        /// Where.
        at: Position,
        /// What was expected, and what was found.
        message: String,
    },
    /// An unknown directive.
    #[error("{at}: the directive `{name}` is not known to the simulator")]
    UnknownDirective {
        /// Where.
        at: Position,
        /// The directive, with its dot.
        name: String,
    },
    /// An unknown instruction.
    #[error("{at}: the instruction `{name}` is not known to the simulator")]
    UnknownInstruction {
        /// Where.
        at: Position,
        /// The instruction without modifiers.
        name: String,
    },
    /// A modifier that is unknown at this place of this instruction.
    #[error("{at}: `.{name}` is not known to the simulator here, in `{instruction}`")]
    UnknownModifier {
        /// Where.
        at: Position,
        /// The modifier without its dot.
        name: String,
        /// The instruction with all modifiers.
        instruction: String,
    },
    /// The modifiers or operands do not fit the instruction.
    #[error("{at}: `{instruction}`: {message}")]
    BadInstruction {
        /// Where.
        at: Position,
        /// The instruction with all modifiers.
        instruction: String,
        /// What does not fit.
        message: String,
    },
    /// An undeclared name.
    #[error("{at}: nothing here is called `{name}`")]
    UnknownName {
        /// Where.
        at: Position,
        /// The name.
        name: String,
    },
    /// A name declared twice.
    #[error("{at}: `{name}` is declared twice")]
    DuplicateName {
        /// The second declaration.
        at: Position,
        /// The name.
        name: String,
    },
    /// The launched kernel is not in the module.
    #[error("the module has no entry `{name}`; it has {entries:?}")]
    NoEntry {
        /// The requested kernel.
        name: String,
        /// The kernels in the module.
        entries: Vec<String>,
    },
    /// The arguments or sizes of a launch do not fit the kernel or the device.
    #[error("launch of {entry}: {message}")]
    BadLaunch {
        /// The kernel.
        entry: String,
        /// What does not fit.
        message: String,
    },
    /// The host named device memory that is not allocated.
    #[error("{bytes} bytes at {address:#x} are not inside one allocation")]
    BadPointer {
        /// The device address.
        address: u64,
        /// The size of the access.
        bytes: u64,
    },
    /// The host read unwritten device memory.
    #[error("host read of {address:#x}: nothing has written there")]
    UninitialisedCopy {
        /// The first unwritten byte.
        address: u64,
    },
    /// The device is out of memory.
    #[error("{asked} bytes do not fit: {used} of {capacity} bytes are in use")]
    OutOfMemory {
        /// Bytes requested.
        asked: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes in all.
        capacity: u64,
    },
    /// An access out of bounds.
    #[error("{place}: {bytes} bytes at {space} address {address:#x} are out of bounds ({nearest})")]
    OutOfBounds {
        /// Where.
        place: Box<Place>,
        /// The state space.
        space: Space,
        /// The address in that space.
        address: u64,
        /// The size of the access.
        bytes: u32,
        /// What is near that address.
        nearest: String,
    },
    /// An access whose address is not a multiple of its size.
    #[error("{place}: {space} address {address:#x} is not a multiple of the access size, {bytes}")]
    Misaligned {
        /// Where.
        place: Box<Place>,
        /// The state space.
        space: Space,
        /// The address in that space.
        address: u64,
        /// The alignment that the access needs.
        bytes: u32,
    },
    /// A register is read before it is written.
    #[error("{place}: register {register} is read, but nothing has written it")]
    UninitialisedRegister {
        /// Where.
        place: Box<Place>,
        /// The register's name.
        register: String,
    },
    /// Memory is read before it is written.
    #[error("{place}: {space} address {address:#x} is read, but nothing has written it")]
    UninitialisedMemory {
        /// Where.
        place: Box<Place>,
        /// The state space.
        space: Space,
        /// The address of the access.
        address: u64,
    },
    /// Two threads use the same shared address, one writes, and no barrier orders them.
    #[error(
        "{place}: race on shared address {address:#x}: thread {other} (linear) {did} it, and no barrier is in between"
    )]
    SharedRace {
        /// The later access.
        place: Box<Place>,
        /// The address in shared memory.
        address: u64,
        /// The linear index in the block of the thread of the earlier access.
        other: u32,
        /// `read` or `wrote`.
        did: &'static str,
    },
    /// Two blocks of one launch use the same global address, and at least one writes.
    #[error(
        "{place}: race on global address {address:#x}: {} of this launch {did} it too", block_name(*other)
    )]
    GlobalRace {
        /// The access that was detected.
        place: Box<Place>,
        /// The global address.
        address: u64,
        /// The linear index of the other block; `None` if several blocks read it.
        other: Option<u32>,
        /// `reads` or `writes`.
        did: &'static str,
    },
    /// The threads of a warp do not all reach a barrier together.
    #[error(
        "{place}: divergent barrier: lanes {active:#010x} of the warp are here, lanes {live:#010x} run"
    )]
    DivergentBarrier {
        /// Where.
        place: Box<Place>,
        /// The lanes that execute the barrier.
        active: u32,
        /// The lanes that have not exited.
        live: u32,
    },
    /// All warps wait, and no barrier is complete.
    #[error(
        "{place}: deadlock at barrier {barrier}: {arrived} threads are there, {expected} are expected"
    )]
    Deadlock {
        /// One of the waiting warps.
        place: Box<Place>,
        /// The barrier's number.
        barrier: u32,
        /// Threads that have arrived.
        arrived: u32,
        /// Threads that the barrier waits for.
        expected: u32,
    },
    /// An access to shared memory that a `cp.async` may still be writing.
    #[error(
        "{place}: shared address {address:#x} is used while a cp.async of thread {issuer} (linear) may still write it"
    )]
    PendingCopy {
        /// Where.
        place: Box<Place>,
        /// The address in shared memory.
        address: u64,
        /// The linear index of the thread that issued the copy.
        issuer: u32,
    },
    /// The mask of a `.sync` instruction does not fit the threads that execute it.
    #[error(
        "{place}: the mask {mask:#010x} does not fit: lanes {active:#010x} execute this; {why}"
    )]
    SyncMask {
        /// Where.
        place: Box<Place>,
        /// The member mask.
        mask: u32,
        /// The lanes that execute the instruction.
        active: u32,
        /// What is wrong with the mask.
        why: &'static str,
    },
    /// The instruction leaves a value undefined.
    #[error("{place}: {message}")]
    Undefined {
        /// Where.
        place: Box<Place>,
        /// What is not defined.
        message: String,
    },
    /// A block ran more instructions than the limit.
    #[error(
        "{place}: a block ran more than {limit} warp instructions; if that is right, raise the limit"
    )]
    InstructionLimit {
        /// Where the block was.
        place: Box<Place>,
        /// The limit of warp instructions per block.
        limit: u64,
    },
}

fn block_name(block: Option<u32>) -> String {
    match block {
        Some(block) => format!("block {block} (linear)"),
        None => "another block".into(),
    }
}
