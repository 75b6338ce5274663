//! The head: computes logits, and reduces them or draws from them.

use bytemuck::Zeroable;

use super::backend::to_u32;
use super::buffers::{GpuActs, GpuMatrix};
use super::few_rows::gemm_of;
use super::plan::{self, Draw, DrawWords, Drawn, Head, PART_BYTES};
use super::{Driver, Gemm, Gpu};
use crate::error::check_shape;
use crate::{Best, LogitMap, Result, TokenDraw};

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
        let at_a_time = rows_at_a_time(head.rows).min(a.len);
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
        for first in (0..a.len).step_by(at_a_time) {
            let n = at_a_time.min(a.len - first);
            // SAFETY: the buffer holds the logits of `n` rows.
            unsafe { self.put_logits(op, (a, first, n), head, map, logits.address())? };
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

    /// Draws a token of each row, where the kernel is sure of it. Waits for the device.
    pub(super) fn draw_tokens(
        &self,
        a: &GpuActs<D>,
        head: &GpuMatrix<D>,
        map: &LogitMap,
        draws: &[TokenDraw],
    ) -> Result<Vec<Option<Best>>> {
        const OP: &str = "head_draw";
        a.check(OP, head)?;
        check_shape(OP, "number of draws", a.len, draws.len())?;
        let vocab = to_u32(OP, head.rows)?;
        // The caller's logits are exact under a cap, and those of the device are not.
        if vocab > Draw::MAX_VOCAB || map.softcap.is_some() {
            return Ok(vec![None; draws.len()]);
        }
        let mut scratch = self.scratch();
        if a.len == 0 || vocab == 0 {
            return Ok(vec![None; draws.len()]);
        }
        let scratch = &mut *scratch;
        let at_a_time = rows_at_a_time(head.rows).min(a.len);
        let bytes = (at_a_time * head.rows * 4) as u64;
        let logits = scratch.logits.at_least(bytes)?.address();
        let words: Vec<DrawWords> = draws
            .iter()
            .map(|draw| DrawWords::new(draw, vocab))
            .collect();
        let mut drawn = vec![Drawn::zeroed(); a.len];
        let (words, out) = (
            bytemuck::cast_slice(&words),
            bytemuck::cast_slice_mut(&mut drawn),
        );
        let list = scratch.draws.at_least(words.len() as u64)?;
        list.write(0, words)?;
        let best = scratch.best.at_least(out.len() as u64)?;
        for first in (0..a.len).step_by(at_a_time) {
            let n = at_a_time.min(a.len - first);
            // SAFETY: the buffer holds the logits of `n` rows.
            unsafe { self.put_logits(OP, (a, first, n), head, map, logits)? };
            let plan = Draw {
                logits,
                draws: list.address() + (first * size_of::<DrawWords>()) as u64,
                out: best.address() + (first * size_of::<Drawn>()) as u64,
                n: to_u32(OP, n)?,
                vocab,
            };
            // SAFETY: the buffers were made for these rows and this vocabulary.
            unsafe { self.driver.launch(&plan.launch())? };
        }
        best.read(0, out)?;
        Ok(drawn.iter().map(best_of).collect())
    }

    /// Computes the logits of rows `first..first + n`, `[n, head.rows]`.
    ///
    /// # Safety
    /// `logits` holds that many.
    unsafe fn put_logits(
        &self,
        op: &'static str,
        (a, first, n): (&GpuActs<D>, usize, usize),
        head: &GpuMatrix<D>,
        map: &LogitMap,
        logits: u64,
    ) -> Result<()> {
        let operand_bytes = (a.width * a.dtype.size()) as u64;
        let gemm = Gemm {
            a: a.address() + first as u64 * operand_bytes,
            m: n,
            ..gemm_of(a, head, logits)
        };
        // SAFETY: widths and dtypes agree, and the caller vouches for the logits.
        unsafe { self.multiply(op, &gemm, 0)? };
        if *map == LogitMap::PLAIN {
            return Ok(());
        }
        let plan = plan::LogitMap {
            logits,
            count: (n * head.rows) as u64,
            map: *map,
        };
        // SAFETY: the caller vouches for the logits.
        unsafe { self.driver.launch(&plan.launch()) }
    }
}

/// Rows whose logits are on the device at a time.
fn rows_at_a_time(vocab: usize) -> usize {
    (LOGIT_BYTES / (4 * vocab)).clamp(1, MAX_ROWS)
}

/// A drawn token with its log-probability, unless the kernel is not sure.
fn best_of(drawn: &Drawn) -> Option<Best> {
    if drawn.token == Drawn::UNSURE {
        return None;
    }
    let shifted = f64::from(drawn.logit) - f64::from(drawn.largest);
    Some(Best {
        token: drawn.token,
        logprob: (shifted - drawn.mass.ln()) as f32,
    })
}
