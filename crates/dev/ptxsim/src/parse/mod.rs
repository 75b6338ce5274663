//! Parses text to statements, without interpreting them.

mod lexer;
mod syntax;
mod tree;

pub(crate) use syntax::parse;
pub(crate) use tree::{Base, Entry, Instruction, Operand, Parsed, Statement, Value, Variable};
