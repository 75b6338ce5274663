//! Decoded kernels: every operand is a row of a register file, and every modifier is resolved.
//!
//! Immediates, special registers and addresses of variables are rows too, filled when a warp starts,
//! so that executing an instruction never asks what kind of operand it has.

use std::collections::HashMap;
use std::fmt;

use crate::error::{Position, Space};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
}

impl Type {
    pub(crate) const ALL: [(&'static str, Self); 20] = [
        ("pred", Self::Pred),
        ("b8", Self::B8),
        ("b16", Self::B16),
        ("b32", Self::B32),
        ("b64", Self::B64),
        ("u8", Self::U8),
        ("u16", Self::U16),
        ("u32", Self::U32),
        ("u64", Self::U64),
        ("s8", Self::S8),
        ("s16", Self::S16),
        ("s32", Self::S32),
        ("s64", Self::S64),
        ("f16", Self::F16),
        ("f16x2", Self::F16x2),
        ("bf16", Self::Bf16),
        ("bf16x2", Self::Bf16x2),
        ("tf32", Self::Tf32),
        ("f32", Self::F32),
        ("f64", Self::F64),
    ];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(n, _)| *n == name)
            .map(|&(_, ty)| ty)
    }

    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Pred | Self::B8 | Self::U8 | Self::S8 => 1,
            Self::B16 | Self::U16 | Self::S16 | Self::F16 | Self::Bf16 => 2,
            Self::B32
            | Self::U32
            | Self::S32
            | Self::F16x2
            | Self::Bf16x2
            | Self::Tf32
            | Self::F32 => 4,
            Self::B64 | Self::U64 | Self::S64 | Self::F64 => 8,
        }
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Self::S8 | Self::S16 | Self::S32 | Self::S64)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(
            self,
            Self::F16
                | Self::F16x2
                | Self::Bf16
                | Self::Bf16x2
                | Self::Tf32
                | Self::F32
                | Self::F64
        )
    }

    pub(crate) fn is_bits(self) -> bool {
        matches!(self, Self::B8 | Self::B16 | Self::B32 | Self::B64)
    }

    /// Whether a register of this type may stand for an operand of type `wanted`: the same size, and both
    /// integers, or one of them untyped bits, or the same kind of float (PTX ISA, "Operand type checking").
    pub(crate) fn may_stand_for(self, wanted: Self) -> bool {
        if self == Self::Pred || wanted == Self::Pred {
            return self == wanted;
        }
        self.bytes() == wanted.bytes()
            && (self.is_bits()
                || wanted.is_bits()
                || self == wanted
                || !(self.is_float() || wanted.is_float()))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL
            .iter()
            .find(|(_, ty)| ty == self)
            .map_or("", |(name, _)| name);
        write!(f, ".{name}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    Zero,
    Down,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int1 {
    Neg,
    Abs,
    Not,
    Cnot,
    Popc,
    Clz,
    Brev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int2 {
    Add,
    Sub,
    AddSat,
    SubSat,
    MulLo,
    MulHi,
    MulWide,
    Div,
    Rem,
    Min,
    Max,
    And,
    Or,
    Xor,
    /// The shift amount is a 32-bit operand.
    Shl,
    Shr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Int3 {
    MadLo,
    MadHi,
    MadHiSat,
    MadWide,
    Sad,
    /// Position and length are 32-bit operands.
    Bfe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float1 {
    Neg,
    Abs,
    Ex2,
    Lg2,
    RcpApprox,
    RsqrtApprox,
    SqrtApprox,
    Sin,
    Cos,
    Tanh,
    Rcp,
    Sqrt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float2 {
    Add,
    Sub,
    Mul,
    Div,
    DivApprox,
    DivFull,
    Min { nan: bool },
    Max { nan: bool },
    CopySign,
}

/// How a float result is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FloatMode {
    pub(crate) round: Round,
    /// Subnormal operands and results become zero of the same sign.
    pub(crate) ftz: bool,
    /// The result is clamped to 0..=1, and NaN becomes 0.
    pub(crate) sat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfFormat {
    F16,
    Bf16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HalfOp {
    Neg,
    Abs,
    Ex2,
    Tanh,
    Add,
    Sub,
    Mul,
    Min { nan: bool },
    Max { nan: bool },
    Fma { relu: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HalfMode {
    pub(crate) format: HalfFormat,
    /// Two values in a 32-bit register.
    pub(crate) packed: bool,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// The unordered forms, true if an operand is NaN.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

/// A predicate operand; `None` as row stands for true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PredSource {
    pub(crate) row: Row,
    pub(crate) negated: bool,
}

/// How `cvt` converts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convert {
    pub(crate) to: Type,
    pub(crate) from: Type,
    pub(crate) round: Round,
    /// To an integer value, even where the result is a float (`.rni`, ...).
    pub(crate) integral: bool,
    pub(crate) ftz: bool,
    pub(crate) sat: bool,
    pub(crate) relu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reduce {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exch,
    Cas,
}

/// The state space of an access; a generic address says it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessSpace {
    Generic,
    In(Space),
}

/// `[base + offset]`; a missing base stands for 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) space: AccessSpace,
    pub(crate) base: Option<Reg>,
    pub(crate) offset: i64,
}

/// The elements of an `ld` or `st`.
#[derive(Clone, Debug)]
pub(crate) struct Elements {
    /// `None` is `_`.
    pub(crate) regs: Box<[Option<Reg>]>,
    /// Bytes of one element.
    pub(crate) bytes: u32,
    /// Whether a loaded element is sign-extended.
    pub(crate) signed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prmt {
    Index,
    F4e,
    B4e,
    Rc8,
    Ecl,
    Ecr,
    Rc16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MmaType {
    F16,
    Bf16,
    Tf32,
}

#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub(crate) ty: MmaType,
    pub(crate) k: u32,
    pub(crate) d: [Row; 4],
    pub(crate) a: [Row; 4],
    pub(crate) b: [Row; 2],
    pub(crate) c: [Row; 4],
}

/// `width`: 32 or 64, the file of `d` and the sources.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Mov {
        d: Reg,
        a: Reg,
    },
    MovPred {
        d: Row,
        a: PredSource,
    },
    Pack {
        d: Reg,
        parts: Box<[Reg]>,
        bits: u32,
    },
    Unpack {
        d: Box<[Option<Reg>]>,
        a: Reg,
        bits: u32,
    },
    Int1 {
        f: Int1,
        ty: Type,
        d: Row,
        a: Row,
    },
    Int2 {
        f: Int2,
        ty: Type,
        d: Row,
        a: Row,
        b: Row,
    },
    Int3 {
        f: Int3,
        ty: Type,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Bfi {
        wide: bool,
        d: Row,
        a: Row,
        b: Row,
        position: Row,
        length: Row,
    },
    Prmt {
        mode: Prmt,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Lop3 {
        table: u8,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Shf {
        left: bool,
        clamp: bool,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Float1 {
        f: Float1,
        wide: bool,
        mode: FloatMode,
        d: Row,
        a: Row,
    },
    Float2 {
        f: Float2,
        wide: bool,
        mode: FloatMode,
        d: Row,
        a: Row,
        b: Row,
    },
    Fma {
        wide: bool,
        mode: FloatMode,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    /// Operands that the op does not have repeat `a`.
    Half {
        f: HalfOp,
        mode: HalfMode,
        d: Row,
        a: Row,
        b: Row,
        c: Row,
    },
    Logic {
        f: Logic,
        d: Row,
        a: PredSource,
        b: PredSource,
    },
    Setp {
        f: Compare,
        ty: Type,
        ftz: bool,
        d: Option<Row>,
        not_d: Option<Row>,
        a: Row,
        b: Row,
        combine: Option<(Logic, PredSource)>,
    },
    Set {
        f: Compare,
        ty: Type,
        ftz: bool,
        float: bool,
        d: Row,
        a: Row,
        b: Row,
        combine: Option<(Logic, PredSource)>,
    },
    Selp {
        d: Reg,
        a: Reg,
        b: Reg,
        c: PredSource,
    },
    Slct {
        d: Reg,
        a: Reg,
        b: Reg,
        c: Row,
        float: bool,
        ftz: bool,
    },
    Cvt {
        how: Convert,
        d: Reg,
        a: Reg,
    },
    CvtPair {
        how: Convert,
        d: Row,
        high: Row,
        low: Row,
    },
    Cvta {
        space: Space,
        to_space: bool,
        d: Row,
        a: Row,
    },
    Bra {
        target: u32,
        uniform: bool,
    },
    Exit,
    Barrier {
        id: Row,
        count: Option<Row>,
    },
    WarpSync {
        mask: Row,
    },
    /// `global`: orders against other blocks too.
    Fence {
        global: bool,
    },
    Shfl {
        f: Shuffle,
        d: Row,
        p: Option<Row>,
        a: Row,
        b: Row,
        c: Row,
        mask: Row,
    },
    /// `d` is a predicate, or for `Ballot` a 32-bit row.
    Vote {
        f: Vote,
        d: Row,
        a: PredSource,
        mask: Row,
    },
    MatchAny {
        wide: bool,
        d: Row,
        a: Row,
        mask: Row,
    },
    Redux {
        f: Reduce,
        signed: bool,
        d: Row,
        a: Row,
        mask: Row,
    },
    ActiveMask {
        d: Row,
    },
    Ld {
        to: Elements,
        from: Target,
    },
    St {
        from: Elements,
        to: Target,
    },
    /// `d` is absent for `red`.
    Atom {
        f: Reduce,
        ty: Type,
        d: Option<Reg>,
        at: Target,
        b: Reg,
        c: Option<Reg>,
    },
    Prefetch {
        at: Target,
    },
    CpAsync {
        bytes: u32,
        to: Target,
        from: Target,
        source_bytes: Option<Row>,
        ignore: Option<PredSource>,
    },
    CpAsyncCommit,
    /// `None`: all.
    CpAsyncWait {
        groups: Option<u32>,
    },
    LdMatrix {
        d: Box<[Row]>,
        transpose: bool,
        from: Target,
    },
    Mma(Box<Mma>),
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
    /// Every register that it reads and that a path may leave unwritten.
    pub(crate) reads: Box<[Reg]>,
    /// Where a divergent branch's paths meet again.
    pub(crate) meets: u32,
}

/// What an instruction looks like in the source.
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
    /// The smallest access to global memory that races between blocks are looked for at.
    pub(crate) global_granule: u32,
    /// The smallest access to shared memory: races are looked for at this granularity.
    pub(crate) shared_granule: u32,
    /// Blocks talk to each other through atomics or fences, so they run one after the other.
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
