//! The ops of a forward pass.

use super::backend::to_u32;
use super::buffers::{GpuActs, GpuBatch, GpuMatrix, GpuRows, GpuVector, check_dtypes};
use super::few_rows::{checked_bias, gemm_of};
use super::kv::GpuKv;
use super::plan::{self, Add, Attention, Cast, Embed, Glu, RmsNorm, RopeAppend};
use super::{Driver, Gemm, Gpu};
use crate::checks::{check_groups, check_parts, check_qkv, check_rope};
use crate::error::{check_index, check_shape};
use crate::{Activation, Attend, AttnShape, DType, KernelError, Parts, Result};

/// The name of a cache's contents in errors.
const CACHE: &str = "the cache's keys and values";

impl<D: Driver> Gpu<D> {
    pub(super) fn embed_rows(
        &self,
        table: &GpuMatrix<D>,
        batch: &GpuBatch<D>,
        scale: f32,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "embed";
        check_shape(OP, "width of the output", table.columns, out.width)?;
        for row in &batch.rows {
            check_index(OP, "token", row.token as usize, table.rows)?;
        }
        out.set_len(OP, batch.rows.len())?;
        if out.len * out.width == 0 {
            return Ok(());
        }
        let plan = Embed {
            table: table.buffer.address(),
            token: batch.tokens(),
            out: out.f32(OP)?,
            n: to_u32(OP, out.len)?,
            width: to_u32(OP, out.width)?,
            dtype: table.dtype,
            scale,
        };
        // SAFETY: the tokens are rows of the table, and the output has a row of its width for each.
        unsafe { self.driver.launch(&plan.launch()) }
    }

    /// `out` is `[x.len, x.width]` of `dtype`. The weight is as long as a row.
    pub(super) fn norm(
        &self,
        x: &GpuRows<D>,
        weight: &GpuVector<D>,
        eps: f32,
        out: u64,
        dtype: DType,
    ) -> Result<()> {
        const OP: &str = "rms_norm";
        if x.len * x.width == 0 {
            return Ok(());
        }
        let width = norm_width(OP, x.width)?;
        let plan = RmsNorm {
            x: x.f32(OP)?,
            weight: weight.buffer.address(),
            out,
            n: to_u32(OP, x.len)?,
            parts: 1,
            stride: width,
            width,
            x_dtype: DType::F32,
            dtype,
            eps,
        };
        // SAFETY: the caller has checked the weight and the output against `x`.
        unsafe { self.driver.launch(&plan.launch()) }
    }

    pub(super) fn norm_parts(
        &self,
        parts: Parts,
        weight: &GpuVector<D>,
        eps: f32,
        rows: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "rms_norm_parts";
        check_parts(parts, weight.len, rows.width)?;
        if rows.len * parts.count * parts.width == 0 {
            return Ok(());
        }
        let first = rows.address() + (rows.dtype.size() * parts.first) as u64;
        let plan = RmsNorm {
            x: first,
            weight: weight.buffer.address(),
            out: first,
            n: to_u32(OP, rows.len)?,
            parts: to_u32(OP, parts.count)?,
            stride: to_u32(OP, rows.width)?,
            width: norm_width(OP, parts.width)?,
            x_dtype: rows.dtype,
            dtype: rows.dtype,
            eps,
        };
        plan.check(OP)?;
        // SAFETY: the parts lie in the rows, and the weight is as long as a part.
        unsafe { self.driver.launch(&plan.launch()) }
    }

    /// Sets `out` to `a · wᵀ (+ bias)`, or adds that to it. The caller has checked the shape of `out`.
    pub(super) fn product(
        &self,
        op: &'static str,
        a: &GpuActs<D>,
        w: &GpuMatrix<D>,
        bias: Option<&GpuVector<D>>,
        out: &mut GpuRows<D>,
        accumulate: bool,
    ) -> Result<()> {
        let bias = checked_bias(op, a, w, bias)?;
        if out.dtype != DType::F32 {
            check_dtypes(op, [("the weights", w.dtype), ("the rows", out.dtype)])?;
        }
        if out.len * out.width == 0 {
            return Ok(());
        }
        let gemm = Gemm {
            accumulate,
            out_dtype: out.dtype,
            ..gemm_of(a, w, out.address())
        };
        // SAFETY: widths and dtypes agree, and the output has a row of `w.rows` for each of `a`.
        unsafe { self.multiply(op, &gemm, bias) }
    }

    pub(super) fn add_rows(
        &self,
        x: &GpuRows<D>,
        scale: f32,
        residual: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "add";
        check_shape(OP, "width of the residual", x.width, residual.width)?;
        check_shape(OP, "rows of the residual", x.len, residual.len)?;
        if x.len * x.width == 0 {
            return Ok(());
        }
        let plan = Add {
            out: residual.f32(OP)?,
            x: x.f32(OP)?,
            bias: false,
            scale,
            n: to_u32(OP, x.len)?,
            width: to_u32(OP, x.width)?,
            dtype: DType::F32,
        };
        // SAFETY: both have the same number of rows.
        unsafe { self.driver.launch(&plan.launch()) }
    }

    pub(super) fn cast_rows(&self, x: &GpuRows<D>, out: &mut GpuActs<D>) -> Result<()> {
        const OP: &str = "cast";
        out.set_len(OP, x.len, x.width)?;
        if x.len * x.width == 0 {
            return Ok(());
        }
        let plan = Cast {
            x: x.f32(OP)?,
            out: out.address(),
            n: to_u32(OP, x.len)?,
            width: to_u32(OP, x.width)?,
            dtype: out.dtype,
        };
        // SAFETY: both have the same number of rows, and the output has its dtype.
        unsafe { self.driver.launch(&plan.launch()) }
    }

    pub(super) fn rotate_and_append(
        &self,
        shape: &AttnShape,
        rope: Option<&GpuRows<D>>,
        batch: &GpuBatch<D>,
        layer: usize,
        qkv: &mut GpuRows<D>,
        kv: &mut GpuKv<D>,
    ) -> Result<()> {
        const OP: &str = "rope_append";
        let rows = batch.rows.len();
        check_qkv(OP, shape, &kv.layout, rows, (qkv.len, qkv.width))?;
        kv.check(OP, layer, batch)?;
        if let Some(rope) = rope {
            // If a position is past the table's end, search the rows for the first one.
            let mut spans = batch.work.spans().iter();
            let inside = spans.all(|span| (span.last as usize) < rope.len);
            let rows = if inside { &[] } else { &batch.rows[..] };
            check_rope(OP, shape, (rope.len, rope.width), rows)?;
        }
        check_dtypes(
            OP,
            [
                (CACHE, kv.layout.dtype),
                ("queries, keys and values", qkv.dtype),
            ],
        )?;
        check_head_dim(OP, shape, DType::F32)?;
        if qkv.len * qkv.width == 0 {
            return Ok(());
        }
        let plan = RopeAppend {
            qkv: qkv.address(),
            table: rope.map_or(Ok(0), |rope| rope.f32(OP))?,
            rotated: to_u32(OP, rope.map_or(shape.head_dim, |rope| rope.width))?,
            slot: batch.slots(),
            position: batch.positions(),
            kv: kv.layer(layer)?,
            n: to_u32(OP, qkv.len)?,
            heads: to_u32(OP, shape.heads)?,
        };
        plan.kv.check(OP)?;
        // SAFETY: shapes agree, and the place of each row lies in the cache and in the table.
        unsafe { self.driver.launch(&plan.launch())? };
        kv.stored(layer, batch);
        Ok(())
    }

    pub(super) fn attention(
        &self,
        attend: &Attend,
        qkv: &GpuRows<D>,
        batch: &GpuBatch<D>,
        layer: usize,
        kv: &GpuKv<D>,
        out: &mut GpuActs<D>,
    ) -> Result<()> {
        const OP: &str = "attend";
        let shape = &attend.shape;
        let rows = batch.rows.len();
        check_qkv(OP, shape, &kv.layout, rows, (qkv.len, qkv.width))?;
        check_groups(OP, shape)?;
        kv.check(OP, layer, batch)?;
        out.set_len(OP, qkv.len, shape.q_dim())?;
        for other in [("queries", qkv.dtype), ("outputs", out.dtype)] {
            check_dtypes(OP, [(CACHE, kv.layout.dtype), other])?;
        }
        check_head_dim(OP, shape, out.dtype)?;
        if out.len * out.width == 0 {
            return Ok(());
        }
        let mut plan = Attention {
            attend,
            qkv: qkv.address(),
            out: out.address(),
            slot: batch.slots(),
            position: batch.positions(),
            words: batch.words(),
            scratch: 0,
            rows: &batch.work,
            n: to_u32(OP, qkv.len)?,
            heads: to_u32(OP, shape.heads)?,
            kv: kv.layer(layer)?,
            splits: self.splits,
        };
        plan.check(OP)?;
        let mut scratch = self.scratch();
        let bytes = plan.scratch_bytes();
        if bytes > 0 {
            plan.scratch = scratch.attention.at_least(bytes)?.address();
        }
        for launch in plan.launches() {
            // SAFETY: shapes agree, each row's place is in the cache, and the lists are those of the batch. This op
            // holds the scratch memory while its launches are put on the stream.
            unsafe { self.driver.launch(&launch)? };
        }
        Ok(())
    }

    /// `out` is `[gate_up.len, gate_up.width / 2]` of `dtype`, which must be that of `gate_up`.
    pub(super) fn gate(
        &self,
        op: &'static str,
        activation: Activation,
        gate_up: &GpuRows<D>,
        out: u64,
        dtype: DType,
    ) -> Result<()> {
        check_dtypes(op, [("gate and up", gate_up.dtype), ("outputs", dtype)])?;
        if gate_up.len * gate_up.width == 0 {
            return Ok(());
        }
        let plan = Glu {
            activation,
            gate_up: gate_up.address(),
            out,
            n: to_u32(op, gate_up.len)?,
            ffn: to_u32(op, gate_up.width / 2)?,
            dtype,
        };
        // SAFETY: the caller has checked the output against `gate_up`.
        unsafe { self.driver.launch(&plan.launch()) }
    }
}

/// The width of a norm; its columns must fit a block's shared memory.
fn norm_width(op: &'static str, width: usize) -> Result<u32> {
    let width = to_u32(op, width)?;
    if width <= plan::MAX_WIDTH {
        return Ok(width);
    }
    Err(KernelError::Unsupported {
        op,
        reason: format!(
            "rows have {width} columns; a GPU takes at most {}",
            plan::MAX_WIDTH
        ),
    })
}

/// Checks that there are kernels for heads of this width.
fn check_head_dim(op: &'static str, shape: &AttnShape, dtype: DType) -> Result<()> {
    let (dim, max) = (shape.head_dim, plan::MAX_HEAD_DIM as usize);
    let step = match dtype {
        DType::F32 => 2,
        DType::Bf16 | DType::F16 => plan::HEAD_DIM_STEP as usize,
    };
    if dim <= max && dim.is_multiple_of(step) {
        return Ok(());
    }
    Err(KernelError::Unsupported {
        op,
        reason: format!(
            "head_dim is {dim} with {dtype} weights; a GPU takes multiples of {step} up to {max}"
        ),
    })
}
