//! How far an edit moves the model's next-token distributions.

use rayon::prelude::*;
use selfie_kernels::{Backend, BatchRow};
use selfie_llama::{KvCache, Llama, Site, Workspace, branch_rows, capture};

use crate::Result;
use crate::states::all_tokens;

/// Tokens of texts that are passed together (a longer text goes in pieces).
const PASS_ROWS: usize = 512;
/// Rows whose logits are on the host at a time.
const LOGIT_ROWS: usize = 32;

/// What an edit changed at the next token of every position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// The mean Kullback-Leibler divergence of the edited distributions from the unedited ones, in nats.
    pub kl: f64,
    /// The share of positions whose most likely token is still the same.
    pub top1: f64,
    /// Positions.
    pub positions: usize,
}

/// Texts and what the unedited model made of them.
pub struct DriftMeter<B: Backend> {
    /// The first layer that may change.
    layer: usize,
    /// The rows of the texts, in groups that share a pass; a group's slots start from 0.
    groups: Vec<Vec<BatchRow>>,
    /// `hidden_states[layer]` of all rows; nothing below it changes.
    inputs: B::Rows,
    /// The residual stream before the final norm, by the unedited model.
    before: B::Rows,
    after: B::Rows,
    ws: Workspace<B>,
    cache: KvCache<B>,
}

impl<B: Backend> DriftMeter<B> {
    /// Passes the texts through the model as it is; edits may change layers from `layer` on.
    pub fn new(model: &Llama<B>, texts: &[Vec<u32>], layer: usize) -> Result<Self> {
        let (backend, config) = (model.backend(), model.config());
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let total: usize = texts.iter().map(Vec::len).sum();
        let mut ws = Workspace::new(model, PASS_ROWS.min(total), longest)?;
        let wants = all_tokens(texts, Site::HiddenStates(layer));
        let inputs = capture(model, &mut ws, texts, &wants)?;
        let mut groups: Vec<Vec<BatchRow>> = Vec::new();
        let (mut slot, mut slots) = (0, 0);
        for text in texts {
            match groups.last_mut() {
                Some(group) if group.len() + text.len() <= PASS_ROWS => {
                    slot += 1;
                    group.extend(branch_rows(slot, 0, text));
                }
                _ => {
                    slot = 0;
                    groups.push(branch_rows(slot, 0, text).collect());
                }
            }
            slots = slots.max(slot as usize + 1);
        }
        let positions = |l| if l < layer { 0 } else { longest };
        let own = (0..config.n_layers).map(positions).collect();
        let mut meter = Self {
            layer,
            groups,
            inputs,
            before: backend.rows(total, config.d_model)?,
            after: backend.rows(total, config.d_model)?,
            ws,
            cache: KvCache::new(backend, config.kv_layout(0, own, slots))?,
        };
        meter.pass(model)?;
        std::mem::swap(&mut meter.before, &mut meter.after);
        Ok(meter)
    }

    /// Compares the model as it is now with what it was.
    pub fn measure(&mut self, model: &Llama<B>) -> Result<Drift> {
        self.pass(model)?;
        let total = model.backend().len(&self.after);
        let rows: Vec<usize> = (0..total).collect();
        let (mut kl, mut same) = (0.0, 0);
        for rows in rows.chunks(LOGIT_ROWS) {
            let before = logits(model, &mut self.ws, &self.before, rows)?;
            let after = logits(model, &mut self.ws, &self.after, rows)?;
            let pairs: Vec<(f64, bool)> = before
                .par_iter()
                .zip(&after)
                .map(|(before, after)| compare(before, after))
                .collect();
            // In the order of the rows, so that the sum does not depend on the threads.
            for (one, agrees) in pairs {
                kl += one;
                same += usize::from(agrees);
            }
        }
        let positions = total.max(1) as f64;
        Ok(Drift {
            kl: kl / positions,
            top1: same as f64 / positions,
            positions: total,
        })
    }

    /// Runs all texts through the layers that may have changed; their last states are in `after`.
    fn pass(&mut self, model: &Llama<B>) -> Result<()> {
        let (backend, n_layers) = (model.backend(), model.config().n_layers);
        backend.clear(&mut self.after);
        let mut first = 0;
        for group in &self.groups {
            let slots = 1 + group.iter().filter(|row| row.position == 0).count();
            for slot in 0..slots.min(self.cache.layout().slots) {
                let fresh = vec![0; n_layers];
                self.cache.share(backend, slot as u32, &fresh)?;
            }
            for rows in group.chunks(self.ws.max_rows()) {
                let residual = self.ws.residual_mut();
                backend.clear(residual);
                if self.layer > 0 {
                    let index: Vec<usize> = (first..first + rows.len()).collect();
                    backend.gather(&self.inputs, &index, residual)?;
                }
                let layers = self.layer..n_layers;
                model.forward(&mut self.ws, &mut self.cache, rows, layers, &mut ())?;
                let all: Vec<usize> = (0..rows.len()).collect();
                backend.gather(self.ws.residual(), &all, &mut self.after)?;
                first += rows.len();
            }
        }
        Ok(())
    }
}

/// The logits of some states, a vector each.
fn logits<B: Backend>(
    model: &Llama<B>,
    ws: &mut Workspace<B>,
    states: &B::Rows,
    rows: &[usize],
) -> Result<Vec<Vec<f32>>> {
    let backend = model.backend();
    let mut all = Vec::with_capacity(rows.len());
    // The workspace may be narrower than this.
    for rows in rows.chunks(ws.max_rows()) {
        let residual = ws.residual_mut();
        backend.clear(residual);
        backend.gather(states, rows, residual)?;
        let index: Vec<usize> = (0..rows.len()).collect();
        model.logits(ws, &index, |_, logits| {
            all.push(logits.to_vec());
            Ok(())
        })?;
    }
    Ok(all)
}

/// The divergence of `after` from `before`, and whether the best token is the same.
fn compare(before: &[f32], after: &[f32]) -> (f64, bool) {
    let (before_lse, before_best) = log_sum_exp(before);
    let (after_lse, after_best) = log_sum_exp(after);
    let term = |(&b, &a): (&f32, &f32)| {
        let (b, a) = (f64::from(b) - before_lse, f64::from(a) - after_lse);
        b.exp() * (b - a)
    };
    let kl: f64 = before.iter().zip(after).map(term).sum();
    // Rounding can leave the divergence of equals a little under 0.
    (kl.max(0.0), before_best == after_best)
}

/// `log(sum(e^x))`, and where the largest value is.
fn log_sum_exp(logits: &[f32]) -> (f64, usize) {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    let top = logits.get(best).map_or(0.0, |&x| f64::from(x));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    (top + sum.ln(), best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_by_hand() {
        // p = (1/2, 1/2), q = (3/4, 1/4): KL = ln 2 - (ln 3) / 2.
        let (kl, same) = compare(&[5.0, 5.0], &[3f32.ln() - 7.0, -7.0]);
        let want = 2f64.ln() - 3f64.ln() / 2.0;
        assert!((kl - want).abs() < 1e-7, "{kl}, not {want}");
        assert!(same);
        let (kl, same) = compare(&[0.0, 1.0], &[1.0, 0.0]);
        let p = 1.0 / (1.0 + 1f64.exp());
        assert!((kl - (1.0 - 2.0 * p)).abs() < 1e-7, "{kl}");
        assert!(!same);
        // The same distribution, from other logits; and from the same ones.
        assert!(compare(&[3.0, -2.0], &[4.0, -1.0]).0 < 1e-15);
        assert_eq!(compare(&[3.0, -2.0], &[3.0, -2.0]), (0.0, true));
    }
}
