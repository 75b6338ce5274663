//! Reads one instruction: its modifiers in order, then its operands.

use super::names::{Symbol, special};
use super::{Decoder, literal};
use crate::error::{Position, Result, SimError, Space};
use crate::ir::{AccessSpace, Constant, PredSource, Reg, Row, Target, Type};
use crate::parse::{Base, Instruction, Operand, Value};

pub(super) struct Cursor<'d, 'a> {
    decoder: &'d mut Decoder<'a>,
    instruction: &'a Instruction,
    text: String,
    next: usize,
    reads: Vec<Reg>,
    writes: Vec<Reg>,
}

impl<'d, 'a> Cursor<'d, 'a> {
    pub(super) fn new(decoder: &'d mut Decoder<'a>, instruction: &'a Instruction) -> Self {
        let text = instruction.text();
        Self {
            decoder,
            instruction,
            text,
            next: 0,
            reads: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// Registers read and written, and the text.
    pub(super) fn finish(self) -> (Vec<Reg>, Vec<Reg>, String) {
        (self.reads, self.writes, self.text)
    }

    pub(super) fn instruction(&self) -> &'a Instruction {
        self.instruction
    }

    pub(super) fn name(&self) -> &'a str {
        &self.instruction.name
    }

    /// Whether one of the modifiers is one of these types.
    pub(super) fn mentions(&self, types: &[Type]) -> bool {
        let named = self
            .instruction
            .modifiers
            .iter()
            .filter_map(|(name, _)| Type::named(name));
        named.into_iter().any(|ty| types.contains(&ty))
    }

    pub(super) fn unknown_instruction<T>(&self) -> Result<T> {
        Err(SimError::UnknownInstruction {
            at: self.instruction.at,
            name: self.name().into(),
        })
    }

    pub(super) fn bad<T>(&self, message: impl Into<String>) -> Result<T> {
        self.bad_at(self.instruction.at, message)
    }

    pub(super) fn bad_at<T>(&self, at: Position, message: impl Into<String>) -> Result<T> {
        Err(SimError::BadInstruction {
            at,
            instruction: self.text.clone(),
            message: message.into(),
        })
    }

    pub(super) fn need_target(&self, target: u32) -> Result<()> {
        if self.decoder.target < target {
            return self.bad(format!(
                "needs .target sm_{target}, but the module has sm_{}",
                self.decoder.target
            ));
        }
        Ok(())
    }

    /// The kernel's blocks must run one after the other.
    pub(super) fn in_order(&mut self) {
        self.decoder.in_order = true;
    }

    pub(super) fn global_access(&mut self, bytes: u32) {
        self.decoder.global_granule = self.decoder.global_granule.min(bytes);
    }

    pub(super) fn shared_access(&mut self, bytes: u32) {
        self.decoder.shared_granule = self.decoder.shared_granule.min(bytes);
    }

    // Modifiers.

    fn modifier(&self) -> Option<&'a str> {
        self.instruction
            .modifiers
            .get(self.next)
            .map(|(name, _)| name.as_str())
    }

    /// Takes the next modifier if it is `name`.
    pub(super) fn flag(&mut self, name: &str) -> bool {
        let there = self.modifier() == Some(name);
        self.next += usize::from(there);
        there
    }

    /// Takes the next modifier if it is in the table.
    pub(super) fn choose<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let name = self.modifier()?;
        let &(_, value) = table.iter().find(|(n, _)| *n == name)?;
        self.next += 1;
        Some(value)
    }

    /// Takes the next modifier, which must be in the table.
    pub(super) fn require<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T> {
        match self.choose(table) {
            Some(value) => Ok(value),
            None => {
                let names: Vec<_> = table.iter().map(|(name, _)| format!(".{name}")).collect();
                self.unexpected(&names.join(", "))
            }
        }
    }

    pub(super) fn need(&mut self, name: &str) -> Result<()> {
        self.require(&[(name, ())])
    }

    /// Takes the next modifier, which must be one of these types.
    pub(super) fn ty(&mut self, allowed: &[Type]) -> Result<Type> {
        let ty = self
            .modifier()
            .and_then(Type::named)
            .filter(|ty| allowed.contains(ty));
        match ty {
            Some(ty) => {
                self.next += 1;
                Ok(ty)
            }
            None => {
                let names: Vec<_> = allowed.iter().map(Type::to_string).collect();
                self.unexpected(&names.join(", "))
            }
        }
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        match self.instruction.modifiers.get(self.next) {
            Some((name, at)) => Err(SimError::UnknownModifier {
                at: *at,
                name: name.clone(),
                instruction: self.text.clone(),
            }),
            None => self.bad(format!("a modifier is missing: {wanted}")),
        }
    }

    /// Checks that no modifier is left and that the number of operands is in range.
    pub(super) fn operands(&self, count: std::ops::RangeInclusive<usize>) -> Result<usize> {
        if self.next < self.instruction.modifiers.len() {
            return self.unexpected("none");
        }
        let n = self.instruction.operands.len();
        if !count.contains(&n) {
            let wanted = if count.start() == count.end() {
                count.start().to_string()
            } else {
                format!("{} to {}", count.start(), count.end())
            };
            return self.bad(format!("takes {wanted} operands, but {n} are there"));
        }
        Ok(n)
    }

    pub(super) fn operand(&self, i: usize) -> (&'a Operand, Position) {
        let (operand, at) = &self.instruction.operands[i];
        (operand, *at)
    }

    // Registers.

    /// Operand `i` as a source of type `ty`.
    pub(super) fn source(&mut self, i: usize, ty: Type) -> Result<Reg> {
        let (operand, at) = self.operand(i);
        self.source_of(operand, at, ty, false)
    }

    /// Like [`Cursor::source`], for instructions that accept a register wider than the type.
    pub(super) fn wide_source(&mut self, i: usize, ty: Type) -> Result<Reg> {
        let (operand, at) = self.operand(i);
        self.source_of(operand, at, ty, true)
    }

    pub(super) fn row(&mut self, i: usize, ty: Type) -> Result<Row> {
        Ok(self.source(i, ty)?.row())
    }

    pub(super) fn source_of(
        &mut self,
        operand: &'a Operand,
        at: Position,
        ty: Type,
        wider: bool,
    ) -> Result<Reg> {
        match operand {
            Operand::Value(value) => {
                if ty.bytes() == 2 && (ty.is_float() || !matches!(value, Value::Int(_))) {
                    return self.bad_at(at, format!("an operand of type {ty} must be a register"));
                }
                let bits = literal(*value, ty, at)?;
                self.decoder.names.constant(Constant::Bits(bits), ty, at)
            }
            Operand::Name(name) => self.named_source(name, at, ty, wider),
            _ => self.bad_at(at, "a register or a number is expected here"),
        }
    }

    fn named_source(&mut self, name: &str, at: Position, ty: Type, wider: bool) -> Result<Reg> {
        if name == "WARP_SZ" {
            return self.decoder.names.constant(Constant::Bits(32), ty, at);
        }
        if let Some(special) = special(name) {
            if !Type::U32.may_stand_for(ty) {
                return self.bad_at(at, format!("{name} has the type .u32, but {ty} is needed"));
            }
            return self
                .decoder
                .names
                .constant(Constant::Special(special), ty, at);
        }
        match self.decoder.names.find(name, at)? {
            Symbol::Register(reg, actual) => {
                self.check(name, at, actual, ty, wider)?;
                self.reads.push(reg);
                Ok(reg)
            }
            Symbol::Shared(address) if ty.bytes() >= 4 && !ty.is_float() => {
                self.decoder.names.constant(Constant::Bits(address), ty, at)
            }
            Symbol::DynamicShared if ty.bytes() >= 4 && !ty.is_float() => {
                self.decoder.names.constant(Constant::DynamicShared, ty, at)
            }
            Symbol::Global(offset, _) if ty.bytes() == 8 && !ty.is_float() => self
                .decoder
                .names
                .constant(Constant::Global(offset), ty, at),
            _ => self.bad_at(at, format!("`{name}` cannot stand here")),
        }
    }

    /// `wider`: integers may be in wider registers (`ld`, `st`, `cvt`).
    fn check(
        &self,
        name: &str,
        at: Position,
        actual: Type,
        wanted: Type,
        wider: bool,
    ) -> Result<()> {
        let fits = actual.may_stand_for(wanted)
            || wider
                && actual != Type::Pred
                && !wanted.is_float()
                && !actual.is_float()
                && actual.bytes() > wanted.bytes();
        if fits {
            return Ok(());
        }
        self.bad_at(
            at,
            format!("`{name}` has the type {actual}, but {wanted} is needed"),
        )
    }

    /// Operand `i` as the register to write.
    pub(super) fn destination(&mut self, i: usize, ty: Type) -> Result<Reg> {
        let (operand, at) = self.operand(i);
        self.destination_of(operand, at, ty, false)
    }

    pub(super) fn destination_row(&mut self, i: usize, ty: Type) -> Result<Row> {
        Ok(self.destination(i, ty)?.row())
    }

    pub(super) fn destination_of(
        &mut self,
        operand: &Operand,
        at: Position,
        ty: Type,
        wider: bool,
    ) -> Result<Reg> {
        let Operand::Name(name) = operand else {
            return self.bad_at(at, "a register is expected here");
        };
        match self.decoder.names.find(name, at)? {
            Symbol::Register(reg, actual) => {
                self.check(name, at, actual, ty, wider)?;
                self.writes.push(reg);
                Ok(reg)
            }
            _ => self.bad_at(at, format!("`{name}` is not a register")),
        }
    }

    /// A predicate to read.
    pub(super) fn predicate(&mut self, name: &str, at: Position) -> Result<Row> {
        match self.decoder.names.find(name, at)? {
            Symbol::Register(Reg::Pred(row), _) => {
                self.reads.push(Reg::Pred(row));
                Ok(row)
            }
            _ => self.bad_at(at, format!("`{name}` is not a predicate")),
        }
    }

    /// Operand `i`, `p` or `!p`.
    pub(super) fn predicate_source(&mut self, i: usize) -> Result<PredSource> {
        let (operand, at) = self.operand(i);
        match operand {
            Operand::Name(name) => Ok(PredSource {
                row: self.predicate(name, at)?,
                negated: false,
            }),
            Operand::Not(name) => Ok(PredSource {
                row: self.predicate(name, at)?,
                negated: true,
            }),
            _ => self.bad_at(at, "a predicate is expected here"),
        }
    }

    /// A predicate to write.
    pub(super) fn predicate_destination(&mut self, name: &str, at: Position) -> Result<Row> {
        match self.decoder.names.find(name, at)? {
            Symbol::Register(Reg::Pred(row), _) => {
                self.writes.push(Reg::Pred(row));
                Ok(row)
            }
            _ => self.bad_at(at, format!("`{name}` is not a predicate")),
        }
    }

    /// Operand `i` as `d` or `d|p`, where `d` has type `ty`.
    pub(super) fn destination_pair(&mut self, i: usize, ty: Type) -> Result<(Row, Option<Row>)> {
        let (operand, at) = self.operand(i);
        match operand {
            Operand::Pair(d, p) => {
                let d = self.destination_of(&Operand::Name(d.clone()), at, ty, false)?;
                Ok((d.row(), Some(self.predicate_destination(p, at)?)))
            }
            _ => Ok((self.destination(i, ty)?.row(), None)),
        }
    }

    /// Operand `i` as a literal integer.
    pub(super) fn number(&self, i: usize, range: std::ops::RangeInclusive<i128>) -> Result<u32> {
        let (operand, at) = self.operand(i);
        match operand {
            Operand::Value(Value::Int(value)) if range.contains(value) => Ok(*value as u32),
            _ => self.bad_at(
                at,
                format!(
                    "a number from {} to {} is expected here",
                    range.start(),
                    range.end()
                ),
            ),
        }
    }

    /// The elements of `{a, b}`, or the single operand.
    pub(super) fn parts(&self, i: usize) -> Vec<(&'a Operand, Position)> {
        match self.operand(i) {
            (Operand::Vector(parts), _) => {
                parts.iter().map(|(operand, at)| (operand, *at)).collect()
            }
            single => vec![single],
        }
    }

    pub(super) fn label(&self, i: usize) -> Result<u32> {
        let (operand, at) = self.operand(i);
        let Operand::Name(name) = operand else {
            return self.bad_at(at, "a label is expected here");
        };
        match self.decoder.names.find(name, at)? {
            Symbol::Label(pc) => Ok(pc),
            _ => self.bad_at(at, format!("`{name}` is not a label")),
        }
    }

    /// Operand `i` as an address; `bytes`: the size of the access.
    pub(super) fn target(&mut self, i: usize, space: AccessSpace, bytes: u64) -> Result<Target> {
        let (operand, at) = self.operand(i);
        let Operand::Address(address) = operand else {
            return self.bad_at(at, "an address `[...]` is expected here");
        };
        let offset = address.offset;
        let Base::Name(name) = &address.base else {
            return Ok(Target {
                space,
                base: None,
                offset,
            });
        };
        let symbol = self.decoder.names.find(name, at)?;
        let base = match (symbol, space) {
            (Symbol::Register(reg, ty), _) => {
                let narrow = matches!(space, AccessSpace::In(Space::Shared));
                let fits = !ty.is_float() && (ty.bytes() == 8 || narrow && ty.bytes() == 4);
                if !fits || space == AccessSpace::In(Space::Param) {
                    return self.bad_at(
                        at,
                        format!("`{name}`, of type {ty}, cannot hold this address"),
                    );
                }
                self.reads.push(reg);
                reg
            }
            (
                Symbol::Param {
                    offset: start,
                    bytes: size,
                },
                AccessSpace::In(Space::Param),
            ) => {
                if offset < 0 || offset as u64 + bytes > size {
                    return self.bad_at(
                        at,
                        format!(
                            "out of bounds: bytes {offset}..{} of `{name}`, which has {size}",
                            offset + bytes as i64
                        ),
                    );
                }
                return Ok(Target {
                    space,
                    base: None,
                    offset: start as i64 + offset,
                });
            }
            (Symbol::Shared(address), AccessSpace::In(Space::Shared)) => self
                .decoder
                .names
                .constant(Constant::Bits(address), Type::U64, at)?,
            (Symbol::DynamicShared, AccessSpace::In(Space::Shared)) => self
                .decoder
                .names
                .constant(Constant::DynamicShared, Type::U64, at)?,
            (Symbol::Global(start, actual), AccessSpace::In(space)) if actual == space => self
                .decoder
                .names
                .constant(Constant::Global(start), Type::U64, at)?,
            _ => {
                return self.bad_at(
                    at,
                    format!("`{name}` is not in the state space of this instruction"),
                );
            }
        };
        Ok(Target {
            space,
            base: Some(base),
            offset,
        })
    }
}

impl Cursor<'_, '_> {
    pub(super) fn is_predicate_name(&self, name: &str, at: Position) -> bool {
        matches!(
            self.decoder.names.find(name, at),
            Ok(Symbol::Register(Reg::Pred(_), _))
        )
    }
}
