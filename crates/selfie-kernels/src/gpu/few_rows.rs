//! Products of few rows, which our own kernel takes in place of the driver.

use super::buffers::{GpuActs, GpuMatrix, GpuVector};
use super::plan::Matvec;
use super::{Driver, Gemm, Gpu, WeightOrder};
use crate::error::check_shape;
use crate::{Activation, Result};

impl<D: Driver> Gpu<D> {
    /// Does a product, with a bias where that is not 0, if it is one of those that our own kernel takes; returns
    /// whether it did.
    ///
    /// # Safety
    /// As for [`Driver::gemm`]; the bias has `gemm.n` values.
    pub(super) unsafe fn multiply_few(&self, gemm: &Gemm, bias: u64) -> Result<bool> {
        let Some(plan) = self.few_rows(gemm, bias) else {
            return Ok(false);
        };
        // SAFETY: the caller's addresses, of sizes that the kernel takes.
        unsafe { self.driver.launch(&plan.launch())? };
        Ok(true)
    }

    /// The same with a gated unit behind it: `out` becomes `activation(gate) * up` of `a · wᵀ (+ bias)`.
    pub(super) fn gated_product(
        &self,
        a: &GpuActs<D>,
        w: &GpuMatrix<D>,
        bias: Option<&GpuVector<D>>,
        activation: Activation,
        out: &mut GpuActs<D>,
    ) -> Result<bool> {
        const OP: &str = "linear_glu";
        a.check(OP, w)?;
        if let Some(bias) = bias {
            check_shape(OP, "length of the bias", w.rows, bias.len)?;
        }
        if a.len == 0 || out.dtype != w.dtype || !w.rows.is_multiple_of(Matvec::GATED_STEP) {
            return Ok(false);
        }
        out.set_len(OP, a.len, w.rows / 2)?;
        let gemm = Gemm {
            a: a.address(),
            w: w.buffer.address(),
            out: out.address(),
            m: a.len,
            n: w.rows,
            k: w.columns,
            dtype: w.dtype,
            order: WeightOrder::Outputs,
            accumulate: false,
        };
        let bias = bias.map_or(0, |bias| bias.buffer.address());
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
