//! The element types of GGUF. [`BlockFormat`] covers those that products take directly. The others are here
//! (`dequantize_row_*` of ggml's `ggml-quants.c`), with f32 operations in the same order, so that every bit matches
//! ggml's.

use half::{bf16, f16};
use selfie_kernels::{BlockFormat, DType};

/// Values in a block of the types whose names end with `_K`.
const K: usize = 256;
/// The 16 levels of IQ4_NL.
const IQ4_LEVELS: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The storage type of a tensor's values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockType {
    /// The type's number in the file.
    pub(super) id: u32,
    /// The name in ggml.
    pub(crate) name: &'static str,
    /// Values in a block.
    pub(crate) values: usize,
    /// Bytes of a block.
    pub(crate) bytes: usize,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// Plain values, one after the other.
    Plain(DType),
    Blocks(BlockFormat),
    Quantized(fn(&[u8], &mut [f32])),
}

impl BlockType {
    pub(super) const ALL: [BlockType; 14] = [
        plain(0, "F32", DType::F32),
        plain(1, "F16", DType::F16),
        plain(30, "BF16", DType::Bf16),
        blocks(2, "Q4_0", BlockFormat::Q4_0),
        blocks(3, "Q4_1", BlockFormat::Q4_1),
        blocks(6, "Q5_0", BlockFormat::Q5_0),
        blocks(7, "Q5_1", BlockFormat::Q5_1),
        blocks(8, "Q8_0", BlockFormat::Q8_0),
        quantized(10, "Q2_K", K, 84, q2_k),
        quantized(11, "Q3_K", K, 110, q3_k),
        blocks(12, "Q4_K", BlockFormat::Q4K),
        blocks(13, "Q5_K", BlockFormat::Q5K),
        blocks(14, "Q6_K", BlockFormat::Q6K),
        quantized(20, "IQ4_NL", 32, 18, iq4_nl),
    ];

    pub(super) fn find(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id == id)
    }

    /// The name of an unsupported type, or its number.
    pub(super) fn unknown_name(id: u32) -> String {
        const OTHERS: [(u32, &str); 17] = [
            (9, "Q8_1"),
            (15, "Q8_K"),
            (16, "IQ2_XXS"),
            (17, "IQ2_XS"),
            (18, "IQ3_XXS"),
            (19, "IQ1_S"),
            (21, "IQ3_S"),
            (22, "IQ2_S"),
            (23, "IQ4_XS"),
            (24, "I8"),
            (25, "I16"),
            (26, "I32"),
            (27, "I64"),
            (28, "F64"),
            (29, "IQ1_M"),
            (34, "TQ1_0"),
            (35, "TQ2_0"),
        ];
        let name = OTHERS.iter().find(|(known, _)| *known == id);
        name.map_or_else(|| format!("type {id}"), |(_, name)| (*name).to_owned())
    }

    /// The type of the values as stored; `None` for quantized ones.
    pub(crate) fn plain(self) -> Option<DType> {
        match self.form {
            Form::Plain(dtype) => Some(dtype),
            Form::Blocks(_) | Form::Quantized(_) => None,
        }
    }

    /// The block format, if products take it.
    pub(crate) fn blocks(self) -> Option<BlockFormat> {
        match self.form {
            Form::Blocks(format) => Some(format),
            Form::Plain(_) | Form::Quantized(_) => None,
        }
    }

    /// Appends the values of whole blocks.
    pub(crate) fn append(self, blocks: &[u8], values: &mut Vec<f32>) {
        match self.form {
            Form::Plain(dtype) => values.extend(dtype.to_f32(blocks)),
            Form::Blocks(format) => format.dequantize(blocks, values),
            Form::Quantized(dequantize) => {
                for block in blocks.chunks_exact(self.bytes) {
                    let start = values.len();
                    values.resize(start + self.values, 0.0);
                    dequantize(block, &mut values[start..]);
                }
            }
        }
    }
}

const fn plain(id: u32, name: &'static str, dtype: DType) -> BlockType {
    let bytes = match dtype {
        DType::F32 => size_of::<f32>(),
        DType::F16 => size_of::<f16>(),
        DType::Bf16 => size_of::<bf16>(),
    };
    BlockType {
        id,
        name,
        values: 1,
        bytes,
        form: Form::Plain(dtype),
    }
}

const fn blocks(id: u32, name: &'static str, format: BlockFormat) -> BlockType {
    BlockType {
        id,
        name,
        values: format.values(),
        bytes: format.bytes(),
        form: Form::Blocks(format),
    }
}

const fn quantized(
    id: u32,
    name: &'static str,
    values: usize,
    bytes: usize,
    dequantize: fn(&[u8], &mut [f32]),
) -> BlockType {
    BlockType {
        id,
        name,
        values,
        bytes,
        form: Form::Quantized(dequantize),
    }
}

/// The f16 at byte `at` of a block.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low or the high four bits of a byte.
fn nibble(byte: u8, high: bool) -> u8 {
    if high { byte >> 4 } else { byte & 0xf }
}

fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        out[j] = d * f32::from(IQ4_LEVELS[usize::from(q & 0xf)]);
        out[j + 16] = d * f32::from(IQ4_LEVELS[usize::from(q >> 4)]);
    }
}

/// The two bits of value `at` of a Q2_K or Q3_K block: 32 bytes hold 128 values, the lowest bits first.
fn two_bits(quants: &[u8], at: usize) -> u8 {
    let byte = quants[at / 128 * 32 + at % 32];
    byte >> (at % 128 / 32 * 2) & 3
}

fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, min) = (half(block, 80), half(block, 82));
    for (at, out) in out.iter_mut().enumerate() {
        let scale = scales[at / 16];
        let dl = d * f32::from(scale & 0xf);
        let ml = min * f32::from(scale >> 4);
        *out = dl * f32::from(two_bits(quants, at)) - ml;
    }
}

fn q3_k(block: &[u8], out: &mut [f32]) {
    let (mask, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    // 16 scales of 6 bits: four low bits in bytes 0..8, two high ones in bytes 8..12.
    let scale = |at: usize| {
        let low = nibble(packed[at % 8], at >= 8);
        let high = packed[8 + at % 4] >> (at / 4 * 2) & 3;
        i32::from(low | high << 4) - 32
    };
    for (at, out) in out.iter_mut().enumerate() {
        let dl = d * scale(at / 16) as f32;
        let is_high = mask[at % 32] >> (at / 32) & 1 == 1;
        let q = i32::from(two_bits(quants, at)) - if is_high { 0 } else { 4 };
        *out = dl * q as f32;
    }
}
