//! The GPU kernels of Selfie: hand-written PTX, as text. This crate is the folder `kernels/` of the repository, and
//! nothing but its files; `selfie-kernels` depends on it, so that both can be packaged.
//!
//! Three things are added to PTX (`$for`, `$let` and `${..}`), which `selfie_kernels::gpu::Module::source` expands: an
//! assembler takes what that returns, not these texts. README.md, beside the files, says how to read one, what each
//! computes and what each costs.
#![no_std]
#![forbid(unsafe_code)]

/// `add.ptx`. Adds rows, or a bias.
pub const ADD: &str = include_str!("add.ptx");
/// `adam.ptx`. One step of Adam.
pub const ADAM: &str = include_str!("adam.ptx");
/// `attention_decode.ptx`. Attention of single rows, bf16 and f16.
pub const ATTENTION_DECODE: &str = include_str!("attention_decode.ptx");
/// `attention_f32.ptx`. Attention in f32.
pub const ATTENTION_F32: &str = include_str!("attention_f32.ptx");
/// `attention_merge.ptx`. Merges the parts of attention over a context that is split.
pub const ATTENTION_MERGE: &str = include_str!("attention_merge.ptx");
/// `attention_prompt.ptx`. Attention of consecutive rows, bf16 and f16.
pub const ATTENTION_PROMPT: &str = include_str!("attention_prompt.ptx");
/// `cast.ptx`. Rounds f32 rows to the type of an operand.
pub const CAST: &str = include_str!("cast.ptx");
/// `draw.ptx`. Draws a token from logits.
pub const DRAW: &str = include_str!("draw.ptx");
/// `embed.ptx`. Looks tokens up in the table of embeddings.
pub const EMBED: &str = include_str!("embed.ptx");
/// `gather_rows.ptx`. Copies rows by index.
pub const GATHER_ROWS: &str = include_str!("gather_rows.ptx");
/// `glu.ptx`. The gated unit of an MLP.
pub const GLU: &str = include_str!("glu.ptx");
/// `head.ptx`. The best token of logits, and the log-probability of a token.
pub const HEAD: &str = include_str!("head.ptx");
/// `inject.ptx`. Writes vectors into rows of the residual stream.
pub const INJECT: &str = include_str!("inject.ptx");
/// `kv_copy.ptx`. Copies keys and values from one slot to another.
pub const KV_COPY: &str = include_str!("kv_copy.ptx");
/// `logit_map.ptx`. Scales or caps logits.
pub const LOGIT_MAP: &str = include_str!("logit_map.ptx");
/// `matvec.ptx`. Products of at most 16 rows.
pub const MATVEC: &str = include_str!("matvec.ptx");
/// `mlp_backward.ptx`. The gradient of the gated unit.
pub const MLP_BACKWARD: &str = include_str!("mlp_backward.ptx");
/// `rms_norm.ptx`. RMS norm.
pub const RMS_NORM: &str = include_str!("rms_norm.ptx");
/// `rope_append.ptx`. Rotates queries and keys, and appends keys and values to the cache.
pub const ROPE_APPEND: &str = include_str!("rope_append.ptx");
