//! How much is measured.

pub(crate) struct Sizes {
    /// Bytes of a copy: many times what caches hold.
    pub(crate) copy: u64,
    /// Rows, columns and terms of the matrix product.
    pub(crate) product: usize,
    /// Rows and columns of single ops.
    pub(crate) rows: usize,
    /// Branches and tokens of attention.
    pub(crate) attention: [(usize, usize); 3],
    /// Decode steps are timed by the difference between texts of these lengths.
    pub(crate) texts: [usize; 2],
    /// Tokens of the prompt that a sweep interprets, at each layer.
    pub(crate) tokens: usize,
    /// New tokens of each cell.
    pub(crate) new_tokens: usize,
}

impl Sizes {
    /// What results are reported of.
    pub(crate) const FULL: Self = Self {
        copy: 2 << 30,
        product: 8192,
        rows: 4096,
        attention: [(64, 32), (64, 512), (8, 4096)],
        texts: [20, 148],
        tokens: 19,
        new_tokens: 30,
    };

    /// A few seconds on a simulated GPU.
    pub(crate) const SMALL: Self = Self {
        copy: 1 << 20,
        product: 64,
        rows: 128,
        attention: [(2, 32), (2, 64), (1, 96)],
        texts: [2, 6],
        tokens: 2,
        new_tokens: 3,
    };
}
