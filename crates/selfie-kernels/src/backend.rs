//! The list of everything that a LLaMA, its interpretation and its control need of a device.

use std::ops::Range;

use crate::{
    Activation, Adam, Attend, AttnShape, BatchRow, Best, DType, Format, Injection, KernelError,
    KvLayout, LogitMap, MatrixSource, Memory, Parts, Result,
};

/// One device and its kernels.
///
/// Buffers are made once ([`rows`](Backend::rows), [`acts`](Backend::acts), [`kv`](Backend::kv)) with a
/// capacity; an op sets the row count of its output to that of its input. The residual stream and
/// everything a probe reads or writes is f32; GEMM operands ([`Acts`](Backend::Acts)) have the dtype
/// that the weights ask for; sums are f32. In the shapes below `n` is the number of rows in the batch.
///
/// An implementation gives the same bits for a row whatever other rows are in the batch.
///
/// **A backend is a handle**: cheap to clone, and all clones share one device, with its threads or its stream and its
/// memory. Several threads may call it at once, each on buffers of its own; their calls may wait for each other,
/// and each gets the bits that it would get alone.
///
/// **Keys and values.** The order of the ops at one layer is
/// 1. [`kv_share`](Backend::kv_share), once for a slot that is taken up and before any of its rows: a row's
///    place in the cache follows from the shared positions that its slot sees. A slot sees none until it is told.
///    [`kv_copy`](Backend::kv_copy) does the same for a fork;
/// 2. [`load_batch`](Backend::load_batch), once a pass: it says which slot and position each row has, at all layers;
/// 3. [`rope_append`](Backend::rope_append), at each layer: it writes the keys and values of the batch;
/// 4. [`attend`](Backend::attend), at the same layer and with the same batch: a row sees what was written at the
///    positions before its own, in this pass or in earlier ones, and itself. Positions have to be written before they
///    are seen; shared ones may be written in the same pass.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A weight matrix `[out, in]`, packed for the device, in bf16, f16, f32, or blocks.
    type Matrix: Send + Sync;
    /// An f32 vector: a norm's weight or a bias.
    type Vector: Send + Sync;
    /// f32 rows `[n, width]`: the residual stream, projections, logits, captured embeddings.
    type Rows: Send + Sync;
    /// Rows `[n, width]` in the dtype that a GEMM reads.
    type Acts: Send + Sync;
    /// Keys and values of all layers: shared prefixes, and a branch for each slot.
    type Kv: Send + Sync;
    /// The tokens, slots and positions of a flat batch of rows, on the device.
    type Batch: Send + Sync;
    /// How many rows injections were to write, and how many they wrote.
    type Tally: Send + Sync;

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
    /// Whether [`stack`](Backend::stack) takes blocks, and matrices of several formats.
    fn keeps_blocks(&self) -> bool {
        false
    }
    /// Packs the sources, stacked along `out`, into one matrix, each in its own format: blocks are kept as they are where
    /// the source has them in that format, and made ([`quantize`](crate::quantize)) where it has not. Products with blocks
    /// round the operand to 8 bits ([`reference::block_operand`](crate::reference::block_operand)).
    ///
    /// A matrix with blocks, or of several formats, takes operands made for [`DType::F32`].
    /// [`Unsupported`](KernelError::Unsupported) where the device has no such products.
    fn stack(&self, sources: &[(&dyn MatrixSource, Format)]) -> Result<Self::Matrix> {
        let parts: Vec<&dyn MatrixSource> = sources.iter().map(|&(source, _)| source).collect();
        match sources.first() {
            Some(&(_, Format::Plain(dtype)))
                if sources
                    .iter()
                    .all(|&(_, format)| format == Format::Plain(dtype)) =>
            {
                self.matrix(&parts, dtype)
            }
            _ => Err(KernelError::Unsupported {
                op: "matrix",
                reason:
                    "this device multiplies with weights of one plain type only: use the CPU for \
                         quantized ones, or f32, bf16 or f16"
                        .to_owned(),
            }),
        }
    }
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
    /// The type that keys and values are kept in beside weights of `weights`, unless somebody asks for another one: f32 on
    /// the CPU, that of the weights on a GPU.
    fn kv_dtype(&self, weights: DType) -> DType;
    /// Bytes that [`kv`](Backend::kv) would allocate.
    fn kv_bytes(&self, layout: &KvLayout) -> u64;
    /// An empty cache. A type that the device does not keep keys and values in is
    /// [`Unsupported`](crate::KernelError::Unsupported): f16 on the CPU.
    fn kv(&self, layout: &KvLayout) -> Result<Self::Kv>;
    /// Begins slot `slot` anew: it sees the first `shared[l]` positions of prefix `prefix` at layer `l` (`[layers]`), and
    /// none of its own. Where all are 0, `prefix` does not matter.
    fn kv_share(&self, kv: &mut Self::Kv, slot: usize, prefix: u32, shared: &[usize])
    -> Result<()>;
    /// Makes slot `to` a fork of slot `from`, which it replaces: `to` continues the same prefix from the same positions, and
    /// has copies of the own keys and values of `from` at the positions below `positions`, at every layer. An error if
    /// `from` has not stored as many.
    fn kv_copy(&self, kv: &mut Self::Kv, from: usize, to: usize, positions: usize) -> Result<()>;
    /// An empty batch of at most `capacity` rows.
    fn batch(&self, capacity: usize) -> Result<Self::Batch>;
    /// Replaces the batch's rows.
    fn load_batch(&self, rows: &[BatchRow], batch: &mut Self::Batch) -> Result<()>;
    /// Replaces `rows` by host values `[n, width]`.
    fn write_rows(&self, values: &[f32], rows: &mut Self::Rows) -> Result<()>;
    /// Copies `range` of `rows` to the host, `[range.len(), width]`.
    fn read_rows(&self, rows: &Self::Rows, range: Range<usize>) -> Result<Vec<f32>>;
    /// Copies `range` of an operand's rows to the host as f32, exactly: `[range.len(), width]`.
    fn read_acts(&self, acts: &Self::Acts, range: Range<usize>) -> Result<Vec<f32>>;
    /// The number of rows in use.
    fn len(&self, rows: &Self::Rows) -> usize;
    /// Sets the number of rows in use to 0.
    fn clear(&self, rows: &mut Self::Rows);

    // Ops of a forward pass.

    /// `out[i] = scale * table[token of row i]`, `[n, d_model]`.
    fn embed(
        &self,
        table: &Self::Matrix,
        batch: &Self::Batch,
        scale: f32,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// `out = x`, rounded to the GEMM's dtype: to nearest, ties to even.
    fn cast(&self, x: &Self::Rows, out: &mut Self::Acts) -> Result<()>;
    /// `residual += scale * x`, both `[n, width]`. Where several devices share a layer, [`linear`](Backend::linear), an all-reduce of
    /// its output, and this are what [`linear_add`](Backend::linear_add) does at once on a single one.
    fn add(&self, x: &Self::Rows, scale: f32, residual: &mut Self::Rows) -> Result<()>;
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, rounded to the GEMM's dtype. A row whose squares overflow f32, or
    /// that is not finite, is NaN: an overflow is not to pass for a row of zeros.
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
    /// [`rms_norm`](Backend::rms_norm) of `parts` of each row in place, each part by itself, weight `[parts.width]`: of the
    /// heads of queries and keys, between their projection and their rotation.
    fn rms_norm_parts(
        &self,
        parts: Parts,
        weight: &Self::Vector,
        eps: f32,
        rows: &mut Self::Rows,
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
    /// keys and the values into `layer` of the cache. `rope` is `[positions, rotated]`: cosines of
    /// the `rotated / 2` frequencies, then sines; pairs are (i, i + rotated / 2). Of each head the first `rotated` columns
    /// are turned, at most `head_dim` and an even number; the others stay. Without a table queries are left
    /// as they are, and keys are written as they are: for layers without rotation, and for what is rotated already.
    ///
    /// Families that norm queries and keys do that before, with [`rms_norm_parts`](Backend::rms_norm_parts).
    fn rope_append(
        &self,
        shape: &AttnShape,
        rope: Option<&Self::Rows>,
        batch: &Self::Batch,
        layer: usize,
        qkv: &mut Self::Rows,
        kv: &mut Self::Kv,
    ) -> Result<()>;
    /// Causal attention of each row over the positions of the prefix that its slot sees, then its own branch, as
    /// `attend` says. What a window leaves out is stored all the same.
    /// `out` is `[n, heads * head_dim]`; on a GPU its type must be that of the cache.
    fn attend(
        &self,
        attend: &Attend,
        qkv: &Self::Rows,
        batch: &Self::Batch,
        layer: usize,
        kv: &Self::Kv,
        out: &mut Self::Acts,
    ) -> Result<()>;
    /// `out = activation(gate) * up` of `gate_up` (`[n, 2 ffn]`: gate first), `[n, ffn]`.
    fn glu(&self, activation: Activation, gate_up: &Self::Rows, out: &mut Self::Acts)
    -> Result<()>;
    /// [`linear`](Backend::linear), then [`glu`](Backend::glu): `[n, in] x [2 ffn, in] -> [n, ffn]`. `gate_up` (`[n,
    /// 2 ffn]`) is room for what lies between; what it holds afterwards is left open.
    fn linear_glu(
        &self,
        a: &Self::Acts,
        w: &Self::Matrix,
        bias: Option<&Self::Vector>,
        activation: Activation,
        gate_up: &mut Self::Rows,
        out: &mut Self::Acts,
    ) -> Result<()> {
        self.linear(a, w, bias, gate_up)?;
        self.glu(activation, gate_up, out)
    }

    // Rows of a probe.

    /// Appends `src[index[i]]` to `dst`.
    fn gather(&self, src: &Self::Rows, index: &[usize], dst: &mut Self::Rows) -> Result<()>;
    /// A tally of nothing.
    fn tally(&self) -> Result<Self::Tally>;
    /// Writes vectors (`[_, width]`) into residual rows (`[n, width]`), one write after the other; nothing is
    /// written if one of them is out of range. The writes are counted in `tally`, and a device may still be at it
    /// when this returns.
    fn inject(
        &self,
        vectors: &Self::Rows,
        writes: &[Injection],
        rows: &mut Self::Rows,
        tally: &mut Self::Tally,
    ) -> Result<()>;
    /// Waits for the writes that were counted since the last check, and compares the rows that were to be written with
    /// those that were. [`MissedInjection`](crate::KernelError::MissedInjection) comes once for each miss.
    /// Costs nothing if there were no writes.
    fn check_tally(&self, tally: &mut Self::Tally) -> Result<()>;

    // The head.

    /// The most likely token of each row, with its log-probability, without keeping the logits. The log-probability is
    /// NaN exactly when a product of the row with the head is not finite, and the token then means nothing.
    fn head_best(&self, a: &Self::Acts, head: &Self::Matrix, map: &LogitMap) -> Result<Vec<Best>>;
    /// The log-probability of `tokens[i]` at row `i`; NaN exactly when a product of the row with the head is not finite.
    fn head_score(
        &self,
        a: &Self::Acts,
        head: &Self::Matrix,
        map: &LogitMap,
        tokens: &[u32],
    ) -> Result<Vec<f32>>;

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
    /// [`glu`](Backend::glu), kept in f32.
    fn glu_f32(
        &self,
        activation: Activation,
        gate_up: &Self::Rows,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// The gradient of `gate_up` (`[n, 2 ffn]`) from that of `activation(gate) * up` (`[n, ffn]`).
    fn mlp_backward(
        &self,
        activation: Activation,
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
