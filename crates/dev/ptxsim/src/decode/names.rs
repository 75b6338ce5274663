//! Resolves names to rows, addresses and labels.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use crate::error::{Position, Result, SimError, Space};
use crate::ir::{Constant, Reg, Row, Special, Type};
use crate::parse::Variable;

#[derive(Clone, Copy, Debug)]
pub(super) enum Symbol {
    Register(Reg, Type),
    Shared(u64),
    DynamicShared,
    /// A `.global` or `.const` variable of the module.
    Global(u64, Space),
    Param {
        offset: u64,
        bytes: u64,
    },
    Label(u32),
}

/// The scopes of a kernel, innermost last, and the rows of the register files.
pub(super) struct Names<'a> {
    scopes: Vec<HashMap<&'a str, Symbol>>,
    rows: [usize; 3],
    constant_rows: HashMap<(bool, Constant), Row>,
    pub(super) constants: Vec<(Reg, Constant)>,
    pub(super) registers: Vec<(Reg, String)>,
    pub(super) shared_bytes: u64,
    pub(super) dynamic_align: Option<u64>,
}

/// The first shared address of a variable; no variable is at null.
pub(crate) const SHARED_BASE: u64 = 1024;
/// The offset between a shared address and its generic address.
pub(crate) const SHARED_WINDOW: u64 = 1 << 46;

impl<'a> Names<'a> {
    pub(super) fn new() -> Self {
        Self {
            scopes: vec![HashMap::new()],
            rows: [0; 3],
            constant_rows: HashMap::new(),
            constants: Vec::new(),
            registers: Vec::new(),
            shared_bytes: 0,
            dynamic_align: None,
        }
    }

    pub(super) fn rows(&self) -> [usize; 3] {
        self.rows
    }

    pub(super) fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    pub(super) fn close(&mut self) {
        self.scopes.pop();
    }

    pub(super) fn declare(&mut self, name: &'a str, at: Position, symbol: Symbol) -> Result<()> {
        let scope = self.scopes.last_mut().expect("the outermost scope stays");
        match scope.entry(name) {
            Slot::Vacant(slot) => {
                slot.insert(symbol);
                Ok(())
            }
            Slot::Occupied(_) => Err(SimError::DuplicateName {
                at,
                name: name.into(),
            }),
        }
    }

    pub(super) fn declare_variable(&mut self, variable: &'a Variable, offset: u64) -> Result<()> {
        let symbol = match (variable.space, variable.bytes) {
            (Space::Shared, None) => {
                self.dynamic_align = Some(self.dynamic_align.unwrap_or(1).max(variable.align));
                Symbol::DynamicShared
            }
            (Space::Shared, Some(bytes)) => {
                let start = self.shared_bytes.next_multiple_of(variable.align);
                self.shared_bytes = start + bytes;
                Symbol::Shared(SHARED_BASE + start)
            }
            (space, _) => Symbol::Global(offset, space),
        };
        self.declare(&variable.name, variable.at, symbol)
    }

    pub(super) fn declare_register(&mut self, name: &'a str, ty: Type, at: Position) -> Result<()> {
        let reg = self.row(ty, at)?;
        self.registers.push((reg, name.to_owned()));
        self.declare(name, at, Symbol::Register(reg, ty))
    }

    fn row(&mut self, ty: Type, at: Position) -> Result<Reg> {
        let file = match ty {
            Type::Pred => 2,
            _ if ty.bytes() == 8 => 1,
            _ => 0,
        };
        let row = Row::try_from(self.rows[file]).map_err(|_| SimError::Syntax {
            at,
            message: "this kernel has more than 65536 registers".into(),
        })?;
        self.rows[file] += 1;
        Ok(match file {
            0 => Reg::B32(row),
            1 => Reg::B64(row),
            _ => Reg::Pred(row),
        })
    }

    /// A row in the file of `ty` that holds a constant.
    pub(super) fn constant(&mut self, constant: Constant, ty: Type, at: Position) -> Result<Reg> {
        let wide = ty.bytes() == 8;
        if let Some(&row) = self.constant_rows.get(&(wide, constant)) {
            return Ok(if wide { Reg::B64(row) } else { Reg::B32(row) });
        }
        let reg = self.row(ty, at)?;
        self.constant_rows.insert((wide, constant), reg.row());
        self.constants.push((reg, constant));
        Ok(reg)
    }

    pub(super) fn find(&self, name: &str, at: Position) -> Result<Symbol> {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.get(name))
            .copied()
            .ok_or_else(|| SimError::UnknownName {
                at,
                name: name.into(),
            })
    }
}

/// The special register with this name.
pub(super) fn special(name: &str) -> Option<Special> {
    let vector = |name: &str| match name.split_once('.') {
        Some((name, "x")) => Some((name.to_owned(), 0)),
        Some((name, "y")) => Some((name.to_owned(), 1)),
        Some((name, "z")) => Some((name.to_owned(), 2)),
        _ => None,
    };
    if let Some((name, axis)) = vector(name) {
        return match name.as_str() {
            "%tid" => Some(Special::Tid(axis)),
            "%ntid" => Some(Special::Ntid(axis)),
            "%ctaid" => Some(Special::Ctaid(axis)),
            "%nctaid" => Some(Special::Nctaid(axis)),
            _ => None,
        };
    }
    match name {
        "%laneid" => Some(Special::LaneId),
        "%warpid" => Some(Special::WarpId),
        "%nwarpid" => Some(Special::Nwarpid),
        "%lanemask_eq" => Some(Special::LaneMaskEq),
        "%lanemask_lt" => Some(Special::LaneMaskLt),
        "%lanemask_le" => Some(Special::LaneMaskLe),
        "%lanemask_gt" => Some(Special::LaneMaskGt),
        "%lanemask_ge" => Some(Special::LaneMaskGe),
        "%dynamic_smem_size" => Some(Special::DynamicSmemSize),
        "%total_smem_size" => Some(Special::TotalSmemSize),
        _ => None,
    }
}
