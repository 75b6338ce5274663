//! The trait that a device implements: every op needed to run, interpret and control a LLaMA.

use std::ops::Range;

use crate::{
    Activation, Adam, Attend, AttnShape, BatchRow, Best, DType, Format, Injection, KernelError,
    KvLayout, LogitMap, MatrixSource, Memory, Parts, Result, TokenDraw,
};

/// One device and its kernels.
///
/// Callers create buffers once, with a capacity ([`rows`](Backend::rows), [`acts`](Backend::acts),
/// [`kv`](Backend::kv)). An op sets the row count of its output to that of its input. The residual stream is f32, and
/// so is everything that a probe reads or writes. GEMM operands ([`Acts`](Backend::Acts)) have the dtype that the
/// weights require. Sums are f32. In the shapes below, `n` is the number of rows in the batch.
///
/// A row gets the same bits whatever other rows are in its batch; every implementation must guarantee this.
///
/// **A backend is a handle.** It is cheap to clone, and all clones share one device: its threads or its stream, and its
/// memory. Several threads may call it at once, each on its own buffers. A call may wait for another one, and its
/// result has the same bits as if it had run alone.
///
/// **Keys and values.** Call the ops of one layer in this order:
/// 1. [`kv_share`](Backend::kv_share), once when a slot is taken and before any of its rows. It sets how many positions
///    of a prefix the slot sees; a new slot sees none. [`kv_copy`](Backend::kv_copy) does the same for a fork.
/// 2. [`load_batch`](Backend::load_batch), once a pass. It sets the slot and position of each row, for all layers.
/// 3. [`rope_append`](Backend::rope_append), at each layer. It writes the keys and values of the batch.
/// 4. [`attend`](Backend::attend), at the same layer with the same batch. A row sees itself and the earlier positions
///    of its sequence, whether this pass or an earlier one wrote them. A position must be written before a row sees it.
///    Shared positions may be written in the same pass.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A weight matrix `[out, in]`, packed for the device, in bf16, f16, f32, or blocks.
    type Matrix: Send + Sync;
    /// An f32 vector: a norm's weight or a bias.
    type Vector: Send + Sync;
    /// f32 rows `[n, width]`: the residual stream, logits, captured embeddings. Or [projections](Backend::projections).
    type Rows: Send + Sync;
    /// Rows `[n, width]` in the dtype that a GEMM reads.
    type Acts: Send + Sync;
    /// Keys and values of all layers: shared prefixes, and a branch for each slot.
    type Kv: Send + Sync;
    /// The tokens, slots and positions of a flat batch of rows, on the device.
    type Batch: Send + Sync;
    /// How many rows injections should have written, and how many they did write.
    type Tally: Send + Sync;

    /// The device's name and its instruction set or compute capability.
    fn describe(&self) -> String;
    /// The device's memory at this moment.
    fn memory(&self) -> Result<Memory>;
    /// Rows of a pass that make full use of the device. A wider pass makes a row no cheaper.
    fn pass_rows(&self) -> usize {
        512
    }
    /// The most rows of a pass that also checks guesses at the next tokens. Reading the weights takes most of the time
    /// of such a pass, so a row more costs less than right guesses save. With 1, nothing is guessed.
    fn draft_rows(&self) -> usize {
        1
    }
    /// How many rows to use for a decode step of `rows` sequences: at least `rows`. A device that replays steps it has
    /// seen wants few different sizes. The extra rows belong to sequences that nobody reads.
    fn step_rows(&self, rows: usize) -> usize {
        rows
    }

    // Storage.

    /// Packs the sources, stacked along `out`, into one matrix of `dtype`, reading each value once.
    fn matrix(&self, sources: &[&dyn MatrixSource], dtype: DType) -> Result<Self::Matrix>;
    /// Whether [`stack`](Backend::stack) accepts blocks and mixed formats.
    fn keeps_blocks(&self) -> bool {
        false
    }
    /// Packs the sources, stacked along `out`, into one matrix, each source in its own format. Blocks are kept if the
    /// source already has that format; otherwise [`quantize`](crate::quantize) makes them. Products with blocks round
    /// the operand to 8 bits ([`reference::block_operand`](crate::reference::block_operand)).
    ///
    /// A matrix with blocks, or with several formats, takes operands made for [`DType::F32`]. Returns
    /// [`Unsupported`](KernelError::Unsupported) if the device has no such products.
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
    /// Zeroed rows for products with weights of dtype `weights` that only the same layer reads: queries, keys and
    /// values, or gate and up. A device may keep them in that dtype, as PyTorch keeps the output of a `Linear`. Then
    /// every op that writes them rounds to it: to nearest, ties to even. What is past the largest f16 becomes infinite
    /// or NaN.
    ///
    /// Ops on the residual stream, on probes and in training do not take them.
    fn projections(&self, capacity: usize, width: usize, weights: DType) -> Result<Self::Rows> {
        let _ = weights;
        self.rows(capacity, width)
    }
    /// Operand rows for a GEMM whose weights have dtype `weights`, `[0..capacity, width]`.
    fn acts(&self, capacity: usize, width: usize, weights: DType) -> Result<Self::Acts>;
    /// The dtype of keys and values for weights of dtype `weights`: the chosen one, or the default. The CPU keeps them
    /// in any dtype, by default in f32. A GPU keeps them in the dtype of the weights, and returns
    /// [`KvDType`](crate::KernelError::KvDType) if another one is chosen.
    fn kv_dtype(&self, weights: DType, chosen: Option<DType>) -> Result<DType>;
    /// The bytes that [`kv`](Backend::kv) would allocate.
    fn kv_bytes(&self, layout: &KvLayout) -> u64;
    /// An empty cache.
    fn kv(&self, layout: &KvLayout) -> Result<Self::Kv>;
    /// Resets slot `slot`: it now sees the first `shared[l]` positions of prefix `prefix` at layer `l` (`shared` is
    /// `[layers]`), and has no positions of its own. If all of `shared` is 0, `prefix` is ignored.
    fn kv_share(&self, kv: &mut Self::Kv, slot: usize, prefix: u32, shared: &[usize])
    -> Result<()>;
    /// Makes slot `to` a fork of slot `from`, replacing what `to` held. `to` continues the same prefix at the same
    /// positions. At every layer it gets copies of `from`'s own keys and values for the positions below `positions`. An
    /// error if `from` has stored fewer.
    fn kv_copy(&self, kv: &mut Self::Kv, from: usize, to: usize, positions: usize) -> Result<()>;
    /// An empty batch of at most `capacity` rows.
    fn batch(&self, capacity: usize) -> Result<Self::Batch>;
    /// Replaces the batch's rows.
    fn load_batch(&self, rows: &[BatchRow], batch: &mut Self::Batch) -> Result<()>;
    /// Replaces `rows` with host values `[n, width]`.
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
    /// `residual += scale * x`, both `[n, width]`. When several devices share a layer, [`linear`](Backend::linear), an
    /// all-reduce of its output and this op do what [`linear_add`](Backend::linear_add) does on one device.
    fn add(&self, x: &Self::Rows, scale: f32, residual: &mut Self::Rows) -> Result<()>;
    /// `out = x / sqrt(mean(x^2) + eps) * weight`, rounded to the GEMM's dtype. A row becomes NaN if it is not finite
    /// or if its squares overflow f32; an overflow must not look like a row of zeros.
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
    /// [`rms_norm`](Backend::rms_norm) of `parts` of each row, in place. Each part is normed by itself with `weight`
    /// `[parts.width]`. It norms the heads of queries and keys after their projection and before their rotation.
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
    /// Rotates the queries of `qkv` (`[n, (heads + 2 kv_heads) * head_dim]`) in place, and writes the rotated keys and
    /// the values into `layer` of the cache, rounded once to its dtype: to nearest, ties to even. `rope` is
    /// `[positions, rotated]`: the cosines of the `rotated / 2` frequencies, then their sines. Columns i and i +
    /// rotated / 2 form a pair. Only the first `rotated` columns of each head rotate; `rotated` is even and at most
    /// `head_dim`. Without a table, queries and keys stay as they are: for layers without rotation, and for keys that
    /// are already rotated.
    ///
    /// A family that norms queries and keys calls [`rms_norm_parts`](Backend::rms_norm_parts) first.
    fn rope_append(
        &self,
        shape: &AttnShape,
        rope: Option<&Self::Rows>,
        batch: &Self::Batch,
        layer: usize,
        qkv: &mut Self::Rows,
        kv: &mut Self::Kv,
    ) -> Result<()>;
    /// Causal attention of each row, as `attend` describes, over the positions of the prefix that its slot sees and
    /// then over its own branch. Positions outside a window are stored all the same. `out` is `[n, heads * head_dim]`;
    /// on a GPU its dtype and that of `qkv` must be that of the cache.
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
    /// [`linear`](Backend::linear), then [`glu`](Backend::glu): `[n, in] x [2 ffn, in] -> [n, ffn]`. `gate_up` (`[n, 2
    /// ffn]`) is scratch space; its contents afterwards are unspecified.
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
    /// A tally that counts nothing yet.
    fn tally(&self) -> Result<Self::Tally>;
    /// Writes vectors (`[_, width]`) into residual rows (`[n, width]`), one after the other. If any of them is out of
    /// range, nothing is written. `tally` counts the writes. The device may still be working when this returns.
    fn inject(
        &self,
        vectors: &Self::Rows,
        writes: &[Injection],
        rows: &mut Self::Rows,
        tally: &mut Self::Tally,
    ) -> Result<()>;
    /// Waits for the writes counted since the last check, and compares how many rows should have been written with how
    /// many were. Each miss is reported once, as [`MissedInjection`](crate::KernelError::MissedInjection). Costs
    /// nothing if there were no writes.
    fn check_tally(&self, tally: &mut Self::Tally) -> Result<()>;

    // The head.

    /// The most likely token of each row and its log-probability, without keeping the logits. The log-probability is
    /// NaN exactly when a product of the row with the head is not finite; the token is then meaningless.
    fn head_best(&self, a: &Self::Acts, head: &Self::Matrix, map: &LogitMap) -> Result<Vec<Best>>;
    /// The log-probability of `tokens[i]` at row `i`. It is NaN exactly when a product of the row with the head is not
    /// finite.
    fn head_score(
        &self,
        a: &Self::Acts,
        head: &Self::Matrix,
        map: &LogitMap,
        tokens: &[u32],
    ) -> Result<Vec<f32>>;

    /// Draws a token of each row as `draws[i]` says, without keeping the logits. The log-probability is that under the
    /// logits themselves; NaN exactly when one of them is not finite.
    ///
    /// `None` where the device cannot tell which token it is: the caller then draws it from the logits. So the token
    /// never depends on the device's order of summation. The default is `None` for all rows.
    fn head_draw(
        &self,
        _a: &Self::Acts,
        _head: &Self::Matrix,
        _map: &LogitMap,
        draws: &[TokenDraw],
    ) -> Result<Vec<Option<Best>>> {
        Ok(vec![None; draws.len()])
    }

    // One layer's MLP in training. Weights, moments and gradients are f32 rows; a bias is `[out, 1]`.

    /// `out = x · wᵀ (+ bias)`: `[n, in] x [out, in] -> [n, out]`.
    fn linear_f32(
        &self,
        x: &Self::Rows,
        w: &Self::Rows,
        bias: Option<&Self::Rows>,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// The gradient of [`linear_f32`](Backend::linear_f32)'s input, from the gradient of its output:
    /// `out = d · w`, `[n, out] x [out, in] -> [n, in]`.
    fn linear_f32_back(&self, d: &Self::Rows, w: &Self::Rows, out: &mut Self::Rows) -> Result<()>;
    /// [`glu`](Backend::glu), kept in f32.
    fn glu_f32(
        &self,
        activation: Activation,
        gate_up: &Self::Rows,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// The gradient of `gate_up` (`[n, 2 ffn]`), from the gradient of `activation(gate) * up` (`[n, ffn]`).
    fn mlp_backward(
        &self,
        activation: Activation,
        gate_up: &Self::Rows,
        d_hidden: &Self::Rows,
        out: &mut Self::Rows,
    ) -> Result<()>;
    /// One step of Adam (arXiv 1412.6980, algorithm 1) on `w` (`[out, in]`) with its first and second moments. The
    /// gradient is `dᵀ · x` (`d` is `[n, out]`, `x` is `[n, in]`): a sum of `n` outer products that is never written
    /// out.
    fn adam(
        &self,
        w: &mut Self::Rows,
        moments: [&mut Self::Rows; 2],
        d: &Self::Rows,
        x: &Self::Rows,
        adam: &Adam,
    ) -> Result<()>;
}
