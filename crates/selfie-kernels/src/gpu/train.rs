//! The ops that train one MLP.

use super::backend::to_u32;
use super::buffers::GpuRows;
use super::plan::{Adam as AdamPlan, MlpBackward};
use super::{Driver, Gemm, Gpu, WeightOrder};
use crate::error::check_shape;
use crate::{Activation, Adam, DType, Result};

impl<D: Driver> Gpu<D> {
    pub(super) fn product_f32(
        &self,
        x: &GpuRows<D>,
        w: &GpuRows<D>,
        bias: Option<&GpuRows<D>>,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "linear_f32";
        check_shape(OP, "columns of the weight", x.width, w.width)?;
        check_shape(OP, "width of the output", w.len, out.width)?;
        if let Some(bias) = bias {
            check_shape(OP, "length of the bias", w.len, bias.len * bias.width)?;
        }
        out.set_len(OP, x.len)?;
        let bias = bias.map_or(Ok(0), |bias| bias.f32(OP))?;
        self.gemm_f32(OP, x, w, WeightOrder::Outputs, bias, out)
    }

    pub(super) fn product_f32_back(
        &self,
        d: &GpuRows<D>,
        w: &GpuRows<D>,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "linear_f32_back";
        check_shape(OP, "rows of the weight", d.width, w.len)?;
        check_shape(OP, "width of the output", w.width, out.width)?;
        out.set_len(OP, d.len)?;
        self.gemm_f32(OP, d, w, WeightOrder::Terms, 0, out)
    }

    /// `out = a · w (+ bias)`. The caller has checked the shapes; a bias of 0 means none.
    fn gemm_f32(
        &self,
        op: &'static str,
        a: &GpuRows<D>,
        w: &GpuRows<D>,
        order: WeightOrder,
        bias: u64,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        if out.len * out.width == 0 {
            return Ok(());
        }
        let gemm = Gemm {
            a: a.f32(op)?,
            w: w.f32(op)?,
            out: out.f32(op)?,
            m: a.len,
            n: out.width,
            k: a.width,
            dtype: DType::F32,
            out_dtype: DType::F32,
            order,
            accumulate: false,
        };
        // SAFETY: the caller has checked that the shapes agree.
        unsafe { self.multiply(op, &gemm, bias) }
    }

    pub(super) fn gate_backward(
        &self,
        activation: Activation,
        gate_up: &GpuRows<D>,
        d_hidden: &GpuRows<D>,
        out: &mut GpuRows<D>,
    ) -> Result<()> {
        const OP: &str = "mlp_backward";
        let ffn = d_hidden.width;
        check_shape(OP, "width of gate_up", 2 * ffn, gate_up.width)?;
        check_shape(OP, "width of the output", 2 * ffn, out.width)?;
        check_shape(OP, "rows of d_hidden", gate_up.len, d_hidden.len)?;
        out.set_len(OP, gate_up.len)?;
        if out.len * ffn == 0 {
            return Ok(());
        }
        let plan = MlpBackward {
            activation,
            gate_up: gate_up.f32(OP)?,
            d: d_hidden.f32(OP)?,
            out: out.f32(OP)?,
            n: to_u32(OP, out.len)?,
            ffn: to_u32(OP, ffn)?,
        };
        // SAFETY: all three have `out.len` rows of their widths.
        unsafe { self.driver.launch(&plan.launch()) }
    }

    pub(super) fn adam_step(
        &self,
        w: &mut GpuRows<D>,
        [m, v]: [&mut GpuRows<D>; 2],
        d: &GpuRows<D>,
        x: &GpuRows<D>,
        adam: &Adam,
    ) -> Result<()> {
        const OP: &str = "adam";
        check_shape(OP, "rows of x", d.len, x.len)?;
        check_shape(OP, "width of d", w.len, d.width)?;
        check_shape(OP, "width of x", w.width, x.width)?;
        for moment in [&*m, &*v] {
            check_shape(OP, "rows of a moment", w.len, moment.len)?;
            check_shape(OP, "width of a moment", w.width, moment.width)?;
        }
        if w.len * w.width == 0 {
            return Ok(());
        }
        let plan = AdamPlan {
            w: w.f32(OP)?,
            m: m.f32(OP)?,
            v: v.f32(OP)?,
            d: d.f32(OP)?,
            x: x.f32(OP)?,
            n: to_u32(OP, d.len)?,
            out: to_u32(OP, w.len)?,
            width: to_u32(OP, w.width)?,
            adam: *adam,
        };
        // SAFETY: weights and moments have one shape, and `d` and `x` have equally many rows.
        unsafe { self.driver.launch(&plan.launch()) }
    }
}
