//! From text to statements, without meaning yet.

mod lexer;
mod syntax;
mod tree;

pub(crate) use syntax::parse;
pub(crate) use tree::{Base, Entry, Instruction, Operand, Parsed, Statement, Value, Variable};
