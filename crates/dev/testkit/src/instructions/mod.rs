//! One-instruction kernels, and the results that the PTX ISA specifies.
//!
//! A case has an instruction, operands, and for each tuple of operands the result: bits, or a value and the error that
//! the ISA allows. The results come from independent arithmetic (`oracle.rs`, Rust's integers, values by hand), not
//! from the simulator. So the table works for the simulator and for a GPU alike: launch [`Case::ptx`] with
//! [`Case::input`], an output of 8 bytes per row and the number of rows, and pass the output to [`Case::check`].

mod compare;
mod convert;
mod float;
mod half;
mod integer;
mod oracle;
mod warp;

/// Threads of a block that runs a case.
pub const THREADS: u32 = 128;

/// An instruction and its operands.
pub struct Case {
    /// PTX on the registers `%a`, `%b`, `%c`, `%e`, that writes `%d`; `%p` and `%q` are free predicates, `%x` and `%y`
    /// `.b32`.
    pub body: String,
    /// The types of `%a`, `%b`, ...
    pub operands: &'static [&'static str],
    /// The type of `%d`.
    pub result: &'static str,
    pub rows: Vec<Row>,
}

/// Operands, and the result.
pub struct Row {
    pub operands: Vec<u64>,
    pub expected: Expected,
}

/// The expected result.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    Bits(u64),
    /// Any NaN: the ISA leaves the payload undefined.
    Nan,
    /// A value within the larger of an absolute error and a relative one.
    Near {
        value: f64,
        absolute: f64,
        relative: f64,
    },
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        integer::cases(),
        float::cases(),
        half::cases(),
        convert::cases(),
        compare::cases(),
        warp::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn bytes(ty: &str) -> u32 {
    ty.trim_start_matches(|c: char| c.is_ascii_alphabetic())
        .trim_end_matches("x2")
        .parse::<u32>()
        .unwrap()
        / 8
        * if ty.ends_with("x2") { 2 } else { 1 }
}

impl Case {
    /// A module with the kernel `k(in, out, rows)`: thread i takes row i.
    pub fn ptx(&self) -> String {
        let stride = 8 * self.operands.len();
        let mut declare = format!(".reg .{} %d;\n", self.result);
        let mut load = String::new();
        for (i, (name, ty)) in ["a", "b", "c", "e"].iter().zip(self.operands).enumerate() {
            declare += &format!(".reg .{ty} %{name};\n");
            load += &format!("ld.global.{} %{name}, [%in+{}];\n", memory_type(ty), 8 * i);
        }
        let store = match bytes(self.result) {
            2 => "mov.b32 %x, {%d, %zero}; cvt.u64.u32 %wide, %x;".to_owned(),
            4 => "mov.b32 %x, %d; cvt.u64.u32 %wide, %x;".to_owned(),
            _ => "mov.b64 %wide, %d;".to_owned(),
        };
        format!(
            ".version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out, .param .u32 rows) {{
.reg .pred %p, %q, %end;
.reg .b16 %zero;
.reg .b32 %x, %y, %i, %n;
.reg .b64 %in, %out, %offset, %wide;
{declare}mov.u16 %zero, 0;
mov.u32 %i, %ctaid.x; mov.u32 %n, %ntid.x; mad.lo.u32 %i, %i, %n, 0;
mov.u32 %n, %tid.x; add.u32 %i, %i, %n;
ld.param.u32 %n, [rows]; setp.ge.u32 %end, %i, %n; @%end exit;
ld.param.u64 %in, [in]; mul.wide.u32 %offset, %i, {stride}; add.u64 %in, %in, %offset;
ld.param.u64 %out, [out]; mul.wide.u32 %offset, %i, 8; add.u64 %out, %out, %offset;
{load}{}
{store}
st.global.b64 [%out], %wide;
ret;
}}
",
            self.body
        )
    }

    /// The operands of all rows, 8 bytes each.
    pub fn input(&self) -> Vec<u8> {
        self.rows
            .iter()
            .flat_map(|row| &row.operands)
            .flat_map(|x| x.to_le_bytes())
            .collect()
    }

    /// The number of blocks needed.
    pub fn blocks(&self) -> u32 {
        (self.rows.len() as u32).div_ceil(THREADS)
    }

    /// Compares the output, 8 bytes per row, with the expected results.
    pub fn check(&self, output: &[u8]) -> Result<(), String> {
        assert_eq!(output.len(), 8 * self.rows.len());
        for (i, (row, out)) in self.rows.iter().zip(output.chunks_exact(8)).enumerate() {
            let bits = u64::from_le_bytes(out.try_into().unwrap());
            let fits = match row.expected {
                Expected::Bits(expected) => bits == expected,
                Expected::Nan => self.value(bits).is_nan(),
                Expected::Near {
                    value,
                    absolute,
                    relative,
                } => {
                    let error = (self.value(bits) - value).abs();
                    error <= absolute.max(relative * value.abs())
                }
            };
            if !fits {
                let Row { operands, expected } = row;
                return Err(format!(
                    "{}\nrow {i}: {operands:#x?} gives {bits:#x}, but must be {expected:x?}",
                    self.body
                ));
            }
        }
        Ok(())
    }

    fn value(&self, bits: u64) -> f64 {
        match (self.result, self.body.contains("bf16")) {
            ("f64", _) => f64::from_bits(bits),
            ("b16", true) => ::half::bf16::from_bits(bits as u16).into(),
            ("f16" | "b16", _) => ::half::f16::from_bits(bits as u16).into(),
            _ => f32::from_bits(bits as u32).into(),
        }
    }
}

/// The type used to load a register of type `ty`.
fn memory_type(ty: &str) -> String {
    format!("b{}", 8 * bytes(ty))
}

/// A case from rows of operands and a function that gives their result.
fn case<const N: usize>(
    body: impl Into<String>,
    operands: &'static [&'static str; N],
    result: &'static str,
    rows: &[[u64; N]],
    f: impl Fn([u64; N]) -> Expected,
) -> Case {
    let rows = rows
        .iter()
        .map(|&row| Row {
            operands: row.into(),
            expected: f(row),
        })
        .collect();
    Case {
        body: body.into(),
        operands,
        result,
        rows,
    }
}

/// Pseudo-random numbers, the same in every run (SplitMix64).
fn random(count: usize) -> impl Iterator<Item = u64> {
    (1..=count as u64).map(|i| {
        let mut x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    })
}

/// All pairs of `edges`, and pairs of random numbers masked with `mask`.
fn pairs(edges: &[u64], mask: u64) -> Vec<[u64; 2]> {
    let mut rows: Vec<_> = edges
        .iter()
        .flat_map(|&a| edges.iter().map(move |&b| [a, b]))
        .collect();
    let numbers: Vec<u64> = random(128).map(|x| x & mask).collect();
    rows.extend(numbers.chunks_exact(2).map(|pair| [pair[0], pair[1]]));
    rows
}

/// Triples of neighbours in `edges`, at several distances, and of random numbers.
fn triples(edges: &[u64], mask: u64) -> Vec<[u64; 3]> {
    let n = edges.len();
    let mut rows: Vec<_> = (0..n)
        .flat_map(|i| (0..n).map(move |j| [i, (i + j) % n, (i + 2 * j + 1) % n]))
        .map(|picks| picks.map(|i| edges[i]))
        .collect();
    let numbers: Vec<u64> = random(192).map(|x| x & mask).collect();
    rows.extend(
        numbers
            .chunks_exact(3)
            .map(|three| [three[0], three[1], three[2]]),
    );
    rows
}

/// Single operands.
fn singles(edges: &[u64], mask: u64) -> Vec<[u64; 1]> {
    edges
        .iter()
        .copied()
        .chain(random(64).map(|x| x & mask))
        .map(|a| [a])
        .collect()
}
