//! Emulates AMX for tests, on CPUs that lack it.
//!
//! Such a CPU raises SIGILL at every AMX instruction. The handler does what the instruction would do, and skips it. So
//! tests run the kernels as they are, encodings included. What hardware refuses (a register without a shape, shapes
//! that do not fit together) ends the process here, as it does there.
//!
//! The instructions are those of Intel's Software Developer's Manual, volume 2. `tdpbf16ps` rounds as plain Rust does,
//! and hardware otherwise: it sums in another order, and flushes denormals.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::Once;

use half::bf16;

use super::tiles::{BYTES, REGISTERS, ROWS};

/// Emulates from now on, on all threads.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid `sigaction`, whose fields are set to a handler of three arguments. It is called
        // only where an instruction is illegal, so it interrupts nothing that holds a lock.
        let status = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_illegal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut())
        };
        assert_eq!(status, 0, "no handler for SIGILL");
    });
}

extern "C" fn on_illegal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: Linux passes the interrupted thread's registers, for the handler to change.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    // SAFETY: the instruction pointer is at the illegal instruction.
    let emulated = unsafe { Instruction::decode(registers) }
        .and_then(|i| TILES.with_borrow_mut(|tiles| tiles.run(&i)).map(|()| i.len));
    match emulated {
        Some(len) => registers[libc::REG_RIP as usize] += len,
        // SAFETY: the instruction runs again, and ends the process.
        None => unsafe {
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        },
    }
}

/// An instruction with a VEX prefix of three bytes: VEX.128, map 0F38, W0.
struct Instruction {
    opcode: u8,
    prefix: u8,
    /// The register in ModRM.
    reg: usize,
    /// The register in VEX.
    vex: usize,
    operand: Operand,
    len: i64,
}

/// Prefixes, as VEX encodes them.
const NONE: u8 = 0;
const F3: u8 = 2;
const F2: u8 = 3;

/// The operand in ModRM.
enum Operand {
    Register(usize),
    Memory { base: i64, stride: i64 },
}

impl Instruction {
    /// The instruction that the instruction pointer is at, if it may be one of AMX.
    ///
    /// # Safety
    /// There must be an instruction.
    unsafe fn decode(registers: &[i64; 23]) -> Option<Self> {
        let start = registers[libc::REG_RIP as usize];
        let mut at = start;
        let mut next = || {
            // SAFETY: the caller promises an instruction. No byte is read that it does not have.
            let byte = unsafe { *(at as *const u8) };
            at += 1;
            byte
        };
        let general = |number: u8| registers[GENERAL[usize::from(number)] as usize];
        if next() != 0xc4 {
            return None;
        }
        let (extensions, rest) = (!next(), next());
        let (opcode, mod_rm) = (next(), next());
        if !extensions & 0x1f != 2 || rest & 0x84 != 0 {
            return None;
        }
        let (mode, rm) = (mod_rm >> 6, mod_rm & 7);
        let base_extension = extensions >> 5 & 1;
        let operand = if mode == 3 {
            Operand::Register(usize::from(rm))
        } else {
            let (mut base, mut stride) = (rm, 0);
            if rm == 4 {
                let sib = next();
                base = sib & 7;
                let index = sib >> 3 & 7 | (extensions >> 6 & 1) << 3;
                if index != 4 {
                    stride = general(index) << (sib >> 6);
                }
            }
            // No base at all, or the instruction pointer: no kernel uses these.
            if mode == 0 && base == 5 {
                return None;
            }
            let displacement = match mode {
                0 => 0,
                1 => i64::from(next() as i8),
                _ => i64::from(i32::from_le_bytes(std::array::from_fn(|_| next()))),
            };
            Operand::Memory {
                base: general(base | base_extension << 3) + displacement,
                stride,
            }
        };
        Some(Self {
            opcode,
            prefix: rest & 3,
            reg: usize::from(mod_rm >> 3 & 7),
            vex: usize::from(!rest >> 3 & 0xf),
            operand,
            len: at - start,
        })
    }
}

/// Where Linux keeps each general register.
const GENERAL: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

thread_local! {
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles([Tile::NONE; REGISTERS])) };
}

/// The tile registers of a thread.
struct Tiles([Tile; REGISTERS]);

#[derive(Clone, Copy)]
struct Tile {
    /// 0 without a shape.
    rows: usize,
    bytes: usize,
    data: [[u8; BYTES]; ROWS],
}

impl Tile {
    const NONE: Self = Self {
        rows: 0,
        bytes: 0,
        data: [[0; BYTES]; ROWS],
    };

    /// Four bytes of a row.
    fn word(&self, row: usize, at: usize) -> [u8; 4] {
        self.data[row].as_chunks().0[at]
    }
}

impl Tiles {
    /// `None` for what hardware refuses, and for instructions that no kernel has.
    fn run(&mut self, i: &Instruction) -> Option<()> {
        match (i.opcode, i.prefix, &i.operand) {
            (0x49, NONE, Operand::Memory { base, .. }) if i.reg == 0 => self.configure(*base),
            (0x49, NONE, Operand::Register(0)) => {
                *self = Self([Tile::NONE; REGISTERS]);
                Some(())
            }
            (0x49, F2, Operand::Register(0)) => {
                self.valid(i.reg)?.data = Tile::NONE.data;
                Some(())
            }
            (0x4b, F2, &Operand::Memory { base, stride }) => self.load(i.reg, base, stride),
            (0x4b, F3, &Operand::Memory { base, stride }) => self.store(i.reg, base, stride),
            (0x5c, F3, &Operand::Register(a)) => self.multiply(i.reg, a, i.vex, add_bf16),
            (0x5e, F3, &Operand::Register(a)) => self.multiply(i.reg, a, i.vex, add_bytes),
            _ => None,
        }
    }

    /// A register that has a shape, and rows of whole words.
    fn valid(&mut self, register: usize) -> Option<&mut Tile> {
        let tile = self.0.get_mut(register)?;
        (tile.rows > 0 && tile.bytes.is_multiple_of(4)).then_some(tile)
    }

    fn configure(&mut self, address: i64) -> Option<()> {
        // SAFETY: the instruction reads these bytes.
        let config = unsafe { *(address as *const [u8; 64]) };
        let (head, rest) = config.split_at(16);
        let (bytes, rows) = rest.split_at(32);
        let mut unused = head[1..]
            .iter()
            .chain(&bytes[2 * REGISTERS..])
            .chain(&rows[REGISTERS..]);
        if head[0] != 1 || unused.any(|&byte| byte != 0) {
            return None;
        }
        for (i, tile) in self.0.iter_mut().enumerate() {
            let bytes = usize::from(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]));
            let rows = usize::from(rows[i]);
            if rows > ROWS || bytes > BYTES || (rows == 0) != (bytes == 0) {
                return None;
            }
            *tile = Tile {
                rows,
                bytes,
                ..Tile::NONE
            };
        }
        Some(())
    }

    fn load(&mut self, register: usize, base: i64, stride: i64) -> Option<()> {
        let tile = self.valid(register)?;
        tile.data = Tile::NONE.data;
        for (row, data) in (0..).zip(&mut tile.data[..tile.rows]) {
            let from = (base + row * stride) as *const u8;
            // SAFETY: the instruction reads these bytes.
            unsafe { std::ptr::copy_nonoverlapping(from, data.as_mut_ptr(), tile.bytes) };
        }
        Some(())
    }

    fn store(&mut self, register: usize, base: i64, stride: i64) -> Option<()> {
        let tile = self.valid(register)?;
        for (row, data) in (0..).zip(&tile.data[..tile.rows]) {
            let to = (base + row * stride) as *mut u8;
            // SAFETY: the instruction writes these bytes.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, tile.bytes) };
        }
        Some(())
    }

    /// `c += a * b`, where `add` adds the product of four bytes to an element of `c`.
    fn multiply(
        &mut self,
        c: usize,
        a: usize,
        b: usize,
        add: impl Fn([u8; 4], [u8; 4], [u8; 4]) -> [u8; 4],
    ) -> Option<()> {
        let (a_tile, b_tile) = (*self.valid(a)?, *self.valid(b)?);
        let c_tile = self.valid(c)?;
        let fits = c_tile.rows == a_tile.rows
            && c_tile.bytes == b_tile.bytes
            && a_tile.bytes == 4 * b_tile.rows;
        if !fits || a == b || a == c || b == c {
            return None;
        }
        for row in 0..c_tile.rows {
            for k in 0..b_tile.rows {
                for column in 0..c_tile.bytes / 4 {
                    let sum = c_tile.word(row, column);
                    let sum = add(sum, a_tile.word(row, k), b_tile.word(k, column));
                    c_tile.data[row][4 * column..][..4].copy_from_slice(&sum);
                }
            }
        }
        Some(())
    }
}

/// Signed bytes times unsigned ones.
fn add_bytes(sum: [u8; 4], a: [u8; 4], b: [u8; 4]) -> [u8; 4] {
    let products = a
        .into_iter()
        .zip(b)
        .map(|(a, b)| i32::from(a as i8) * i32::from(b));
    products
        .fold(i32::from_le_bytes(sum), i32::wrapping_add)
        .to_le_bytes()
}

fn add_bf16(sum: [u8; 4], a: [u8; 4], b: [u8; 4]) -> [u8; 4] {
    let pair = |[a, b, c, d]: [u8; 4]| [[a, b], [c, d]].map(|x| bf16::from_le_bytes(x).to_f32());
    let products = pair(a).into_iter().zip(pair(b)).map(|(a, b)| a * b);
    products
        .fold(f32::from_le_bytes(sum), |sum, x| sum + x)
        .to_le_bytes()
}
