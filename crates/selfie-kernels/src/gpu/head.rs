//! The head: computes logits and reduces them.

use super::backend::to_u32;
use super::buffers::{GpuActs, GpuMatrix};
use super::few_rows::gemm_of;
use super::plan::{self, Head, PART_BYTES};
use super::{Driver, Gemm, Gpu};
use crate::{Best, LogitMap, Result};

/// Bytes of logits on the device at a time; a single row may need more.
const LOGIT_BYTES: usize = 64 << 20;

/// The most rows of a launch: the grid's second dimension ends at 65535.
const MAX_ROWS: usize = 65_535;

impl<D: Driver> Gpu<D> {
    /// The best token of each row with its log-probability, or the log-probabilities of `tokens`, which the caller has
    /// checked. Waits for the device.
    pub(super) fn reduce_head(
        &self,
        op: &'static str,
        a: &GpuActs<D>,
        head: &GpuMatrix<D>,
        map: &LogitMap,
        tokens: Option<&[u32]>,
    ) -> Result<Vec<Best>> {
        a.check(op, head)?;
        let vocab = to_u32(op, head.rows)?;
        let mut scratch = self.scratch();
        if a.len == 0 || vocab == 0 {
            return Ok(Vec::new());
        }
        let scratch = &mut *scratch;
        let at_a_time = (LOGIT_BYTES / (4 * head.rows))
            .clamp(1, MAX_ROWS)
            .min(a.len);
        let parts = at_a_time as u64 * u64::from(Head::chunks(vocab)) * PART_BYTES;
        let logits = scratch
            .logits
            .at_least((at_a_time * head.rows * 4) as u64)?;
        let parts = scratch.parts.at_least(parts)?;
        let best = scratch.best.at_least(8 * a.len as u64)?;
        let mut token = 0;
        if let Some(tokens) = tokens {
            let buffer = scratch.tokens.at_least(4 * a.len as u64)?;
            buffer.write(0, bytemuck::cast_slice(tokens))?;
            token = buffer.address();
        }
        let operand_bytes = (a.width * a.dtype.size()) as u64;
        for first in (0..a.len).step_by(at_a_time) {
            let n = at_a_time.min(a.len - first);
            let gemm = Gemm {
                a: a.address() + first as u64 * operand_bytes,
                m: n,
                ..gemm_of(a, head, logits.address())
            };
            let plan = Head {
                logits: logits.address(),
                parts: parts.address(),
                token: if token == 0 {
                    0
                } else {
                    token + 4 * first as u64
                },
                out: best.address() + 8 * first as u64,
                n: to_u32(op, n)?,
                vocab,
            };
            // SAFETY: widths and dtypes agree, and the buffer holds the logits of `n` rows.
            unsafe { self.multiply(op, &gemm, 0)? };
            if *map != LogitMap::PLAIN {
                let plan = plan::LogitMap {
                    logits: logits.address(),
                    count: (n * head.rows) as u64,
                    map: *map,
                };
                // SAFETY: the buffer holds that many logits.
                unsafe { self.driver.launch(&plan.launch())? };
            }
            for launch in plan.launches() {
                // SAFETY: the buffers were made for these rows and this vocabulary, and the tokens are in it.
                unsafe { self.driver.launch(&launch)? };
            }
        }
        let mut words = vec![[0u32; 2]; a.len];
        best.read(0, bytemuck::cast_slice_mut(&mut words))?;
        let best = words.iter().map(|&[token, logprob]| {
            let logprob = f32::from_bits(logprob);
            // If all logits are NaN none is the largest, and the kernel's token is not in the vocabulary.
            let token = if logprob.is_nan() { 0 } else { token };
            Best { token, logprob }
        });
        Ok(best.collect())
    }
}
