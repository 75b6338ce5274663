//! Storage formats of weight matrices: plain values, or ggml's blocks.

use std::fmt;
use std::str::FromStr;

use half::f16;

use crate::DType;

/// How the values of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// As plain values.
    Plain(DType),
    /// Quantized, in blocks.
    Blocks(BlockFormat),
}

impl Format {
    /// Bytes of a row of `columns` values. The last block may extend past the end of the row.
    pub const fn row_bytes(self, columns: usize) -> usize {
        match self {
            Format::Plain(dtype) => columns * dtype.size(),
            Format::Blocks(format) => columns.div_ceil(format.values()) * format.bytes(),
        }
    }
}

impl From<DType> for Format {
    fn from(dtype: DType) -> Self {
        Format::Plain(dtype)
    }
}

impl From<BlockFormat> for Format {
    fn from(format: BlockFormat) -> Self {
        Format::Blocks(format)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Format::Plain(dtype) => dtype.fmt(f),
            Format::Blocks(format) => format.fmt(f),
        }
    }
}

/// A block format of ggml (`block_q8_0` and so on in `ggml-common.h`). A value is `d * q` or `d * q + m`: a few
/// neighbours in a row share the scale `d` and, in some formats, the minimum `m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 32 values of 8 bits and a scale.
    Q8_0,
    /// 32 values of 4 bits and a scale.
    Q4_0,
    /// 32 values of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 values of 5 bits and a scale.
    Q5_0,
    /// 32 values of 5 bits, a scale and a minimum.
    Q5_1,
    /// 256 values of 4 bits; every 32 have a scale and a minimum of 6 bits.
    Q4K,
    /// 256 values of 5 bits; every 32 have a scale and a minimum of 6 bits.
    Q5K,
    /// 256 values of 6 bits; every 16 have a scale of 8 bits.
    Q6K,
}

impl BlockFormat {
    /// All block formats.
    pub const ALL: [BlockFormat; 8] = [
        BlockFormat::Q8_0,
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
    ];

    /// ggml's name in lower case. [`FromStr`] accepts either case.
    pub const fn name(self) -> &'static str {
        match self {
            BlockFormat::Q8_0 => "q8_0",
            BlockFormat::Q4_0 => "q4_0",
            BlockFormat::Q4_1 => "q4_1",
            BlockFormat::Q5_0 => "q5_0",
            BlockFormat::Q5_1 => "q5_1",
            BlockFormat::Q4K => "q4_k",
            BlockFormat::Q5K => "q5_k",
            BlockFormat::Q6K => "q6_k",
        }
    }

    /// Values in a block.
    pub const fn values(self) -> usize {
        match self.layout().scales {
            Scales::Scale | Scales::ScaleMin => 32,
            Scales::SubScaleMin | Scales::SubScale => MAX_VALUES,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        let Layout { bits, scales, .. } = self.layout();
        let codes = self.values() * bits / 8;
        codes
            + match scales {
                Scales::Scale => 2,
                Scales::ScaleMin => 4,
                Scales::SubScaleMin => 4 + 12,
                Scales::SubScale => 2 + 16,
            }
    }

    /// Appends the values of whole blocks, bit for bit as ggml's `dequantize_row_*` computes them. Bytes past the last
    /// whole block are ignored.
    pub fn dequantize(self, blocks: &[u8], values: &mut Vec<f32>) {
        for block in blocks.chunks_exact(self.bytes()) {
            let block = Block::read(self, block);
            for (part, codes) in block.codes[..self.values()].chunks_exact(32).enumerate() {
                let Weights { scales, min } = block.weights(part);
                values.extend(codes.iter().enumerate().map(|(i, &code)| {
                    let value = f32::from(i16::from(code) - block.layout.offset) * scales[i / 16];
                    min.map_or(value, |min| value + min)
                }));
            }
        }
    }

    pub(crate) const fn layout(self) -> Layout {
        let (bits, offset, scales) = match self {
            BlockFormat::Q8_0 => (8, 128, Scales::Scale),
            BlockFormat::Q4_0 => (4, 8, Scales::Scale),
            BlockFormat::Q4_1 => (4, 0, Scales::ScaleMin),
            BlockFormat::Q5_0 => (5, 16, Scales::Scale),
            BlockFormat::Q5_1 => (5, 0, Scales::ScaleMin),
            BlockFormat::Q4K => (4, 0, Scales::SubScaleMin),
            BlockFormat::Q5K => (5, 0, Scales::SubScaleMin),
            BlockFormat::Q6K => (6, 32, Scales::SubScale),
        };
        Layout {
            bits,
            offset,
            scales,
        }
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BlockFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL
            .into_iter()
            .find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("expected one of {names}")
        })
    }
}

/// The most values of any block.
pub(crate) const MAX_VALUES: usize = 256;

/// The structure of a block: its values are `d * (code - offset)` or `d * code + m`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Bits of a code; codes are not negative.
    pub(crate) bits: usize,
    pub(crate) offset: i16,
    pub(crate) scales: Scales,
}

impl Layout {
    /// Whether each half of 32 values has its own scale.
    pub(crate) fn has_halves(self) -> bool {
        self.scales == Scales::SubScale
    }

    pub(crate) fn has_min(self) -> bool {
        matches!(self.scales, Scales::ScaleMin | Scales::SubScaleMin)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scales {
    /// An f16 scale.
    Scale,
    /// An f16 scale and an f16 minimum.
    ScaleMin,
    /// Two f16, each times a 6-bit number for each 32 values: a scale and a minimum, which is subtracted.
    SubScaleMin,
    /// An f16 times a signed 8-bit scale for each 16 values.
    SubScale,
}

/// The factor of each half of 32 values of a block, and the addend of all 32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    pub(crate) scales: [f32; 2],
    pub(crate) min: Option<f32>,
}

/// A block, unpacked.
pub(crate) struct Block {
    pub(crate) layout: Layout,
    /// One code per value of the block; the rest is unused.
    pub(crate) codes: [u8; MAX_VALUES],
    /// The f16 scale.
    pub(crate) scale: f16,
    /// The f16 minimum, if the format has one.
    pub(crate) min: f16,
    /// The scales of each 32 values, or, signed, of each 16.
    pub(crate) sub_scales: [u8; 16],
    /// The minima of each 32 values.
    pub(crate) sub_mins: [u8; 8],
}

impl Block {
    pub(crate) fn read(format: BlockFormat, bytes: &[u8]) -> Self {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let layout = format.layout();
        let mut block = Self {
            layout,
            codes: [0; MAX_VALUES],
            scale: half(if format == BlockFormat::Q6K { 208 } else { 0 }),
            min: match layout.scales {
                Scales::ScaleMin | Scales::SubScaleMin => half(2),
                Scales::Scale | Scales::SubScale => f16::ZERO,
            },
            sub_scales: [0; 16],
            sub_mins: [0; 8],
        };
        let codes = &mut block.codes[..format.values()];
        match format {
            BlockFormat::Q8_0 => {
                // Signed bytes; adding 128 makes them non-negative.
                let bytes = codes.iter_mut().zip(&bytes[2..]);
                bytes.for_each(|(code, &byte)| *code = byte ^ 0x80);
            }
            BlockFormat::Q4_0 => nibbles(&bytes[2..], codes),
            BlockFormat::Q4_1 => nibbles(&bytes[4..], codes),
            BlockFormat::Q5_0 => {
                nibbles(&bytes[6..], codes);
                fifth_bits(&bytes[2..6], codes);
            }
            BlockFormat::Q5_1 => {
                nibbles(&bytes[8..], codes);
                fifth_bits(&bytes[4..8], codes);
            }
            BlockFormat::Q4K => {
                for (bytes, codes) in bytes[16..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
                    nibbles(bytes, codes);
                }
            }
            BlockFormat::Q5K => {
                let high = &bytes[16..48];
                for (bytes, codes) in bytes[48..].chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
                    nibbles(bytes, codes);
                }
                for (at, code) in codes.iter_mut().enumerate() {
                    *code |= (high[at % 32] >> (at / 32) & 1) << 4;
                }
            }
            BlockFormat::Q6K => {
                for (half, codes) in codes.chunks_exact_mut(128).enumerate() {
                    let (low, high) = (&bytes[half * 64..], &bytes[128 + half * 32..]);
                    nibbles(&low[..64], codes);
                    for (at, code) in codes.iter_mut().enumerate() {
                        *code |= (high[at % 32] >> (at / 32 * 2) & 3) << 4;
                    }
                }
            }
        }
        match layout.scales {
            Scales::SubScaleMin => {
                for at in 0..8 {
                    let (scale, min) = scale_and_min(&bytes[4..16], at);
                    (block.sub_scales[at], block.sub_mins[at]) = (scale, min);
                }
            }
            Scales::SubScale => block.sub_scales.copy_from_slice(&bytes[192..208]),
            Scales::Scale | Scales::ScaleMin => {}
        }
        block
    }

    /// The factors of the values from `32 * part` on.
    pub(crate) fn weights(&self, part: usize) -> Weights {
        let (scale, min) = (self.scale.to_f32(), self.min.to_f32());
        match self.layout.scales {
            Scales::Scale => Weights {
                scales: [scale; 2],
                min: None,
            },
            Scales::ScaleMin => Weights {
                scales: [scale; 2],
                min: Some(min),
            },
            Scales::SubScaleMin => Weights {
                scales: [scale * f32::from(self.sub_scales[part]); 2],
                min: Some(-(min * f32::from(self.sub_mins[part]))),
            },
            Scales::SubScale => {
                let sub = |half| scale * f32::from(self.sub_scales[2 * part + half] as i8);
                Weights {
                    scales: [sub(0), sub(1)],
                    min: None,
                }
            }
        }
    }
}

/// The low four bits of all bytes, then the high four bits.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len().min(codes.len() / 2));
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 0xf, byte >> 4);
    }
}

/// Adds the fifth bits of a block of 32.
fn fifth_bits(bits: &[u8], codes: &mut [u8]) {
    for (at, code) in codes.iter_mut().enumerate() {
        *code |= (bits[at / 8] >> (at % 8) & 1) << 4;
    }
}

/// The `at`-th of the 8 scales and minima, 6 bits each, of a Q4_K or Q5_K block: `get_scale_min_k4` of ggml.
fn scale_and_min(packed: &[u8], at: usize) -> (u8, u8) {
    if at < 4 {
        return (packed[at] & 63, packed[at + 4] & 63);
    }
    let low = packed[at + 4];
    (
        low & 0xf | packed[at - 4] >> 6 << 4,
        low >> 4 | packed[at] >> 6 << 4,
    )
}
