//! Decoded kernels: every operand is a row of a register file, and every modifier is resolved.
//!
//! Immediates, special registers and addresses of variables are rows too. They are filled when a warp starts, so
//! executing an instruction never has to distinguish kinds of operands.

mod modifiers;
mod op;
mod ty;

use std::collections::HashMap;

use crate::error::Position;
pub(crate) use modifiers::{
    Compare, Convert, Float1, Float2, FloatMode, HalfFormat, HalfMode, HalfOp, Int1, Int2, Int3,
    Logic, MmaType, PredSource, Prmt, Reduce, Round, Shuffle, Vote,
};
pub(crate) use op::{AccessSpace, Elements, Mma, Op, Target};
pub(crate) use ty::Type;

/// A row of one of the register files: one value for each of the 32 lanes.
pub(crate) type Row = u16;

/// A register of one of the three files. 8- and 16-bit registers live in the 32-bit file, zero-extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reg {
    B32(Row),
    B64(Row),
    Pred(Row),
}

impl Reg {
    pub(crate) fn row(self) -> Row {
        match self {
            Self::B32(row) | Self::B64(row) | Self::Pred(row) => row,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) row: Row,
    pub(crate) negated: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub(crate) guard: Option<Guard>,
    pub(crate) op: Op,
    /// Every register that it reads and that some path may leave unwritten.
    pub(crate) reads: Box<[Reg]>,
    /// Where the paths of a divergent branch meet again.
    pub(crate) meets: u32,
}

/// An instruction as written in the source.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) at: Position,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    Nwarpid,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSmemSize,
    TotalSmemSize,
}

/// The value of a row that no instruction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    Special(Special),
    /// The first byte of the launch's shared memory.
    DynamicShared,
    /// A byte of the module's `.global` or `.const` variables.
    Global(u64),
}

#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: u64,
    pub(crate) max_threads: Option<[u32; 3]>,
    pub(crate) required_threads: Option<[u32; 3]>,
    pub(crate) insts: Vec<Inst>,
    pub(crate) sources: Vec<Source>,
    pub(crate) rows_32: usize,
    pub(crate) rows_64: usize,
    pub(crate) rows_pred: usize,
    pub(crate) constants: Vec<(Reg, Constant)>,
    pub(crate) names: HashMap<(u8, Row), String>,
    pub(crate) static_shared: u64,
    pub(crate) dynamic_shared_align: u64,
    pub(crate) has_dynamic_shared: bool,
    /// The smallest access to global memory; races between blocks are detected at this granularity.
    pub(crate) global_granule: u32,
    /// The smallest access to shared memory; races are detected at this granularity.
    pub(crate) shared_granule: u32,
    /// Blocks communicate through atomics or fences, so they run one after the other.
    pub(crate) in_order: bool,
}

impl Kernel {
    /// The name of a register, for messages.
    pub(crate) fn register_name(&self, reg: Reg) -> String {
        self.names
            .get(&register_key(reg))
            .cloned()
            .unwrap_or_else(|| "(a constant)".into())
    }
}

pub(crate) fn register_key(reg: Reg) -> (u8, Row) {
    match reg {
        Reg::B32(row) => (0, row),
        Reg::B64(row) => (1, row),
        Reg::Pred(row) => (2, row),
    }
}
