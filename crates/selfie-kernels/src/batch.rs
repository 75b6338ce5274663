//! The plain data that ops take: rows of a batch, cache layouts, injections.

use std::fmt;
use std::str::FromStr;

use crate::{DType, KernelError, Result};

/// The slot of a row: one of the cache's shared prefixes, or one of its branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The row's key and value go to prefix `n`. The row sees nothing but that prefix.
    Prefix(u32),
    /// The row belongs to branch `n`. It sees the first positions of the prefix that the branch continues, then the
    /// branch's own positions.
    Branch(u32),
}

/// One row of a flat batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRow {
    /// The token id to embed, if the batch starts from tokens.
    pub token: u32,
    /// Where the row's key and value go.
    pub slot: Slot,
    /// The row's position in the sequence, counted from 0 through shared and own positions.
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

/// How a row of queries attends to the keys it may see: `softmax(cap(scale * q · k)) v` over the last `window` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// The heads.
    pub shape: AttnShape,
    /// The factor applied to a dot product.
    pub scale: f32,
    /// How many positions a row sees, itself included. `None` means all positions up to its own.
    pub window: Option<usize>,
    /// `cap(x) = softcap * tanh(x / softcap)`, applied before the mask (Gemma 2, arXiv 2408.00118, section 2).
    pub softcap: Option<f32>,
}

impl Attend {
    /// Attention as LLaMA has it: scaled by `1 / sqrt(head_dim)`, no window, no cap.
    pub fn new(shape: AttnShape) -> Self {
        Self {
            shape,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            window: None,
            softcap: None,
        }
    }

    /// The first position that a row at `position` sees.
    pub fn first(&self, position: usize) -> usize {
        self.window
            .map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// The gate of an MLP (arXiv 2002.05202, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e^-x)`: SwiGLU.
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`: GeGLU with the approximation of arXiv 1606.08415,
    /// section 2.
    GeluTanh,
}

/// How products with the head become logits: `softcap * tanh(scale * x / softcap)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogitMap {
    /// The factor.
    pub scale: f32,
    /// The bound, if there is one.
    pub softcap: Option<f32>,
}

impl LogitMap {
    /// Logits are the products unchanged.
    pub const PLAIN: LogitMap = LogitMap {
        scale: 1.0,
        softcap: None,
    };

    /// Maps a product to a logit. A value that is not finite stays so: a cap must not hide it.
    pub fn apply(&self, x: f32) -> f32 {
        let x = x * self.scale;
        match self.softcap {
            Some(cap) if x.is_finite() => cap * (x / cap).tanh(),
            _ => x,
        }
    }
}

/// How to draw a token from a row's logits.
///
/// A token weighs `e^((logit - largest logit) / temperature)`. Tokens are cut to the `top_k` with the largest logits,
/// of these to the fewest that together have the share `top_p` of their weight, and of these to those that weigh at
/// least
/// `min_p`. Of equal logits, the lower token comes first. The drawn token is the first, by its number, up to which the
/// tokens that are left weigh more than `chance` of what they all weigh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenDraw {
    /// Finite and above 0.
    pub temperature: f32,
    /// 0 means all.
    pub top_k: usize,
    /// Above 0; 1 means all.
    pub top_p: f32,
    /// From 0 (all) to 1.
    pub min_p: f32,
    /// From 0 to below 1.
    pub chance: f64,
}

/// Adjacent parts of each row, all of one width, such as the heads of the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The first column of the first part.
    pub first: usize,
    /// Columns of a part.
    pub width: usize,
    /// Number of parts.
    pub count: usize,
}

/// The size of a cache of keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Positions of each shared prefix, the same at every layer. There may be none.
    pub prefixes: Vec<usize>,
    /// Positions of each slot's own branch, by layer.
    pub own: Vec<usize>,
    /// Number of slots.
    pub slots: usize,
    /// The dtype of keys and values. [`Backend::kv_dtype`](crate::Backend::kv_dtype) gives the one that suits the
    /// weights. On the CPU it is f32, which is exact, or bf16 or f16, which take half the memory. In f16, a value past
    /// 65504 is kept as NaN, so that the overflow shows. On a GPU it is the dtype of the operand that
    /// [`attend`](crate::Backend::attend) writes.
    pub dtype: DType,
}

/// What a vector `v`, written with the strength `s` of its [`Injection`], does to the row `h`.
///
/// Every mode is `h' = a * v + b * h`, and [`form`](InjectMode::form) gives `a` and `b`. Backends read only that form,
/// so a new mode is one more entry there. `|x|` is the Euclidean length; `|v|` counts as at least 1e-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InjectMode {
    /// `s * v + (1 - s) * h` (SelfIE, arXiv 2403.10949, section 3).
    Replace,
    /// `h + s * v`.
    Add,
    /// `h + s * |h| * v / |v|`: Activation Oracles (<https://github.com/adamkarvonen/activation_oracles>). `|h|` is the
    /// length of the row before the write.
    AddMatched,
    /// `s * v / |v|`: natural-language autoencoders (<https://github.com/kitft/natural_language_autoencoders>).
    ReplaceNorm,
}

impl InjectMode {
    /// All modes.
    pub const ALL: [InjectMode; 4] = [
        InjectMode::Replace,
        InjectMode::Add,
        InjectMode::AddMatched,
        InjectMode::ReplaceNorm,
    ];

    /// The table of modes: name and form.
    const fn entry(self) -> (&'static str, InjectForm) {
        match self {
            InjectMode::Replace => ("replace", InjectForm::new(false, false, Keep::Rest)),
            InjectMode::Add => ("add", InjectForm::new(false, false, Keep::All)),
            InjectMode::AddMatched => ("add-matched", InjectForm::new(true, true, Keep::All)),
            InjectMode::ReplaceNorm => {
                ("replace-norm", InjectForm::new(true, false, Keep::Nothing))
            }
        }
    }

    /// The name that [`FromStr`] takes.
    pub const fn name(self) -> &'static str {
        self.entry().0
    }

    /// The factors of the vector and the row.
    pub const fn form(self) -> InjectForm {
        self.entry().1
    }
}

impl fmt::Display for InjectMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for InjectMode {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .ok_or_else(|| KernelError::Mode {
                name: name.to_owned(),
                names: Self::ALL.map(Self::name).join(", "),
            })
    }
}

/// The factors `a` and `b` of an [`InjectMode`]: `a` is `s`, `s / |v|`, or `s * |h| / |v|`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectForm {
    /// Whether `a` is divided by the length of the vector.
    pub unit: bool,
    /// Whether `a` is multiplied by the length of the row.
    pub matched: bool,
    /// The factor `b`.
    pub keep: Keep,
}

impl InjectForm {
    const fn new(unit: bool, matched: bool, keep: Keep) -> Self {
        Self {
            unit,
            matched,
            keep,
        }
    }
}

/// How much of the row is kept: the factor `b` of an [`InjectMode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// `1 - s`.
    Rest,
    /// 1.
    All,
    /// 0.
    Nothing,
}

impl Keep {
    /// The factor, for the strength `s`.
    pub fn factor(self, s: f32) -> f32 {
        match self {
            Keep::Rest => 1.0 - s,
            Keep::All => 1.0,
            Keep::Nothing => 0.0,
        }
    }
}

/// The least length to divide a vector by.
pub(crate) const LEAST_LENGTH: f32 = 1e-12;

/// One write of a vector into a row of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injection {
    /// The row of the residual stream to write.
    pub row: usize,
    /// The row of the vectors to read.
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
    /// `1 - beta2`, from f64: in f32 the difference would lose its last digits.
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
    /// Its id; the lowest one if several tie. If `logprob` is NaN the id is meaningless, but still in the vocabulary.
    pub token: u32,
    /// Its natural log-probability; NaN exactly when a logit of the row is not finite.
    pub logprob: f32,
}

/// A device's memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be allocated now.
    pub available: u64,
}
