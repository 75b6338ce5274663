//! The list of everything that a LLaMA, its interpretation and its control need of a device.

use std::ops::Range;

use crate::{
    Adam, AttnShape, BatchRow, Best, DType, Injection, KvLayout, MatrixSource, Memory, Result,
};

/// One device and its kernels.
///
/// Buffers are made once ([`rows`](Backend::rows), [`acts`](Backend::acts), [`kv`](Backend::kv)) with a
/// capacity; an op sets the row count of its output to that of its input. The residual stream and
/// everything a probe reads or writes is f32; GEMM operands ([`Acts`](Backend::Acts)) have the dtype
/// that the weights ask for; sums are f32. In the shapes below `n` is the number of rows in the batch.
///
/// An implementation gives the same bits for a row whatever other rows are in the batch.
pub trait Backend: Send + Sync + 'static {
    /// A weight matrix `[out, in]`, packed for the device, in bf16, f16 or f32.
    type Matrix: Send + Sync;
    /// An f32 vector: a norm's weight or a bias.
    type Vector: Send + Sync;
    /// f32 rows `[n, width]`: the residual stream, projections, logits, captured embeddings.
    type Rows: Send + Sync;
    /// Rows `[n, width]` in the dtype that a GEMM reads.
    type Acts: Send + Sync;
    /// Keys and values of all layers: one shared segment and a branch for each slot.
    type Kv: Send + Sync;
    /// The tokens, slots and positions of a flat batch of rows, on the device.
    type Batch: Send + Sync;

    /// What to call this device, and which instruction set or compute capability it uses.
    fn describe(&self) -> String;
    /// The device's memory, now.
    fn memory(&self) -> Result<Memory>;
    /// Rows of a pass that make full use of the device: wider ones make a row no cheaper.
    fn pass_rows(&self) -> usize {
        512
    }
    /// How many rows a decode step of `rows` sequences should have, at least `rows`. A device that replays the steps
    /// that it has seen wants few different ones; the rows above `rows` are of sequences that nobody reads.
    fn step_rows(&self, rows: usize) -> usize {
        rows
    }

    // Storage.

    /// Packs the sources, stacked along `out`, into one matrix of `dtype`, reading each value once.
    fn matrix(&self, sources: &[&dyn MatrixSource], dtype: DType) -> Result<Self::Matrix>;
    /// Unpacks `rows` of a matrix to f32, exactly: `[rows.len(), in]`.
    fn read_matrix(&self, matrix: &Self::Matrix, rows: Range<usize>) -> Result<Vec<f32>>;
    /// Copies a vector to the device.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector>;
    /// Copies a vector to the host.
    fn read_vector(&self, vector: &Self::Vector) -> Result<Vec<f32>>;
    /// Zeroed f32 rows, `[0..capacity, width]`.
    fn rows(&self, capacity: usize, width: usize) -> Result<Self::Rows>;
    /// Operand rows for a GEMM with weights of `weights`, `[0..capacity, width]`.
    fn acts(&self, capacity: usize, width: usize, weights: DType) -> Result<Self::Acts>;
    /// Bytes that [`kv`](Backend::kv) would allocate.
    fn kv_bytes(&self, layout: &KvLayout) -> u64;
    /// An empty cache.
    fn kv(&self, layout: &KvLayout) -> Result<Self::Kv>;
    /// Says how many positions of the shared segment a slot sees, for each layer (`[layers]`).
    fn kv_share(&self, kv: &mut Self::Kv, slot: usize, shared: &[usize]) -> Result<()>;
    /// An empty batch of at most `capacity` rows.
    fn batch(&self, capacity: usize) -> Result<Self::Batch>;
    /// Replaces the batch's rows.
    fn load_batch(&self, rows: &[BatchRow], batch: &mut Self::Batch) -> Result<()>;
    /// Replaces `rows` by host values `[n, width]`.
    fn write_rows(&self, values: &[f32], rows: &mut Self::Rows) -> Result<()>;
    /// Copies `range` of `rows` to the host, `[range.len(), width]`.
    fn read_rows(&self, rows: &Self::Rows, range: Range<usize>) -> Result<Vec<f32>>;
    /// The number of rows in use.
    fn len(&self, rows: &Self::Rows) -> usize;
    /// Sets the number of rows in use to 0.
    fn clear(&self, rows: &mut Self::Rows);

    // Ops of a forward pass.

    /// `out[i] = table[token of row i]`, `[n, d_model]`.
    fn embed(&self, table: &Self::Matrix, batch: &Self::Batch, out: &mut Self::Rows) -> Result<()>;
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, rounded to the GEMM's dtype.
    fn rms_norm(
        &self,
        x: &Self::Rows,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Acts,
    ) -> Result<()>;
    /// [`rms_norm`](Backend::rms_norm), kept in f32.
    fn rms_norm_f32(
        &self,
        x: &Self::Rows,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// `out = a · wᵀ (+ bias)`: `[n, in] x [out, in] -> [n, out]`.
    fn linear(
        &self,
        a: &Self::Acts,
        w: &Self::Matrix,
        bias: Option<&Self::Vector>,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// `residual += a · wᵀ (+ bias)`.
    fn linear_add(
        &self,
        a: &Self::Acts,
        w: &Self::Matrix,
        bias: Option<&Self::Vector>,
        residual: &mut Self::Rows,
    ) -> Result<()>;
    /// Rotates the queries of `qkv` (`[n, (heads + 2 kv_heads) * head_dim]`) in place, and writes rotated
    /// keys and the values into `layer` of the cache. `rope` is `[positions, head_dim]`: cosines of
    /// the `head_dim / 2` frequencies, then sines; pairs are (i, i + head_dim / 2).
    fn rope_append(
        &self,
        shape: &AttnShape,
        rope: &Self::Rows,
        batch: &Self::Batch,
        layer: usize,
        qkv: &mut Self::Rows,
        kv: &mut Self::Kv,
    ) -> Result<()>;
    /// Causal attention of each row over the shared positions that its slot sees, then its own branch.
    /// `out` is `[n, heads * head_dim]`.
    fn attend(
        &self,
        shape: &AttnShape,
        qkv: &Self::Rows,
        batch: &Self::Batch,
        layer: usize,
        kv: &Self::Kv,
        out: &mut Self::Acts,
    ) -> Result<()>;
    /// `out = silu(gate) * up` of `gate_up` (`[n, 2 ffn]`: gate first), `[n, ffn]`.
    fn swiglu(&self, gate_up: &Self::Rows, out: &mut Self::Acts) -> Result<()>;

    // Rows of a probe.

    /// Appends `src[index[i]]` to `dst`.
    fn gather(&self, src: &Self::Rows, index: &[usize], dst: &mut Self::Rows) -> Result<()>;
    /// Overwrites `dst[at[i]]` by `src[index[i]]`.
    fn scatter(
        &self,
        src: &Self::Rows,
        index: &[usize],
        dst: &mut Self::Rows,
        at: &[usize],
    ) -> Result<()>;
    /// Writes vectors into residual rows and returns how many rows were written.
    fn inject(
        &self,
        vectors: &Self::Rows,
        writes: &[Injection],
        rows: &mut Self::Rows,
    ) -> Result<usize>;

    // The head.

    /// The most likely token of each row, with its log-probability, without keeping the logits.
    fn head_best(&self, a: &Self::Acts, head: &Self::Matrix) -> Result<Vec<Best>>;
    /// The log-probability of `tokens[i]` at row `i`.
    fn head_score(&self, a: &Self::Acts, head: &Self::Matrix, tokens: &[u32]) -> Result<Vec<f32>>;

    // One layer's MLP in training. Weights, moments and gradients are f32 rows; a bias is `[out, 1]`.

    /// `out = x · wᵀ (+ bias)`: `[n, in] x [out, in] -> [n, out]`.
    fn linear_f32(
        &self,
        x: &Self::Rows,
        w: &Self::Rows,
        bias: Option<&Self::Rows>,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// The gradient of [`linear_f32`](Backend::linear_f32)'s input from that of its output:
    /// `out = d · w`, `[n, out] x [out, in] -> [n, in]`.
    fn linear_f32_back(&self, d: &Self::Rows, w: &Self::Rows, out: &mut Self::Rows) -> Result<()>;
    /// [`swiglu`](Backend::swiglu), kept in f32.
    fn swiglu_f32(&self, gate_up: &Self::Rows, out: &mut Self::Rows) -> Result<()>;
    /// The gradient of `gate_up` (`[n, 2 ffn]`) from that of `silu(gate) * up` (`[n, ffn]`).
    fn mlp_backward(
        &self,
        gate_up: &Self::Rows,
        d_hidden: &Self::Rows,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// One step of Adam (arXiv 1412.6980, algorithm 1) on `w` (`[out, in]`) with its first and second moments.
    /// The gradient is `dᵀ · x` (`[n, out]`, `[n, in]`): a sum of `n` outer products that is never written out.
    fn adam(
        &self,
        w: &mut Self::Rows,
        moments: [&mut Self::Rows; 2],
        d: &Self::Rows,
        x: &Self::Rows,
        adam: &Adam,
    ) -> Result<()>;
}
