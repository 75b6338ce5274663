//! The grammar of a module: directives, declarations, and the outline of instructions.

use super::lexer::{Spanned, Token, integer, lex, syntax};
use super::tree::{
    Address, Base, Entry, Initial, Instruction, Operand, Parsed, Statement, Value, Variable,
};
use crate::error::{Position, Result, SimError, Space};
use crate::ir::Type;

/// The most registers of one declaration, and the most elements of one array. More than that is a mistake.
const MOST_REGISTERS: u32 = 4096;
const MOST_BYTES: u64 = 1 << 28;
/// The alignment of device memory and of the start of shared memory.
const MOST_ALIGN: u32 = 256;
const MOST_PARAM_BYTES: u64 = 4096;

/// Parses a whole module.
pub(crate) fn parse(source: &str) -> Result<Parsed> {
    let mut parser = Parser {
        tokens: lex(source)?,
        next: 0,
    };
    parser.module()
}

struct Parser {
    tokens: Vec<Spanned>,
    next: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].token
    }

    fn at(&self) -> Position {
        self.tokens[self.next].at
    }

    fn take(&mut self) -> (Token, Position) {
        let Spanned { token, at, .. } = self.tokens[self.next].clone();
        self.next = (self.next + 1).min(self.tokens.len() - 1);
        (token, at)
    }

    fn expected<T>(&self, what: &str) -> Result<T> {
        Err(syntax(
            self.at(),
            format!("expected {what}, found {}", self.peek()),
        ))
    }

    fn is(&self, c: char) -> bool {
        *self.peek() == Token::Punct(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let there = self.is(c);
        if there {
            self.take();
        }
        there
    }

    fn need(&mut self, c: char) -> Result<()> {
        if self.eat(c) {
            Ok(())
        } else {
            self.expected(&format!("`{c}`"))
        }
    }

    fn eat_dot(&mut self, word: &str) -> bool {
        let there = matches!(self.peek(), Token::Dot(dot) if dot == word);
        if there {
            self.take();
        }
        there
    }

    fn word(&mut self, what: &str) -> Result<(String, Position)> {
        match self.peek() {
            Token::Word(_) => match self.take() {
                (Token::Word(word), at) => Ok((word, at)),
                _ => unreachable!("just peeked"),
            },
            _ => self.expected(what),
        }
    }

    fn dot(&mut self, what: &str) -> Result<(String, Position)> {
        match self.peek() {
            Token::Dot(_) => match self.take() {
                (Token::Dot(word), at) => Ok((word, at)),
                _ => unreachable!("just peeked"),
            },
            _ => self.expected(what),
        }
    }

    fn number(&mut self, what: &str) -> Result<String> {
        match self.peek().clone() {
            Token::Number(word) => {
                self.take();
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    fn unsigned(&mut self, what: &str) -> Result<u32> {
        let at = self.at();
        let word = self.number(what)?;
        u32::try_from(integer(&word, at)?).map_err(|_| syntax(at, format!("{word} is too large")))
    }

    fn module(&mut self) -> Result<Parsed> {
        let at = self.at();
        if !self.eat_dot("version") {
            return self.expected("`.version`");
        }
        let text = self.number("a version such as 8.0")?;
        let is_version = text
            .split_once('.')
            .is_some_and(|(a, b)| a.parse::<u8>().is_ok() && b.parse::<u8>().is_ok());
        if !is_version {
            return Err(syntax(at, format!("`{text}` is not a version such as 8.0")));
        }
        if !self.eat_dot("target") {
            return self.expected("`.target`");
        }
        let (name, at) = self.word("a target such as sm_80")?;
        let target = name
            .strip_prefix("sm_")
            .and_then(|n| n.trim_end_matches('a').parse().ok());
        let target =
            target.ok_or_else(|| syntax(at, format!("`{name}` is not a target such as sm_80")))?;
        if self.eat_dot("address_size") {
            let at = self.at();
            if self.unsigned("64")? != 64 {
                return Err(syntax(at, "the address size must be 64"));
            }
        }
        let mut parsed = Parsed {
            target,
            variables: Vec::new(),
            entries: Vec::new(),
        };
        while *self.peek() != Token::End {
            self.top_level(&mut parsed)?;
        }
        Ok(parsed)
    }

    fn top_level(&mut self, parsed: &mut Parsed) -> Result<()> {
        let visible = self.eat_dot("visible");
        let is_extern = !visible && self.eat_dot("extern");
        let (directive, at) = self.dot("a directive")?;
        match directive.as_str() {
            "entry" if !is_extern => {
                let entry = self.entry()?;
                if parsed.entries.iter().any(|other| other.name == entry.name) {
                    return Err(SimError::DuplicateName {
                        at,
                        name: entry.name,
                    });
                }
                parsed.entries.push(entry);
            }
            "shared" => parsed
                .variables
                .push(self.variable(Space::Shared, is_extern)?),
            "global" if !is_extern => parsed.variables.push(self.variable(Space::Global, false)?),
            "const" if !is_extern => parsed.variables.push(self.variable(Space::Const, false)?),
            _ => {
                return Err(SimError::UnknownDirective {
                    at,
                    name: format!(".{directive}"),
                });
            }
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<Entry> {
        let (name, _) = self.word("the kernel's name")?;
        let mut params: Vec<Variable> = Vec::new();
        if self.eat('(') && !self.eat(')') {
            loop {
                params.push(self.param()?);
                if self.eat(')') {
                    break;
                }
                self.need(',')?;
            }
        }
        let mut entry = Entry {
            name,
            params,
            max_threads: None,
            required_threads: None,
            body: Vec::new(),
        };
        while !self.is('{') {
            let (directive, at) = self.dot("`{` or a performance directive")?;
            match directive.as_str() {
                "maxntid" => entry.max_threads = Some(self.extent()?),
                "reqntid" => entry.required_threads = Some(self.extent()?),
                // These limit what ptxas may use, and change no result.
                "minnctapersm" | "maxnreg" => {
                    self.unsigned("a number")?;
                }
                _ => {
                    return Err(SimError::UnknownDirective {
                        at,
                        name: format!(".{directive}"),
                    });
                }
            }
        }
        self.take();
        self.body(&mut entry.body)?;
        Ok(entry)
    }

    fn extent(&mut self) -> Result<[u32; 3]> {
        let mut extent = [1; 3];
        for (i, size) in extent.iter_mut().enumerate() {
            if i > 0 && !self.eat(',') {
                break;
            }
            *size = self.unsigned("a number of threads")?;
        }
        Ok(extent)
    }

    fn param(&mut self) -> Result<Variable> {
        if !self.eat_dot("param") {
            return self.expected("`.param`");
        }
        let mut align = self.align()?;
        let (ty, _) = self.ty()?;
        if self.eat_dot("ptr") {
            for space in ["global", "const", "shared"] {
                if self.eat_dot(space) {
                    break;
                }
            }
            // This is the alignment of the pointer's target, not of the parameter itself.
            self.align()?;
        }
        let (name, at) = self.word("the parameter's name")?;
        let bytes = match self.array()? {
            None => ty.bytes(),
            Some(Some(count)) => count.saturating_mul(ty.bytes()),
            Some(None) => return Err(syntax(at, "a parameter has a size")),
        };
        if bytes > MOST_PARAM_BYTES {
            return Err(syntax(
                at,
                format!("a parameter has at most {MOST_PARAM_BYTES} bytes"),
            ));
        }
        align = align.max(ty.bytes());
        Ok(Variable {
            space: Space::Param,
            name,
            at,
            ty,
            align,
            bytes: Some(bytes),
            initial: Vec::new(),
        })
    }

    /// `.align n`, or 1.
    fn align(&mut self) -> Result<u64> {
        if !self.eat_dot("align") {
            return Ok(1);
        }
        let at = self.at();
        match self.unsigned("an alignment")? {
            align if align.is_power_of_two() && align <= MOST_ALIGN => Ok(align.into()),
            align => Err(syntax(
                at,
                format!("{align} is not a power of two up to {MOST_ALIGN}"),
            )),
        }
    }

    fn ty(&mut self) -> Result<(Type, Position)> {
        let (name, at) = self.dot("a type")?;
        match Type::named(&name) {
            Some(ty) => Ok((ty, at)),
            None => Err(syntax(at, format!("`.{name}` is not a type"))),
        }
    }

    /// `[count]` or `[rows][columns]`: `None` for no array, `Some(None)` for an open size, otherwise the number of
    /// elements.
    fn array(&mut self) -> Result<Option<Option<u64>>> {
        if !self.eat('[') {
            return Ok(None);
        }
        if self.eat(']') {
            return Ok(Some(None));
        }
        let mut count = 1u64;
        loop {
            count = count.saturating_mul(self.unsigned("a number of elements")?.into());
            self.need(']')?;
            if !self.eat('[') {
                return Ok(Some(Some(count)));
            }
        }
    }

    fn variable(&mut self, space: Space, is_extern: bool) -> Result<Variable> {
        let align = self.align()?;
        let (ty, at) = self.ty()?;
        if ty == Type::Pred {
            return Err(syntax(at, "a predicate cannot live in memory"));
        }
        let (name, at) = self.word("a name")?;
        let bytes = match self.array()? {
            None if is_extern => return Err(syntax(at, "an extern array has the form name[]")),
            None => Some(ty.bytes()),
            Some(Some(count)) => Some(count.saturating_mul(ty.bytes())),
            Some(None) if is_extern => None,
            Some(None) => {
                return Err(syntax(
                    at,
                    "only `.extern .shared` arrays may leave their size open",
                ));
            }
        };
        if bytes.is_some_and(|bytes| bytes > MOST_BYTES) {
            return Err(syntax(
                at,
                format!("`{name}` is larger than {MOST_BYTES} bytes"),
            ));
        }
        let mut initial = Vec::new();
        if self.eat('=') {
            if space == Space::Shared {
                return Err(syntax(at, "shared memory has no initialiser"));
            }
            initial = self.initialiser()?;
            if bytes.is_some_and(|bytes| initial.len() as u64 * ty.bytes() > bytes) {
                return Err(syntax(at, "the initialiser is longer than the array"));
            }
        }
        self.need(';')?;
        Ok(Variable {
            space,
            name,
            at,
            ty,
            align: align.max(ty.bytes()),
            bytes,
            initial,
        })
    }

    fn initialiser(&mut self) -> Result<Vec<Initial>> {
        if !self.eat('{') {
            return Ok(vec![self.initial()?]);
        }
        let mut values = vec![self.initial()?];
        while self.eat(',') {
            values.push(self.initial()?);
        }
        self.need('}')?;
        Ok(values)
    }

    fn initial(&mut self) -> Result<Initial> {
        let at = self.at();
        match self.value()? {
            Some(value) => Ok(Initial { value, at }),
            None => self.expected("a number"),
        }
    }

    fn body(&mut self, body: &mut Vec<Statement>) -> Result<()> {
        let mut depth = 0;
        loop {
            let at = self.at();
            match self.peek().clone() {
                Token::Punct('{') => {
                    self.take();
                    depth += 1;
                    body.push(Statement::Open);
                }
                Token::Punct('}') => {
                    self.take();
                    if depth == 0 {
                        return Ok(());
                    }
                    depth -= 1;
                    body.push(Statement::Close);
                }
                Token::Punct(';') => {
                    self.take();
                }
                Token::Dot(name) => {
                    self.take();
                    match name.as_str() {
                        "reg" => body.push(self.registers()?),
                        "shared" => {
                            body.push(Statement::Variable(self.variable(Space::Shared, false)?))
                        }
                        "pragma" => self.pragma()?,
                        _ => {
                            return Err(SimError::UnknownDirective {
                                at,
                                name: format!(".{name}"),
                            });
                        }
                    }
                }
                Token::Word(name) if self.tokens[self.next + 1].token == Token::Punct(':') => {
                    self.take();
                    self.take();
                    body.push(Statement::Label { name, at });
                }
                Token::Word(_) | Token::Punct('@') => {
                    body.push(Statement::Instruction(self.instruction()?))
                }
                _ => return self.expected("an instruction, a directive or `}`"),
            }
        }
    }

    /// `.pragma "nounroll"` is a hint; other pragmas are unknown.
    fn pragma(&mut self) -> Result<()> {
        match self.take() {
            (Token::Text(text), _) if text == "nounroll" => self.need(';'),
            (token, at) => Err(syntax(at, format!("the pragma {token} is not known"))),
        }
    }

    fn registers(&mut self) -> Result<Statement> {
        let (ty, at) = self.ty()?;
        if matches!(
            ty,
            Type::B8 | Type::U8 | Type::S8 | Type::Bf16 | Type::Bf16x2 | Type::Tf32
        ) {
            return Err(syntax(at, format!("a register cannot have the type {ty}")));
        }
        let mut names = Vec::new();
        loop {
            let (name, at) = self.word("a register's name")?;
            if self.eat('<') {
                let count = self.unsigned("a number of registers")?;
                if count > MOST_REGISTERS {
                    return Err(syntax(
                        at,
                        format!("{count} registers are more than {MOST_REGISTERS}"),
                    ));
                }
                self.need('>')?;
                names.extend((0..count).map(|i| (format!("{name}{i}"), at)));
            } else {
                names.push((name, at));
            }
            if self.eat(';') {
                return Ok(Statement::Registers { ty, names });
            }
            self.need(',')?;
        }
    }

    fn instruction(&mut self) -> Result<Instruction> {
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            let (name, at) = self.word("a predicate")?;
            guard = Some((name, negated, at));
        }
        let (name, at) = self.word("an instruction")?;
        let mut modifiers = Vec::new();
        while matches!(self.peek(), Token::Dot(_)) && !self.tokens[self.next].spaced {
            modifiers.push(self.dot("a modifier")?);
        }
        let mut operands = Vec::new();
        if !self.is(';') {
            operands.push(self.operand()?);
            while self.eat(',') {
                operands.push(self.operand()?);
            }
        }
        self.need(';')?;
        Ok(Instruction {
            at,
            guard,
            name,
            modifiers,
            operands,
        })
    }

    fn operand(&mut self) -> Result<(Operand, Position)> {
        let at = self.at();
        let operand = match self.peek() {
            Token::Punct('{') => {
                self.take();
                let mut parts = vec![self.scalar()?];
                while self.eat(',') {
                    parts.push(self.scalar()?);
                }
                self.need('}')?;
                Operand::Vector(parts)
            }
            Token::Punct('[') => {
                self.take();
                let address = self.address()?;
                self.need(']')?;
                Operand::Address(address)
            }
            _ => return self.scalar(),
        };
        Ok((operand, at))
    }

    fn scalar(&mut self) -> Result<(Operand, Position)> {
        let at = self.at();
        if let Some(value) = self.value()? {
            return Ok((Operand::Value(value), at));
        }
        if self.eat('!') {
            return Ok((Operand::Not(self.word("a predicate")?.0), at));
        }
        let name = self.name()?;
        if self.eat('|') {
            return Ok((Operand::Pair(name, self.word("a predicate")?.0), at));
        }
        Ok((Operand::Name(name), at))
    }

    /// A name, with the `.x` of a special register.
    fn name(&mut self) -> Result<String> {
        let (mut name, _) = self.word("an operand")?;
        if matches!(self.peek(), Token::Dot(_)) && !self.tokens[self.next].spaced {
            let (part, _) = self.dot("x, y or z")?;
            name = format!("{name}.{part}");
        }
        Ok(name)
    }

    /// A literal, if the next token is one.
    fn value(&mut self) -> Result<Option<Value>> {
        let at = self.at();
        let negative = self.eat('-');
        let value = match self.peek().clone() {
            Token::Number(word) if word.contains('.') => match word.parse::<f64>() {
                Ok(value) => Value::F64(if negative { -value } else { value }.to_bits()),
                Err(_) => return Err(syntax(at, format!("`{word}` is not a number"))),
            },
            Token::Number(word) => {
                let value = integer(&word, at)?;
                Value::Int(if negative { -value } else { value })
            }
            Token::F32(bits) => Value::F32(bits ^ (u32::from(negative) << 31)),
            Token::F64(bits) => Value::F64(bits ^ (u64::from(negative) << 63)),
            _ if negative => return self.expected("a number after `-`"),
            _ => return Ok(None),
        };
        self.take();
        Ok(Some(value))
    }

    fn address(&mut self) -> Result<Address> {
        let at = self.at();
        if let Some(value) = self.value()? {
            let offset = offset(value, at)?;
            return Ok(Address {
                base: Base::Absolute,
                offset,
            });
        }
        let base = Base::Name(self.name()?);
        let at = self.at();
        let plus = self.eat('+');
        let value = if plus || self.is('-') {
            self.value()?
        } else {
            Some(Value::Int(0))
        };
        match value {
            Some(value) => Ok(Address {
                base,
                offset: offset(value, at)?,
            }),
            None => self.expected("an offset in bytes"),
        }
    }
}

fn offset(value: Value, at: Position) -> Result<i64> {
    match value {
        Value::Int(value) => {
            i64::try_from(value).map_err(|_| syntax(at, "this offset is too large"))
        }
        _ => Err(syntax(at, "an offset is an integer")),
    }
}
