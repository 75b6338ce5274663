//! The statements of a module, as written.

use crate::error::Position;
use crate::ir::Type;

#[derive(Debug)]
pub(crate) struct Parsed {
    /// The number in `.target sm_80`.
    pub(crate) target: u32,
    pub(crate) variables: Vec<Variable>,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) params: Vec<Variable>,
    /// `.maxntid`
    pub(crate) max_threads: Option<[u32; 3]>,
    /// `.reqntid`
    pub(crate) required_threads: Option<[u32; 3]>,
    pub(crate) body: Vec<Statement>,
}

/// A `.param`, `.shared`, `.global` or `.const` variable.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) space: crate::error::Space,
    pub(crate) name: String,
    pub(crate) at: Position,
    pub(crate) ty: Type,
    pub(crate) align: u64,
    /// Bytes; `None` for `extern .shared name[]`, whose size the launch determines.
    pub(crate) bytes: Option<u64>,
    pub(crate) initial: Vec<Initial>,
}

/// One element of an initialiser.
#[derive(Clone, Debug)]
pub(crate) struct Initial {
    pub(crate) value: Value,
    pub(crate) at: Position,
}

#[derive(Debug)]
pub(crate) enum Statement {
    Open,
    Close,
    Registers {
        ty: Type,
        names: Vec<(String, Position)>,
    },
    Variable(Variable),
    Label {
        name: String,
        at: Position,
    },
    Instruction(Instruction),
}

#[derive(Debug)]
pub(crate) struct Instruction {
    pub(crate) at: Position,
    /// `@p`, `@!p`: the name, and whether it is negated.
    pub(crate) guard: Option<(String, bool, Position)>,
    pub(crate) name: String,
    pub(crate) modifiers: Vec<(String, Position)>,
    pub(crate) operands: Vec<(Operand, Position)>,
}

impl Instruction {
    /// The instruction with its modifiers.
    pub(crate) fn text(&self) -> String {
        let mut text = self.name.clone();
        for (modifier, _) in &self.modifiers {
            text.push('.');
            text.push_str(modifier);
        }
        text
    }
}

/// A literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    Int(i128),
    F32(u32),
    F64(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, variable, label or special register (`%tid.x`).
    Name(String),
    /// `!p`
    Not(String),
    /// `p|q`
    Pair(String, String),
    Value(Value),
    Vector(Vec<(Operand, Position)>),
    Address(Address),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Address {
    pub(crate) base: Base,
    pub(crate) offset: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Base {
    Name(String),
    /// `[1024]`
    Absolute,
}
