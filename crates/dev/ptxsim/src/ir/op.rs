//! Instructions with their operands.

use super::{
    Compare, Convert, Float1, Float2, FloatMode, HalfMode, HalfOp, Int1, Int2, Int3, Logic,
    MmaType, PredSource, Prmt, Reduce, Reg, Row, Shuffle, Type, Vote,
};
use crate::error::Space;

/// The state space of an access; a generic address contains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessSpace {
    Generic,
    In(Space),
}

/// `[base + offset]`; a missing base means 0.
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

#[derive(Clone, Debug)]
pub(crate) struct Mma {
    pub(crate) ty: MmaType,
    pub(crate) k: u32,
    pub(crate) d: [Row; 4],
    pub(crate) a: [Row; 4],
    pub(crate) b: [Row; 2],
    pub(crate) c: [Row; 4],
}

/// An instruction. `wide`: 64-bit operands instead of 32-bit ones.
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
    /// Operands that the op lacks repeat `a`.
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
    /// `global`: also orders against other blocks.
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
    /// `d` is a predicate, or a 32-bit row for `Ballot`.
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
    /// `None`: all groups.
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
