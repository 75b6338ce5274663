//! The CPU backend.

mod adam;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod amx_emulator;
mod attend;
mod blocks;
mod cast;
mod embed;
mod gemm;
mod glu;
mod head;
mod kv;
mod linear_f32;
mod math;
mod matrix;
#[cfg_attr(target_os = "linux", path = "memory/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "memory/elsewhere.rs")]
mod memory;
mod mlp_backward;
mod norm;
mod pack;
mod pages;
mod path;
mod probe_ops;
mod rope;
mod rows;
mod scratch;
mod simd;
mod threads;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tiles;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

pub use kv::CpuKv;
pub use matrix::CpuMatrix;
pub use path::CpuPath;
pub use probe_ops::CpuTally;
pub use rows::{CpuActs, CpuBatch, CpuRows, CpuVector};

use crate::error::check_index;
use crate::{
    Activation, Adam, Attend, AttnShape, Backend, BatchRow, Best, DType, Format, Injection,
    KernelError, KvLayout, LogitMap, MatrixSource, Memory, Parts, Result,
};
use blocks::OperandBlock;
use gemm::Target;
use head::Part;
use pages::Pages;
use scratch::FreeList;
use simd::Isa;
use threads::Threads;

/// How to set up a [`Cpu`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Worker threads. `None` means one for each core that the process may use.
    pub threads: Option<usize>,
    /// The instruction-set path to force. `None` takes the best one that the machine has.
    pub path: Option<CpuPath>,
}

/// The CPU backend: its threads and its instruction set. Clones share the threads.
///
/// A row gets the same bits in any batch, on any number of threads, and whatever else runs at the same time. Different
/// paths round differently.
#[derive(Clone)]
pub struct Cpu {
    isa: Isa,
    /// For the ops of a pass.
    threads: Arc<Threads>,
    /// For loading and for training.
    pool: Arc<rayon::ThreadPool>,
    scratch: Arc<Scratch>,
    pages: Arc<Pages>,
}

/// Scratch memory that calls share.
#[derive(Debug, Default)]
struct Scratch {
    head_parts: FreeList<Part>,
    operands: FreeList<OperandBlock>,
}

impl Cpu {
    /// Starts the threads and chooses the path.
    pub fn new(options: CpuOptions) -> Result<Self> {
        let isa = path::choose(options.path)?;
        let threads = options.threads.unwrap_or(0);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("selfie-{i}"))
            .build()
            .map_err(|error| KernelError::Threads {
                threads,
                source: io::Error::other(error),
            })?;
        let threads = pool.current_num_threads();
        let ours =
            Threads::new(threads).map_err(|source| KernelError::Threads { threads, source })?;
        Ok(Self {
            isa,
            threads: Arc::new(ours),
            pool: Arc::new(pool),
            scratch: Arc::default(),
            pages: Arc::default(),
        })
    }

    /// The instruction-set path in use.
    pub fn path(&self) -> CpuPath {
        self.isa.path()
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// An error if `bytes` do not fit the free memory.
    fn check_memory(&self, what: &'static str, bytes: u64) -> Result<()> {
        // Small buffers are not worth a system call.
        if bytes < 16 << 20 {
            return Ok(());
        }
        let available = self.memory()?.available;
        if bytes <= available {
            return Ok(());
        }
        Err(KernelError::OutOfMemory {
            what,
            bytes,
            available,
            device: "the CPU".to_owned(),
        })
    }
}

impl Backend for Cpu {
    type Matrix = CpuMatrix;
    type Vector = CpuVector;
    type Rows = CpuRows;
    type Acts = CpuActs;
    type Kv = CpuKv;
    type Batch = CpuBatch;
    type Tally = CpuTally;

    fn describe(&self) -> String {
        format!("CPU, {} threads, {}", self.threads(), self.path())
    }

    fn memory(&self) -> Result<Memory> {
        memory::memory().map_err(KernelError::Memory)
    }

    fn pass_rows(&self) -> usize {
        self.path().pass_rows()
    }

    fn draft_rows(&self) -> usize {
        self.path().draft_rows()
    }

    fn matrix(&self, sources: &[&dyn MatrixSource], dtype: DType) -> Result<CpuMatrix> {
        let sources: Vec<_> = sources.iter().map(|&s| (s, Format::Plain(dtype))).collect();
        self.stack(&sources)
    }

    fn keeps_blocks(&self) -> bool {
        true
    }

    fn stack(&self, sources: &[(&dyn MatrixSource, Format)]) -> Result<CpuMatrix> {
        let bytes = |&(source, format): &(&dyn MatrixSource, Format)| {
            let (rows, columns) = source.shape();
            rows * format.row_bytes(columns)
        };
        let bytes = sources.iter().map(bytes).sum::<usize>();
        self.check_memory("a weight matrix", bytes as u64)?;
        self.pool.install(|| CpuMatrix::pack(&self.pages, sources))
    }

    fn read_matrix(&self, matrix: &CpuMatrix, rows: Range<usize>) -> Result<Vec<f32>> {
        check_index("read_matrix", "row", rows.end, matrix.rows() + 1)?;
        check_index("read_matrix", "row", rows.start, rows.end + 1)?;
        let width = matrix.columns();
        let mut values = vec![0.0; rows.len() * width];
        self.pool.install(|| {
            values
                .par_chunks_mut(width.max(1))
                .zip(rows)
                .for_each(|(values, row)| matrix.read_row(row, values));
        });
        Ok(values)
    }

    fn vector(&self, values: &[f32]) -> Result<CpuVector> {
        Ok(CpuVector(values.to_vec()))
    }

    fn read_vector(&self, vector: &CpuVector) -> Result<Vec<f32>> {
        Ok(vector.0.clone())
    }

    fn rows(&self, capacity: usize, width: usize) -> Result<CpuRows> {
        self.check_memory("a buffer of rows", (capacity * width * 4) as u64)?;
        Ok(CpuRows::new(capacity, width))
    }

    fn acts(&self, capacity: usize, width: usize, weights: DType) -> Result<CpuActs> {
        self.check_memory("a buffer of rows", (capacity * width * 4) as u64)?;
        Ok(CpuActs::new(self.isa, capacity, width, weights))
    }

    fn kv_bytes(&self, layout: &KvLayout) -> u64 {
        CpuKv::bytes(layout)
    }

    fn kv_dtype(&self, _: DType, chosen: Option<DType>) -> Result<DType> {
        Ok(chosen.unwrap_or(DType::F32))
    }

    fn kv(&self, layout: &KvLayout) -> Result<CpuKv> {
        self.check_memory("the KV cache", CpuKv::bytes(layout))?;
        Ok(CpuKv::new(layout))
    }

    fn kv_share(&self, kv: &mut CpuKv, slot: usize, prefix: u32, shared: &[usize]) -> Result<()> {
        kv.share(slot, prefix, shared)
    }

    fn kv_copy(&self, kv: &mut CpuKv, from: usize, to: usize, positions: usize) -> Result<()> {
        self.pool.install(|| kv.copy(from, to, positions))
    }

    fn batch(&self, capacity: usize) -> Result<CpuBatch> {
        Ok(CpuBatch::new(capacity))
    }

    fn load_batch(&self, rows: &[BatchRow], batch: &mut CpuBatch) -> Result<()> {
        batch.load(rows)
    }

    fn write_rows(&self, values: &[f32], rows: &mut CpuRows) -> Result<()> {
        let n = values.len() / rows.width().max(1);
        crate::error::check_shape("write_rows", "values", n * rows.width(), values.len())?;
        rows.set_len("write_rows", n)?;
        rows.values_mut().copy_from_slice(values);
        Ok(())
    }

    fn read_rows(&self, rows: &CpuRows, range: Range<usize>) -> Result<Vec<f32>> {
        check_index("read_rows", "row", range.end, rows.len() + 1)?;
        check_index("read_rows", "row", range.start, range.end + 1)?;
        let width = rows.width();
        Ok(rows.values()[range.start * width..range.end * width].to_vec())
    }

    fn read_acts(&self, acts: &CpuActs, range: Range<usize>) -> Result<Vec<f32>> {
        check_index("read_acts", "row", range.end, acts.len + 1)?;
        check_index("read_acts", "row", range.start, range.end + 1)?;
        Ok(range.flat_map(|i| acts.row(i)).collect())
    }

    fn len(&self, rows: &CpuRows) -> usize {
        rows.len()
    }

    fn clear(&self, rows: &mut CpuRows) {
        rows.clear();
    }

    fn embed(
        &self,
        table: &CpuMatrix,
        batch: &CpuBatch,
        scale: f32,
        out: &mut CpuRows,
    ) -> Result<()> {
        embed::embed(&self.threads, table, batch, scale, out)
    }

    fn cast(&self, x: &CpuRows, out: &mut CpuActs) -> Result<()> {
        cast::cast(&self.threads, x, out)
    }

    fn add(&self, x: &CpuRows, scale: f32, residual: &mut CpuRows) -> Result<()> {
        cast::add(&self.threads, x, scale, residual)
    }

    fn rms_norm(&self, x: &CpuRows, weight: &CpuVector, eps: f32, out: &mut CpuActs) -> Result<()> {
        norm::rms_norm(self.isa, &self.threads, x, &weight.0, eps, out)
    }

    fn rms_norm_f32(
        &self,
        x: &CpuRows,
        weight: &CpuVector,
        eps: f32,
        out: &mut CpuRows,
    ) -> Result<()> {
        norm::rms_norm_f32(self.isa, &self.threads, x, &weight.0, eps, out)
    }

    fn rms_norm_parts(
        &self,
        parts: Parts,
        weight: &CpuVector,
        eps: f32,
        rows: &mut CpuRows,
    ) -> Result<()> {
        norm::rms_norm_parts(self.isa, &self.threads, parts, &weight.0, eps, rows)
    }

    fn linear(
        &self,
        a: &CpuActs,
        w: &CpuMatrix,
        bias: Option<&CpuVector>,
        out: &mut CpuRows,
    ) -> Result<()> {
        crate::error::check_shape("linear", "width of the output", w.rows(), out.width())?;
        out.set_len("linear", a.len)?;
        let bias = bias.map(|b| &b.0[..]);
        let target = Target::Set(out.values_mut());
        gemm::linear(
            self.isa,
            &self.threads,
            &self.scratch.operands,
            a,
            w,
            bias,
            target,
        )
    }

    fn linear_add(
        &self,
        a: &CpuActs,
        w: &CpuMatrix,
        bias: Option<&CpuVector>,
        residual: &mut CpuRows,
    ) -> Result<()> {
        crate::error::check_shape(
            "linear_add",
            "width of the residual",
            w.rows(),
            residual.width(),
        )?;
        let bias = bias.map(|b| &b.0[..]);
        let target = Target::Add(residual.values_mut());
        gemm::linear(
            self.isa,
            &self.threads,
            &self.scratch.operands,
            a,
            w,
            bias,
            target,
        )
    }

    fn rope_append(
        &self,
        shape: &AttnShape,
        rope: Option<&CpuRows>,
        batch: &CpuBatch,
        layer: usize,
        qkv: &mut CpuRows,
        kv: &mut CpuKv,
    ) -> Result<()> {
        rope::rope_append(self.isa, &self.threads, shape, rope, batch, layer, qkv, kv)
    }

    fn attend(
        &self,
        attend: &Attend,
        qkv: &CpuRows,
        batch: &CpuBatch,
        layer: usize,
        kv: &CpuKv,
        out: &mut CpuActs,
    ) -> Result<()> {
        attend::attend(self.isa, &self.threads, attend, qkv, batch, layer, kv, out)
    }

    fn glu(&self, activation: Activation, gate_up: &CpuRows, out: &mut CpuActs) -> Result<()> {
        glu::glu(self.isa, &self.threads, activation, gate_up, out)
    }

    fn gather(&self, src: &CpuRows, index: &[usize], dst: &mut CpuRows) -> Result<()> {
        probe_ops::gather(src, index, dst)
    }

    fn tally(&self) -> Result<CpuTally> {
        Ok(CpuTally::default())
    }

    fn inject(
        &self,
        vectors: &CpuRows,
        writes: &[Injection],
        rows: &mut CpuRows,
        tally: &mut CpuTally,
    ) -> Result<()> {
        probe_ops::inject(vectors, writes, rows, tally)
    }

    fn check_tally(&self, tally: &mut CpuTally) -> Result<()> {
        tally.check()
    }

    fn head_best(&self, a: &CpuActs, head: &CpuMatrix, map: &LogitMap) -> Result<Vec<Best>> {
        head::best(self.isa, &self.threads, &self.scratch, a, head, map)
    }

    fn head_score(
        &self,
        a: &CpuActs,
        head: &CpuMatrix,
        map: &LogitMap,
        tokens: &[u32],
    ) -> Result<Vec<f32>> {
        head::score(self.isa, &self.threads, &self.scratch, a, head, map, tokens)
    }

    fn linear_f32(
        &self,
        x: &CpuRows,
        w: &CpuRows,
        bias: Option<&CpuRows>,
        out: &mut CpuRows,
    ) -> Result<()> {
        self.pool
            .install(|| linear_f32::linear_f32(self.isa, x, w, bias, out))
    }

    fn linear_f32_back(&self, d: &CpuRows, w: &CpuRows, out: &mut CpuRows) -> Result<()> {
        self.pool
            .install(|| linear_f32::linear_f32_back(self.isa, d, w, out))
    }

    fn glu_f32(&self, activation: Activation, gate_up: &CpuRows, out: &mut CpuRows) -> Result<()> {
        self.pool
            .install(|| mlp_backward::glu_f32(self.isa, activation, gate_up, out))
    }

    fn mlp_backward(
        &self,
        activation: Activation,
        gate_up: &CpuRows,
        d_hidden: &CpuRows,
        out: &mut CpuRows,
    ) -> Result<()> {
        self.pool
            .install(|| mlp_backward::mlp_backward(self.isa, activation, gate_up, d_hidden, out))
    }

    fn adam(
        &self,
        w: &mut CpuRows,
        moments: [&mut CpuRows; 2],
        d: &CpuRows,
        x: &CpuRows,
        adam: &Adam,
    ) -> Result<()> {
        self.pool
            .install(|| adam::adam(self.isa, w, moments, d, x, adam))
    }
}
