//! The registers of a warp: each register is a row of 32 lanes.

use crate::ir::{PredSource, Reg, Row};

pub(super) const LANES: usize = 32;

/// The register files of a warp. Predicates are masks, one bit a lane.
#[derive(Default)]
pub(super) struct Regs {
    pub(super) b32: Vec<[u32; LANES]>,
    pub(super) b64: Vec<[u64; LANES]>,
    pub(super) pred: Vec<u32>,
    /// For each row of the three files, the lanes that have been written.
    written: [Vec<u32>; 3],
}

fn file(reg: Reg) -> usize {
    match reg {
        Reg::B32(_) => 0,
        Reg::B64(_) => 1,
        Reg::Pred(_) => 2,
    }
}

impl Regs {
    pub(super) fn new(b32: usize, b64: usize, pred: usize) -> Self {
        Self {
            b32: vec![[0; LANES]; b32],
            b64: vec![[0; LANES]; b64],
            pred: vec![0; pred],
            written: [vec![0; b32], vec![0; b64], vec![0; pred]],
        }
    }

    /// Forgets what has been written.
    pub(super) fn forget(&mut self) {
        for file in &mut self.written {
            file.fill(0);
        }
    }

    /// The lanes in which a register has a value.
    pub(super) fn written(&self, reg: Reg) -> u32 {
        self.written[file(reg)][reg.row() as usize]
    }

    pub(super) fn put_32(&mut self, row: Row, mask: u32, values: &[u32; LANES]) {
        put(&mut self.b32[row as usize], mask, values);
        self.written[0][row as usize] |= mask;
    }

    pub(super) fn put_64(&mut self, row: Row, mask: u32, values: &[u64; LANES]) {
        put(&mut self.b64[row as usize], mask, values);
        self.written[1][row as usize] |= mask;
    }

    pub(super) fn put_pred(&mut self, row: Row, mask: u32, values: u32) {
        let old = &mut self.pred[row as usize];
        *old = *old & !mask | values & mask;
        self.written[2][row as usize] |= mask;
    }

    /// Writes to either file; a 32-bit register takes the low half.
    pub(super) fn put(&mut self, reg: Reg, mask: u32, values: &[u64; LANES]) {
        match reg {
            Reg::B32(row) => self.put_32(row, mask, &values.map(|value| value as u32)),
            Reg::B64(row) => self.put_64(row, mask, values),
            Reg::Pred(_) => unreachable!("the decoder gives no predicate here"),
        }
    }

    /// Reads from either file, zero-extended.
    pub(super) fn get(&self, reg: Reg) -> [u64; LANES] {
        match reg {
            Reg::B32(row) => self.b32[row as usize].map(u64::from),
            Reg::B64(row) => self.b64[row as usize],
            Reg::Pred(_) => unreachable!("the decoder gives no predicate here"),
        }
    }

    pub(super) fn predicate(&self, source: PredSource) -> u32 {
        let value = self.pred[source.row as usize];
        if source.negated { !value } else { value }
    }
}

fn put<T: Copy>(row: &mut [T; LANES], mask: u32, values: &[T; LANES]) {
    if mask == u32::MAX {
        *row = *values;
        return;
    }
    for lane in lanes(mask) {
        row[lane] = values[lane];
    }
}

/// The lanes of a mask, in order.
pub(super) fn lanes(mask: u32) -> impl Iterator<Item = usize> + Clone {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}

/// A type that a lane of a register can hold.
pub(super) trait Lane: Copy {
    type Word: Copy + Default;
    fn of(word: Self::Word) -> Self;
    fn word(self) -> Self::Word;
    fn row(regs: &Regs, row: Row) -> &[Self::Word; LANES];
    fn put(regs: &mut Regs, row: Row, mask: u32, values: &[Self::Word; LANES]);
}

macro_rules! lane {
    ($type:ty, $word:ty, $file:ident, $put:ident, $of:expr, $to:expr) => {
        impl Lane for $type {
            type Word = $word;
            fn of(word: $word) -> Self {
                $of(word)
            }
            fn word(self) -> $word {
                $to(self)
            }
            fn row(regs: &Regs, row: Row) -> &[$word; LANES] {
                &regs.$file[row as usize]
            }
            fn put(regs: &mut Regs, row: Row, mask: u32, values: &[$word; LANES]) {
                regs.$put(row, mask, values);
            }
        }
    };
}

lane!(u16, u32, b32, put_32, |w| w as u16, u32::from);
lane!(i16, u32, b32, put_32, |w| w as i16, |x: i16| u32::from(
    x as u16
));
lane!(u32, u32, b32, put_32, |w| w, |x| x);
lane!(i32, u32, b32, put_32, |w| w as i32, |x: i32| x as u32);
lane!(f32, u32, b32, put_32, f32::from_bits, f32::to_bits);
lane!(u64, u64, b64, put_64, |w| w, |x| x);
lane!(i64, u64, b64, put_64, |w| w as i64, |x: i64| x as u64);
lane!(f64, u64, b64, put_64, f64::from_bits, f64::to_bits);

/// `d = f(a)` in the lanes of `mask`.
pub(super) fn map1<A: Lane, D: Lane>(
    regs: &mut Regs,
    mask: u32,
    d: Row,
    a: Row,
    f: impl Fn(A) -> D,
) {
    let mut out = [D::Word::default(); LANES];
    let a = A::row(regs, a);
    for (out, &a) in out.iter_mut().zip(a) {
        *out = f(A::of(a)).word();
    }
    D::put(regs, d, mask, &out);
}

/// `d = f(a, b)` in the lanes of `mask`.
pub(super) fn map2<A: Lane, B: Lane, D: Lane>(
    regs: &mut Regs,
    mask: u32,
    d: Row,
    (a, b): (Row, Row),
    f: impl Fn(A, B) -> D,
) {
    let mut out = [D::Word::default(); LANES];
    let (a, b) = (A::row(regs, a), B::row(regs, b));
    for lane in 0..LANES {
        out[lane] = f(A::of(a[lane]), B::of(b[lane])).word();
    }
    D::put(regs, d, mask, &out);
}

/// `d = f(a, b, c)` in the lanes of `mask`.
pub(super) fn map3<A: Lane, B: Lane, C: Lane, D: Lane>(
    regs: &mut Regs,
    mask: u32,
    d: Row,
    (a, b, c): (Row, Row, Row),
    f: impl Fn(A, B, C) -> D,
) {
    let mut out = [D::Word::default(); LANES];
    let (a, b, c) = (A::row(regs, a), B::row(regs, b), C::row(regs, c));
    for lane in 0..LANES {
        out[lane] = f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane])).word();
    }
    D::put(regs, d, mask, &out);
}

/// The lanes in which `f(a, b)` is true.
pub(super) fn compare<A: Lane>(regs: &Regs, a: Row, b: Row, f: impl Fn(A, A) -> bool) -> u32 {
    let (a, b) = (A::row(regs, a), A::row(regs, b));
    let mut mask = 0;
    for lane in 0..LANES {
        mask |= u32::from(f(A::of(a[lane]), A::of(b[lane]))) << lane;
    }
    mask
}
