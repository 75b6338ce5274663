//! Products. Our own kernel computes those of few rows; the driver computes the others.

use super::backend::to_u32;
use super::buffers::{GpuActs, GpuMatrix, GpuVector};
use super::plan::{Add, Matvec};
use super::{Driver, Gemm, Gpu, WeightOrder};
use crate::error::check_shape;
use crate::{Activation, DType, Result};

impl<D: Driver> Gpu<D> {
    /// Computes a product, and adds a bias unless its address is 0.
    ///
    /// # Safety
    /// As for [`Driver::gemm`]. The bias has `gemm.n` values.
    pub(super) unsafe fn multiply(&self, op: &'static str, gemm: &Gemm, bias: u64) -> Result<()> {
        if let Some(plan) = self.few_rows(gemm, bias) {
            // SAFETY: the addresses are the caller's, and the kernel takes their sizes.
            return unsafe { self.driver.launch(&plan.launch()) };
        }
        // SAFETY: the addresses are the caller's.
        unsafe { self.driver.gemm(gemm)? };
        if bias == 0 {
            return Ok(());
        }
        let plan = Add {
            out: gemm.out,
            x: bias,
            bias: true,
            scale: 1.0,
            n: to_u32(op, gemm.m)?,
            width: to_u32(op, gemm.n)?,
            dtype: gemm.out_dtype,
        };
        // SAFETY: the bias has a value for each column of the product.
        unsafe { self.driver.launch(&plan.launch()) }
    }

    /// A product followed by a gated unit, if our own kernel takes it: `out` becomes `activation(gate) * up` of `a · wᵀ
    /// (+ bias)`. Returns whether it was computed.
    pub(super) fn gated_product(
        &self,
        a: &GpuActs<D>,
        w: &GpuMatrix<D>,
        bias: Option<&GpuVector<D>>,
        activation: Activation,
        out: &mut GpuActs<D>,
    ) -> Result<bool> {
        const OP: &str = "linear_glu";
        let bias = checked_bias(OP, a, w, bias)?;
        if a.len == 0 || out.dtype != w.dtype || !w.rows.is_multiple_of(Matvec::GATED_STEP) {
            return Ok(false);
        }
        out.set_len(OP, a.len, w.rows / 2)?;
        let gemm = gemm_of(a, w, out.address());
        let Some(plan) = self.few_rows(&gemm, bias) else {
            return Ok(false);
        };
        // SAFETY: widths and dtypes agree, and the output has a row of `w.rows / 2` for each of `a`.
        unsafe { self.driver.launch(&plan.gated(activation))? };
        Ok(true)
    }

    fn few_rows(&self, gemm: &Gemm, bias: u64) -> Option<Matvec> {
        let multiprocessors = self.matvec.filter(|_| Matvec::takes(gemm))?;
        Some(Matvec {
            gemm: *gemm,
            bias,
            multiprocessors,
        })
    }
}

/// The address of the bias, or 0. An error unless the bias and the operand fit the weight.
pub(super) fn checked_bias<D: Driver>(
    op: &'static str,
    a: &GpuActs<D>,
    w: &GpuMatrix<D>,
    bias: Option<&GpuVector<D>>,
) -> Result<u64> {
    a.check(op, w)?;
    let Some(bias) = bias else { return Ok(0) };
    check_shape(op, "length of the bias", w.rows, bias.len)?;
    Ok(bias.buffer.address())
}

/// The product of all rows of `a` with a weight, whose shape must fit, in f32.
pub(super) fn gemm_of<D: Driver>(a: &GpuActs<D>, w: &GpuMatrix<D>, out: u64) -> Gemm {
    Gemm {
        a: a.address(),
        w: w.buffer.address(),
        out,
        m: a.len,
        n: w.rows,
        k: w.columns,
        dtype: w.dtype,
        out_dtype: DType::F32,
        order: WeightOrder::Outputs,
        accumulate: false,
    }
}
