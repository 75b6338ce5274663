//! The backend: storage, and the dispatch of each op.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffers::{Buffer, GpuActs, GpuBatch, GpuMatrix, GpuRows, GpuVector};
use super::kv::GpuKv;
use super::plan::{Splits, step_rows};
use super::scratch::Scratch;
use super::tally::GpuTally;
use super::{Driver, load};
use crate::error::{check_index, check_shape};
use crate::{
    Activation, Adam, Attend, AttnShape, Backend, BatchRow, Best, DType, Injection, KernelError,
    KvLayout, LogitMap, MatrixSource, Memory, Parts, Result, TokenDraw,
};

/// A GPU behind a [`Driver`]. Clones share the device, its stream and its memory.
///
/// GEMM operands, [projections](Backend::projections), keys and values have the dtype of the weights; the residual
/// stream and sums are f32. Ops check their arguments on the host, then put their work on the driver's stream. Only
/// [`head_best`](Backend::head_best), [`head_score`](Backend::head_score) and reads wait for it.
pub struct Gpu<D: Driver> {
    pub(super) driver: Arc<D>,
    pub(super) splits: Splits,
    /// The device's multiprocessors, if our own kernel computes products of few rows.
    pub(super) matvec: Option<u32>,
    scratch: Arc<Mutex<Scratch<D>>>,
}

impl<D: Driver> Clone for Gpu<D> {
    fn clone(&self) -> Self {
        Self {
            driver: self.driver.clone(),
            splits: self.splits,
            matvec: self.matvec,
            scratch: self.scratch.clone(),
        }
    }
}

impl<D: Driver> Gpu<D> {
    /// A backend on a device. `splits` says how attention cuts long contexts. With [`Splits::Fixed`] a row has the same
    /// bits in any batch, provided that the driver's matrix products do too. With [`Splits::Fill`] our own kernel
    /// computes products of few rows.
    pub fn new(driver: D, splits: Splits) -> Result<Self> {
        let driver = Arc::new(driver);
        let matvec = match splits {
            Splits::Fixed => None,
            Splits::Fill { multiprocessors } => Some(multiprocessors),
        };
        Ok(Self {
            scratch: Arc::new(Mutex::new(Scratch::new(&driver)?)),
            driver,
            splits,
            matvec,
        })
    }

    /// This backend, with all matrix products left to the driver.
    pub fn without_matvec(self) -> Self {
        Self {
            matvec: None,
            ..self
        }
    }

    /// The device.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// The buffers that ops share. The holder of the lock may upload a list and launch the kernel that reads it. Hold
    /// the lock from the first use of a buffer until all work that uses it is on the stream; the order of the stream
    /// then keeps callers apart. Nothing done meanwhile may run on rayon's threads, where a waiting thread may start
    /// another caller's op.
    pub(super) fn scratch(&self) -> MutexGuard<'_, Scratch<D>> {
        // An op that panicked may have left half a list; the next op writes its own.
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A size as the 32-bit number that kernels take.
pub(super) fn to_u32(op: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| KernelError::Unsupported {
        op,
        reason: format!("a size of {n} does not fit the 32 bits that a GPU kernel counts with"),
    })
}

impl<D: Driver> Backend for Gpu<D> {
    type Matrix = GpuMatrix<D>;
    type Vector = GpuVector<D>;
    type Rows = GpuRows<D>;
    type Acts = GpuActs<D>;
    type Kv = GpuKv<D>;
    type Batch = GpuBatch<D>;
    type Tally = GpuTally<D>;

    fn describe(&self) -> String {
        self.driver.describe()
    }

    fn memory(&self) -> Result<Memory> {
        self.driver.memory()
    }

    fn pass_rows(&self) -> usize {
        // Hundreds of multiprocessors share the tiles of a product.
        8192
    }

    fn draft_rows(&self) -> usize {
        // `matvec.ptx` pads the batch to the 8 columns of a tensor core's tile, so its products take the same time for
        // all of them. Of 16 rows, the longest products are cuBLASLt's. Not measured.
        8
    }

    fn step_rows(&self, rows: usize) -> usize {
        step_rows(rows)
    }

    fn matrix(&self, sources: &[&dyn MatrixSource], dtype: DType) -> Result<GpuMatrix<D>> {
        load::matrix(&self.driver, sources, dtype)
    }

    fn read_matrix(&self, matrix: &GpuMatrix<D>, rows: Range<usize>) -> Result<Vec<f32>> {
        check_index("read_matrix", "row", rows.end, matrix.rows + 1)?;
        check_index("read_matrix", "row", rows.start, rows.end + 1)?;
        let row_bytes = matrix.columns * matrix.dtype.size();
        let mut bytes = vec![0; rows.len() * row_bytes];
        matrix
            .buffer
            .read((rows.start * row_bytes) as u64, &mut bytes)?;
        Ok(matrix.dtype.to_f32(&bytes))
    }

    fn vector(&self, values: &[f32]) -> Result<GpuVector<D>> {
        let buffer = Buffer::new(&self.driver, "a vector", 4 * values.len() as u64)?;
        buffer.write(0, bytemuck::cast_slice(values))?;
        Ok(GpuVector {
            buffer,
            len: values.len(),
        })
    }

    fn read_vector(&self, vector: &GpuVector<D>) -> Result<Vec<f32>> {
        let mut values = vec![0f32; vector.len];
        vector
            .buffer
            .read(0, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    fn rows(&self, capacity: usize, width: usize) -> Result<GpuRows<D>> {
        self.projections(capacity, width, DType::F32)
    }

    fn projections(&self, capacity: usize, width: usize, weights: DType) -> Result<GpuRows<D>> {
        let bytes = capacity as u64 * width as u64 * weights.size() as u64;
        let buffer = Buffer::zeroed(&self.driver, "a buffer of rows", bytes)?;
        Ok(GpuRows::new(buffer, capacity, width, weights))
    }

    fn acts(&self, capacity: usize, width: usize, weights: DType) -> Result<GpuActs<D>> {
        let bytes = capacity as u64 * width as u64 * weights.size() as u64;
        let buffer = Buffer::new(&self.driver, "a buffer of rows", bytes)?;
        Ok(GpuActs::new(buffer, capacity, width, weights))
    }

    fn kv_bytes(&self, layout: &KvLayout) -> u64 {
        GpuKv::<D>::bytes(layout)
    }

    fn kv_dtype(&self, weights: DType, chosen: Option<DType>) -> Result<DType> {
        match chosen {
            Some(chosen) if chosen != weights => Err(KernelError::KvDType {
                chosen,
                weights,
                device: self.describe(),
            }),
            _ => Ok(weights),
        }
    }

    fn kv(&self, layout: &KvLayout) -> Result<GpuKv<D>> {
        GpuKv::new(&self.driver, layout)
    }

    fn kv_share(
        &self,
        kv: &mut GpuKv<D>,
        slot: usize,
        prefix: u32,
        shared: &[usize],
    ) -> Result<()> {
        kv.share(slot, prefix, shared)
    }

    fn kv_copy(&self, kv: &mut GpuKv<D>, from: usize, to: usize, positions: usize) -> Result<()> {
        kv.copy(from, to, positions)
    }

    fn batch(&self, capacity: usize) -> Result<GpuBatch<D>> {
        GpuBatch::new(&self.driver, capacity)
    }

    fn load_batch(&self, rows: &[BatchRow], batch: &mut GpuBatch<D>) -> Result<()> {
        batch.load(rows)
    }

    fn write_rows(&self, values: &[f32], rows: &mut GpuRows<D>) -> Result<()> {
        let n = values.len() / rows.width.max(1);
        check_shape("write_rows", "values", n * rows.width, values.len())?;
        rows.set_len("write_rows", n)?;
        match rows.dtype {
            DType::F32 => rows.buffer.write(0, bytemuck::cast_slice(values)),
            dtype => rows.buffer.write(0, &dtype.to_bytes(values)),
        }
    }

    fn read_rows(&self, rows: &GpuRows<D>, range: Range<usize>) -> Result<Vec<f32>> {
        check_index("read_rows", "row", range.end, rows.len + 1)?;
        check_index("read_rows", "row", range.start, range.end + 1)?;
        let offset = range.start as u64 * rows.row_bytes();
        if rows.dtype != DType::F32 {
            let mut bytes = vec![0; range.len() * rows.width * rows.dtype.size()];
            rows.buffer.read(offset, &mut bytes)?;
            return Ok(rows.dtype.to_f32(&bytes));
        }
        let mut values = vec![0f32; range.len() * rows.width];
        rows.buffer
            .read(offset, bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }

    fn read_acts(&self, acts: &GpuActs<D>, range: Range<usize>) -> Result<Vec<f32>> {
        check_index("read_acts", "row", range.end, acts.len + 1)?;
        check_index("read_acts", "row", range.start, range.end + 1)?;
        let row_bytes = acts.width * acts.dtype.size();
        let mut bytes = vec![0; range.len() * row_bytes];
        acts.buffer
            .read((range.start * row_bytes) as u64, &mut bytes)?;
        Ok(acts.dtype.to_f32(&bytes))
    }

    fn len(&self, rows: &GpuRows<D>) -> usize {
        rows.len
    }

    fn clear(&self, rows: &mut GpuRows<D>) {
        rows.len = 0;
    }

    fn embed(
        &self,
        table: &GpuMatrix<D>,
        batch: &GpuBatch<D>,
        scale: f32,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        self.embed_rows(table, batch, scale, out)
    }

    fn cast(&self, x: &GpuRows<D>, out: &mut GpuActs<D>) -> Result<()> {
        self.cast_rows(x, out)
    }

    fn add(&self, x: &GpuRows<D>, scale: f32, residual: &mut GpuRows<D>) -> Result<()> {
        self.add_rows(x, scale, residual)
    }

    fn rms_norm(
        &self,
        x: &GpuRows<D>,
        weight: &GpuVector<D>,
        eps: f32,
        out: &mut GpuActs<D>,
    ) -> Result<()> {
        check_shape("rms_norm", "length of the weight", x.width, weight.len)?;
        out.set_len("rms_norm", x.len, x.width)?;
        self.norm(x, weight, eps, out.address(), out.dtype)
    }

    fn rms_norm_f32(
        &self,
        x: &GpuRows<D>,
        weight: &GpuVector<D>,
        eps: f32,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        check_shape("rms_norm", "length of the weight", x.width, weight.len)?;
        check_shape("rms_norm", "width of the output", x.width, out.width)?;
        out.set_len("rms_norm", x.len)?;
        self.norm(x, weight, eps, out.f32("rms_norm")?, DType::F32)
    }

    fn rms_norm_parts(
        &self,
        parts: Parts,
        weight: &GpuVector<D>,
        eps: f32,
        rows: &mut GpuRows<D>,
    ) -> Result<()> {
        self.norm_parts(parts, weight, eps, rows)
    }

    fn linear(
        &self,
        a: &GpuActs<D>,
        w: &GpuMatrix<D>,
        bias: Option<&GpuVector<D>>,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        check_shape("linear", "width of the output", w.rows, out.width)?;
        out.set_len("linear", a.len)?;
        self.product("linear", a, w, bias, out, false)
    }

    fn linear_add(
        &self,
        a: &GpuActs<D>,
        w: &GpuMatrix<D>,
        bias: Option<&GpuVector<D>>,
        residual: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "linear_add";
        check_shape(OP, "width of the residual", w.rows, residual.width)?;
        check_shape(OP, "rows of the residual", a.len, residual.len)?;
        self.product(OP, a, w, bias, residual, true)
    }

    fn rope_append(
        &self,
        shape: &AttnShape,
        rope: Option<&GpuRows<D>>,
        batch: &GpuBatch<D>,
        layer: usize,
        qkv: &mut GpuRows<D>,
        kv: &mut GpuKv<D>,
    ) -> Result<()> {
        self.rotate_and_append(shape, rope, batch, layer, qkv, kv)
    }

    fn attend(
        &self,
        attend: &Attend,
        qkv: &GpuRows<D>,
        batch: &GpuBatch<D>,
        layer: usize,
        kv: &GpuKv<D>,
        out: &mut GpuActs<D>,
    ) -> Result<()> {
        self.attention(attend, qkv, batch, layer, kv, out)
    }

    fn glu(
        &self,
        activation: Activation,
        gate_up: &GpuRows<D>,
        out: &mut GpuActs<D>,
    ) -> Result<()> {
        let (width, ffn) = (gate_up.width, gate_up.width / 2);
        check_shape("glu", "width of gate_up", 2 * ffn, width)?;
        out.set_len("glu", gate_up.len, ffn)?;
        self.gate("glu", activation, gate_up, out.address(), out.dtype)
    }

    fn linear_glu(
        &self,
        a: &GpuActs<D>,
        w: &GpuMatrix<D>,
        bias: Option<&GpuVector<D>>,
        activation: Activation,
        gate_up: &mut GpuRows<D>,
        out: &mut GpuActs<D>,
    ) -> Result<()> {
        check_shape("linear", "width of the output", w.rows, gate_up.width)?;
        gate_up.set_len("linear", a.len)?;
        if self.gated_product(a, w, bias, activation, out)? {
            return Ok(());
        }
        self.linear(a, w, bias, gate_up)?;
        self.glu(activation, gate_up, out)
    }

    fn gather(&self, src: &GpuRows<D>, index: &[usize], dst: &mut GpuRows<D>) -> Result<()> {
        self.gather_rows(src, index, dst)
    }

    fn tally(&self) -> Result<GpuTally<D>> {
        GpuTally::new(&self.driver)
    }

    fn inject(
        &self,
        vectors: &GpuRows<D>,
        writes: &[Injection],
        rows: &mut GpuRows<D>,
        tally: &mut GpuTally<D>,
    ) -> Result<()> {
        self.inject_rows(vectors, writes, rows, tally)
    }

    fn check_tally(&self, tally: &mut GpuTally<D>) -> Result<()> {
        tally.check()
    }

    fn head_best(&self, a: &GpuActs<D>, head: &GpuMatrix<D>, map: &LogitMap) -> Result<Vec<Best>> {
        self.reduce_head("head_best", a, head, map, None)
    }

    fn head_score(
        &self,
        a: &GpuActs<D>,
        head: &GpuMatrix<D>,
        map: &LogitMap,
        tokens: &[u32],
    ) -> Result<Vec<f32>> {
        const OP: &str = "head_score";
        check_shape(OP, "number of tokens", a.len, tokens.len())?;
        for &token in tokens {
            check_index(OP, "token", token as usize, head.rows)?;
        }
        let scored = self.reduce_head(OP, a, head, map, Some(tokens))?;
        Ok(scored.iter().map(|token| token.logprob).collect())
    }

    fn head_draw(
        &self,
        a: &GpuActs<D>,
        head: &GpuMatrix<D>,
        map: &LogitMap,
        draws: &[TokenDraw],
    ) -> Result<Vec<Option<Best>>> {
        self.draw_tokens(a, head, map, draws)
    }

    fn linear_f32(
        &self,
        x: &GpuRows<D>,
        w: &GpuRows<D>,
        bias: Option<&GpuRows<D>>,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        self.product_f32(x, w, bias, out)
    }

    fn linear_f32_back(&self, d: &GpuRows<D>, w: &GpuRows<D>, out: &mut GpuRows<D>) -> Result<()> {
        self.product_f32_back(d, w, out)
    }

    fn glu_f32(
        &self,
        activation: Activation,
        gate_up: &GpuRows<D>,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "glu_f32";
        check_shape(OP, "width of gate_up", 2 * out.width, gate_up.width)?;
        out.set_len(OP, gate_up.len)?;
        self.gate(OP, activation, gate_up, out.f32(OP)?, DType::F32)
    }

    fn mlp_backward(
        &self,
        activation: Activation,
        gate_up: &GpuRows<D>,
        d_hidden: &GpuRows<D>,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        self.gate_backward(activation, gate_up, d_hidden, out)
    }

    fn adam(
        &self,
        w: &mut GpuRows<D>,
        moments: [&mut GpuRows<D>; 2],
        d: &GpuRows<D>,
        x: &GpuRows<D>,
        adam: &Adam,
    ) -> Result<()> {
        self.adam_step(w, moments, d, x, adam)
    }
}
