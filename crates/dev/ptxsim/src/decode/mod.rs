//! From statements to kernels: names become rows, modifiers become fields, and anything unknown is an error.

mod control;
mod convert;
mod cursor;
mod float;
mod flow;
mod integer;
mod memory;
mod mov;
mod names;

use crate::check::SMALLEST;
use crate::error::{Position, Result, SimError, Space};
use crate::ir::{Guard, Inst, Kernel, Op, Param, Reg, Source, Type, register_key};
use crate::parse::{Entry, Parsed, Statement, Value, Variable};
use cursor::Cursor;
use names::{Names, Symbol};
pub(crate) use names::{SHARED_BASE, SHARED_WINDOW};

/// The initial contents of a module's `.global` and `.const` variables. Without an initialiser they are zeros, as the
/// ISA says.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) bytes: Vec<u8>,
}

/// Bytes of all variables of a module; a few lines of text can ask for any number.
const MOST_DATA: u64 = 16 << 20;

/// Decodes every kernel of a module.
pub(crate) fn decode(parsed: &Parsed) -> Result<(Vec<Kernel>, Data)> {
    let mut data = Data::default();
    let mut offsets = Vec::new();
    for variable in &parsed.variables {
        let offset = data.bytes.len().next_multiple_of(variable.align as usize);
        offsets.push(offset as u64);
        if variable.space != Space::Shared {
            if offset as u64 + variable.bytes.unwrap_or(0) > MOST_DATA {
                return Err(SimError::Syntax {
                    at: variable.at,
                    message: format!(
                        "with `{}` the variables of the module are larger than {MOST_DATA} bytes",
                        variable.name
                    ),
                });
            }
            data.bytes.resize(offset, 0);
            initialise(&mut data.bytes, variable)?;
        }
    }
    let kernels = parsed
        .entries
        .iter()
        .map(|entry| kernel(parsed, entry, &offsets))
        .collect::<Result<_>>()?;
    Ok((kernels, data))
}

fn initialise(data: &mut Vec<u8>, variable: &Variable) -> Result<()> {
    let start = data.len();
    let size = variable.ty.bytes() as usize;
    for initial in &variable.initial {
        let bits = literal(initial.value, variable.ty, initial.at)?;
        data.extend_from_slice(&bits.to_le_bytes()[..size]);
    }
    data.resize(start + variable.bytes.unwrap_or(0) as usize, 0);
    Ok(())
}

/// The bits of a literal of type `ty`.
fn literal(value: Value, ty: Type, at: Position) -> Result<u64> {
    let bits = 8 * ty.bytes() as u32;
    let wrong = |what: String| Err(SimError::Syntax { at, message: what });
    match value {
        Value::Int(value) if ty.is_float() => wrong(format!(
            "{value} is an integer, but {ty} needs a float literal"
        )),
        Value::Int(value) if value < -(1 << (bits - 1)) || value >= 1 << bits => {
            wrong(format!("{value} does not fit {bits} bits"))
        }
        Value::Int(value) => Ok((value as u64) & (u64::MAX >> (64 - bits))),
        Value::F32(bits) if matches!(ty, Type::F32 | Type::B32) => Ok(bits.into()),
        Value::F32(bits) if ty == Type::F64 => Ok(f64::from(f32::from_bits(bits)).to_bits()),
        Value::F64(bits) if matches!(ty, Type::F64 | Type::B64) => Ok(bits),
        Value::F64(bits) if ty == Type::F32 => Ok((f64::from_bits(bits) as f32).to_bits().into()),
        _ => wrong(format!("a float literal cannot have the type {ty}")),
    }
}

/// Collects a kernel while its statements are read.
struct Decoder<'a> {
    target: u32,
    names: Names<'a>,
    insts: Vec<Inst>,
    writes: Vec<Vec<Reg>>,
    sources: Vec<Source>,
    global_granule: u32,
    shared_granule: u32,
    in_order: bool,
}

fn kernel(parsed: &Parsed, entry: &Entry, offsets: &[u64]) -> Result<Kernel> {
    let mut decoder = Decoder {
        target: parsed.target,
        names: Names::new(),
        insts: Vec::new(),
        writes: Vec::new(),
        sources: Vec::new(),
        global_granule: 4,
        shared_granule: 4,
        in_order: false,
    };
    for (variable, &offset) in parsed.variables.iter().zip(offsets) {
        decoder.names.declare_variable(variable, offset)?;
    }
    let (params, param_bytes) = decoder.params(&entry.params)?;
    decoder.labels(&entry.body)?;
    for statement in &entry.body {
        decoder.statement(statement)?;
    }
    decoder.end();
    let meets = flow::analyse(&mut decoder.insts, &decoder.writes);
    for (inst, meets) in decoder.insts.iter_mut().zip(meets) {
        inst.meets = meets;
    }
    let names = decoder.names;
    let [rows_32, rows_64, rows_pred] = names.rows();
    Ok(Kernel {
        name: entry.name.clone(),
        params,
        param_bytes,
        max_threads: entry.max_threads,
        required_threads: entry.required_threads,
        insts: decoder.insts,
        sources: decoder.sources,
        rows_32,
        rows_64,
        rows_pred,
        static_shared: names.shared_bytes,
        dynamic_shared_align: names.dynamic_align.unwrap_or(16),
        has_dynamic_shared: names.dynamic_align.is_some(),
        constants: names.constants,
        names: names
            .registers
            .into_iter()
            .map(|(reg, name)| (register_key(reg), name))
            .collect(),
        global_granule: decoder.global_granule.max(SMALLEST),
        shared_granule: decoder.shared_granule,
        in_order: decoder.in_order,
    })
}

impl<'a> Decoder<'a> {
    fn params(&mut self, variables: &'a [Variable]) -> Result<(Vec<Param>, u64)> {
        let mut params = Vec::new();
        let mut end = 0u64;
        for variable in variables {
            let bytes = variable.bytes.unwrap_or(0);
            let offset = end.next_multiple_of(variable.align);
            end = offset + bytes;
            self.names
                .declare(&variable.name, variable.at, Symbol::Param { offset, bytes })?;
            params.push(Param {
                name: variable.name.clone(),
                ty: variable.ty,
                offset,
                bytes,
            });
        }
        Ok((params, end))
    }

    /// Labels may be used before they are declared, so they are collected first.
    fn labels(&mut self, body: &'a [Statement]) -> Result<()> {
        let mut pc = 0;
        for statement in body {
            match statement {
                Statement::Label { name, at } => {
                    self.names.declare(name, *at, Symbol::Label(pc))?
                }
                Statement::Instruction(_) => pc += 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// A kernel that runs past its last instruction returns.
    fn end(&mut self) {
        let at = self
            .sources
            .last()
            .map_or(Position { line: 1, column: 1 }, |source| source.at);
        self.insts.push(Inst {
            guard: None,
            op: Op::Exit,
            reads: Box::default(),
            meets: 0,
        });
        self.writes.push(Vec::new());
        self.sources.push(Source {
            at,
            text: "ret".into(),
        });
    }

    fn statement(&mut self, statement: &'a Statement) -> Result<()> {
        match statement {
            Statement::Open => self.names.open(),
            Statement::Close => self.names.close(),
            Statement::Registers { ty, names } => {
                for (name, at) in names {
                    self.names.declare_register(name, *ty, *at)?;
                }
            }
            Statement::Variable(variable) => self.names.declare_variable(variable, 0)?,
            Statement::Label { .. } => {}
            Statement::Instruction(instruction) => {
                let mut cursor = Cursor::new(self, instruction);
                let guard = cursor.guard()?;
                let op = operation(&mut cursor)?;
                let (reads, writes, text) = cursor.finish();
                // A guarded instruction may leave its outputs unwritten.
                self.writes
                    .push(if guard.is_some() { Vec::new() } else { writes });
                self.insts.push(Inst {
                    guard,
                    op,
                    reads: reads.into(),
                    meets: 0,
                });
                self.sources.push(Source {
                    at: instruction.at,
                    text,
                });
            }
        }
        Ok(())
    }
}

fn operation(cursor: &mut Cursor<'_, '_>) -> Result<Op> {
    match cursor.name() {
        "mov" => mov::mov(cursor),
        "selp" => mov::selp(cursor),
        "slct" => mov::slct(cursor),
        "cvta" => mov::cvta(cursor),
        "cvt" => convert::cvt(cursor),
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "min" | "max" | "abs" | "neg"
            if cursor.mentions(&float::TYPES) =>
        {
            float::arithmetic(cursor)
        }
        "ex2" | "lg2" | "rcp" | "rsqrt" | "sqrt" | "sin" | "cos" | "tanh" | "copysign" => {
            float::arithmetic(cursor)
        }
        "add" | "sub" | "mul" | "mad" | "div" | "rem" | "min" | "max" | "abs" | "neg" | "sad"
        | "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "bfe" | "bfi" | "popc"
        | "clz" | "brev" | "prmt" | "lop3" | "shf" => integer::integer(cursor),
        "setp" => control::setp(cursor),
        "set" => control::set(cursor),
        "bra" => control::bra(cursor),
        "ret" | "exit" => control::exit(cursor),
        "bar" | "barrier" => control::barrier(cursor),
        "membar" | "fence" => control::fence(cursor),
        "shfl" => control::shfl(cursor),
        "vote" => control::vote(cursor),
        "match" => control::match_any(cursor),
        "redux" => control::redux(cursor),
        "activemask" => control::active_mask(cursor),
        "ld" => memory::ld(cursor),
        "st" => memory::st(cursor),
        "atom" | "red" => memory::atom(cursor),
        "prefetch" => memory::prefetch(cursor),
        "cp" => memory::cp_async(cursor),
        "ldmatrix" => memory::ldmatrix(cursor),
        "mma" => memory::mma(cursor),
        _ => cursor.unknown_instruction(),
    }
}

/// `@p`, `@!p`
impl Cursor<'_, '_> {
    fn guard(&mut self) -> Result<Option<Guard>> {
        let Some((name, negated, at)) = &self.instruction().guard else {
            return Ok(None);
        };
        let row = self.predicate(name, *at)?;
        Ok(Some(Guard {
            row,
            negated: *negated,
        }))
    }
}
