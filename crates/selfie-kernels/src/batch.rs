//! The plain data that ops take: rows of a batch, layouts, edits of rows.

use std::io;
use std::ops::Range;

use crate::DType;

/// The slot of a row: the cache's shared segment, or one of its branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The row's key and value go to the shared segment, and it sees nothing else.
    Shared,
    /// The row belongs to branch `n`: it sees the shared positions of that branch, then its own.
    Branch(u32),
}

/// One row of a flat batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// The token id that is embedded, when the batch starts from tokens.
    pub token: u32,
    /// Where its key and value go.
    pub slot: Slot,
    /// Its position in the sequence, counted from 0 through shared and own segment.
    pub position: u32,
}

/// The heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttnShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl AttnShape {
    /// Width of the queries: `heads * head_dim`.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the keys, and of the values: `kv_heads * head_dim`.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of a row of queries, keys and values.
    pub fn qkv_dim(&self) -> usize {
        self.q_dim() + 2 * self.kv_dim()
    }
}

/// The size of a cache of keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions of the shared segment, the same at every layer.
    pub shared: usize,
    /// Positions of each slot's own branch, by layer.
    pub own: Vec<usize>,
    /// Number of slots.
    pub slots: usize,
    /// The type of the weights. A GPU keeps keys and values in it, the CPU keeps them in f32.
    pub weights: DType,
}

/// What a vector does to the row that it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InjectMode {
    /// `s * vector + (1 - s) * row`.
    Replace,
    /// `row + s * vector`.
    Add,
}

/// One write of a vector into a row of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injection {
    /// The row that is written.
    pub row: usize,
    /// The row of the vectors that is read.
    pub vector: usize,
    /// How the two combine.
    pub mode: InjectMode,
    /// The factor `s` of [`InjectMode`].
    pub strength: f32,
}

/// The factors of a step of Adam (arXiv 1412.6980), with the names of the paper and PyTorch's defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The step size, alpha.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The number of this step, counted from 1.
    pub step: u32,
}

impl Adam {
    /// The first step, with betas 0.9 and 0.999 and eps 1e-8.
    pub fn new(lr: f64) -> Self {
        Self {
            lr,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            step: 1,
        }
    }
}

/// The factors of one step of [`Adam`], as kernels take them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamRate {
    /// `1 - beta1`
    pub(crate) new1: f32,
    pub(crate) beta2: f32,
    /// `1 - beta2`; in f32 the difference would lose its last digits.
    pub(crate) new2: f32,
    /// `lr / (1 - beta1^t)`
    pub(crate) lr: f32,
    /// `1 / sqrt(1 - beta2^t)`
    pub(crate) root: f32,
    pub(crate) eps: f32,
}

impl AdamRate {
    pub(crate) fn new(adam: &Adam) -> Self {
        let Adam {
            lr,
            beta1,
            beta2,
            eps,
            step,
        } = *adam;
        let t = i32::try_from(step).unwrap_or(i32::MAX);
        Self {
            new1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            new2: (1.0 - beta2) as f32,
            lr: (lr / (1.0 - beta1.powi(t))) as f32,
            root: (1.0 / (1.0 - beta2.powi(t)).sqrt()) as f32,
            eps: eps as f32,
        }
    }
}

/// The most likely token of a row of logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Its id; the lowest one of a tie.
    pub token: u32,
    /// Its natural log-probability.
    pub logprob: f32,
}

/// A device's memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All there is.
    pub total: u64,
    /// What can be allocated now.
    pub available: u64,
}

/// A matrix `[rows, columns]` somewhere else (a file, usually) that can be read in pieces.
pub trait MatrixSource: Sync {
    /// Rows and columns.
    fn shape(&self) -> (usize, usize);
    /// The type of the stored values.
    fn dtype(&self) -> DType;
    /// Calls `read` once with the little-endian bytes of `rows`, row after row.
    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()>;
}
