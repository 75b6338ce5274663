//! The sizes of the measurements.

use selfie_kernels::DType;

pub(crate) struct Sizes {
    /// Bytes of a copy: many times the size of the caches.
    pub(crate) copy: u64,
    /// Rows, columns and terms of the matrix product that gives the limit.
    pub(crate) product: usize,
    /// Outputs, their type, and terms of single products: those of a layer (qkv, o, gate and up, down), and the head.
    pub(crate) products: &'static [(usize, DType, usize)],
    /// Their rows.
    pub(crate) product_rows: &'static [usize],
    /// Rows and columns of single ops.
    pub(crate) rows: usize,
    /// Branches and tokens of attention.
    pub(crate) attention: [(usize, usize); 3],
    /// Sequences that decode together.
    pub(crate) decode: &'static [usize],
    /// Tokens of each of their prompts.
    pub(crate) prompt: usize,
    /// Decode steps are timed by the difference between texts of these lengths.
    pub(crate) texts: [usize; 2],
    /// Sequences and tokens of a pass of many rows.
    pub(crate) wide: (usize, usize),
    /// Tokens of the prompt that a sweep interprets, at each layer.
    pub(crate) tokens: usize,
    /// New tokens of each cell.
    pub(crate) new_tokens: usize,
}

impl Sizes {
    /// The sizes for reported results.
    pub(crate) const FULL: Self = Self {
        copy: 2 << 30,
        product: 8192,
        products: &[
            (12288, DType::Bf16, 4096),
            (4096, DType::F32, 4096),
            (22016, DType::Bf16, 4096),
            (4096, DType::F32, 11008),
            (32000, DType::F32, 4096),
        ],
        product_rows: &[1, 8, 16, 64, 608, 4096],
        rows: 4096,
        attention: [(64, 32), (64, 512), (8, 4096)],
        decode: &[1, 8, 64],
        prompt: 19,
        texts: [8, 40],
        wide: (64, 128),
        tokens: 19,
        new_tokens: 30,
    };

    /// A few seconds on a simulated GPU.
    pub(crate) const SMALL: Self = Self {
        copy: 1 << 20,
        product: 64,
        products: &[(64, DType::Bf16, 96)],
        product_rows: &[1, 20],
        rows: 128,
        attention: [(2, 32), (2, 64), (1, 96)],
        decode: &[1, 3],
        prompt: 4,
        texts: [2, 6],
        wide: (2, 8),
        tokens: 2,
        new_tokens: 3,
    };
}
