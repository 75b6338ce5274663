//! How far an edit moves the model's next-token distributions.

use std::ops::Range;

use rayon::prelude::*;
use selfie_kernels::Backend;
use selfie_llama::{
    Capture, Feed, Llama, Pass, PromptSite, Session, SessionSize, Site, Slot, Want, capture,
};
use serde::Serialize;

use crate::Result;

/// Tokens per pass; a longer text runs in pieces.
const PASS_ROWS: usize = 512;
/// Rows whose logits are on the host at a time.
const LOGIT_ROWS: usize = 32;

/// How the next-token distributions changed, over all positions, because of an edit or of other weight formats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Drift {
    /// The mean Kullback-Leibler divergence of the edited distributions from the unedited ones, in nats.
    pub kl: f64,
    /// The share of positions whose most likely token is still the same.
    pub top1: f64,
    /// How many positions were compared.
    pub positions: usize,
}

/// How far the next-token distributions of `model` are from those of `reference`, over all tokens of the texts. The two
/// models must have the same vocabulary; everything else may differ, such as the formats of their weights.
pub fn drift_between<A: Backend, B: Backend>(
    reference: &Llama<A>,
    model: &Llama<B>,
    texts: &[Vec<u32>],
) -> Result<Drift> {
    let mut before = TextStates::new(reference, texts)?;
    let mut after = TextStates::new(model, texts)?;
    let mut total = Total::default();
    let rows: Vec<usize> = (0..texts.iter().map(Vec::len).sum()).collect();
    for rows in rows.chunks(LOGIT_ROWS) {
        let before = logits(&mut before.session, &before.states, rows)?;
        total.add(&before, &logits(&mut after.session, &after.states, rows)?);
    }
    Ok(total.drift())
}

/// Texts after a pass through a model.
struct TextStates<B: Backend> {
    session: Session<B>,
    /// The residual stream before the final norm.
    states: B::Rows,
}

impl<B: Backend> TextStates<B> {
    fn new(model: &Llama<B>, texts: &[Vec<u32>]) -> Result<Self> {
        let meter = DriftMeter::new(model, texts, 0)?;
        Ok(Self {
            session: meter.session,
            states: meter.before,
        })
    }
}

/// Sums over positions.
#[derive(Default)]
struct Total {
    kl: f64,
    same: usize,
    positions: usize,
}

impl Total {
    fn add(&mut self, before: &[Vec<f32>], after: &[Vec<f32>]) {
        let pairs: Vec<(f64, bool)> = before
            .par_iter()
            .zip(after)
            .map(|(before, after)| compare(before, after))
            .collect();
        // Sum in the order of the rows, so that the result does not depend on the threads.
        for (kl, same) in pairs {
            self.kl += kl;
            self.same += usize::from(same);
            self.positions += 1;
        }
    }

    fn drift(&self) -> Drift {
        let positions = self.positions.max(1) as f64;
        Drift {
            kl: self.kl / positions,
            top1: self.same as f64 / positions,
            positions: self.positions,
        }
    }
}

/// Texts, and the unedited model's states for them.
pub struct DriftMeter<B: Backend> {
    /// The first layer that may change.
    layer: usize,
    texts: Vec<Vec<u32>>,
    /// The texts of each pass.
    groups: Vec<Range<usize>>,
    /// `hidden_states[layer]` of all tokens; nothing below it changes.
    inputs: B::Rows,
    /// The residual stream before the final norm, from the unedited model.
    before: B::Rows,
    after: B::Rows,
    /// The rows to compare.
    compared: Vec<usize>,
    session: Session<B>,
}

impl<B: Backend> DriftMeter<B> {
    /// Runs the texts through the model as it is; edits may change layers from `layer` on.
    pub fn new(model: &Llama<B>, texts: &[Vec<u32>], layer: usize) -> Result<Self> {
        let (backend, width) = (model.backend(), model.config().d_model);
        let total: usize = texts.iter().map(Vec::len).sum();
        let wants = PromptSite::all(texts, Site::HiddenStates(layer));
        let inputs = capture(model, texts, &wants)?;
        let groups = groups(texts);
        let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
        let slots = groups.iter().map(Range::len).max().unwrap_or(1);
        let mut size = SessionSize::new(model, slots, longest);
        size.rows = size.rows.min(PASS_ROWS);
        size.own[..layer].fill(0);
        let mut meter = Self {
            compared: (0..total).collect(),
            layer,
            texts: texts.to_vec(),
            groups,
            inputs,
            before: backend.rows(total, width)?,
            after: backend.rows(total, width)?,
            session: Session::new(model, &size)?,
        };
        meter.pass(model)?;
        std::mem::swap(&mut meter.before, &mut meter.after);
        Ok(meter)
    }

    /// Like [`new`](Self::new), but in text `i` only compares the distributions of tokens from `begins[i]` on (at least
    /// 1).
    pub(crate) fn on_continuations(
        model: &Llama<B>,
        texts: &[Vec<u32>],
        begins: &[usize],
        layer: usize,
    ) -> Result<Self> {
        let mut meter = Self::new(model, texts, layer)?;
        meter.compared.clear();
        let mut first = 0;
        for (text, &begin) in texts.iter().zip(begins) {
            // The logits of a row predict the token after it.
            meter
                .compared
                .extend(first + begin - 1..first + text.len() - 1);
            first += text.len();
        }
        Ok(meter)
    }

    /// Compares the model as it is now with the unedited one.
    pub fn measure(&mut self, model: &Llama<B>) -> Result<Drift> {
        self.pass(model)?;
        let mut total = Total::default();
        for rows in self.compared.chunks(LOGIT_ROWS) {
            let before = logits(&mut self.session, &self.before, rows)?;
            total.add(&before, &logits(&mut self.session, &self.after, rows)?);
        }
        Ok(total.drift())
    }

    /// Runs all texts through the layers that may have changed, and leaves their last states in `after`.
    fn pass(&mut self, model: &Llama<B>) -> Result<()> {
        let (backend, n_layers) = (model.backend(), model.config().n_layers);
        self.session.switch(model)?;
        backend.clear(&mut self.after);
        let mut first = 0;
        for group in &self.groups {
            let texts = &self.texts[group.clone()];
            let mut slots = Vec::with_capacity(texts.len());
            for _ in texts {
                slots.push(self.session.open()?);
            }
            let feeds = slots.iter().zip(texts);
            let feeds: Vec<Feed<'_>> = feeds.map(|(&slot, text)| Feed::new(slot, text)).collect();
            let wants: Vec<Want> = slots.iter().zip(texts).flat_map(outputs).collect();
            let mut kept = Capture::new(backend, &wants, model.config().d_model)?;
            let states: Vec<usize> = (first..first + wants.len()).collect();
            let pass = Pass {
                layers: self.layer..n_layers,
                states: (self.layer > 0).then_some((&self.inputs, &states[..])),
                ..Pass::new(model, &feeds)
            };
            self.session.run(&pass, &mut kept)?;
            let index: Vec<usize> = wants
                .iter()
                .map(|&want| kept.index(want))
                .collect::<Result<_, _>>()?;
            backend.gather(kept.rows(), &index, &mut self.after)?;
            first += wants.len();
            for slot in slots {
                self.session.close(slot)?;
            }
        }
        Ok(())
    }
}

/// The last states of a text's tokens.
fn outputs((&slot, text): (&Slot, &Vec<u32>)) -> impl Iterator<Item = Want> {
    (0..text.len() as u32).map(move |position| (Site::Output, slot, position))
}

/// Groups texts into passes.
fn groups(texts: &[Vec<u32>]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (at, text) in texts.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if tokens + text.len() <= PASS_ROWS => group.end = at + 1,
            _ => {
                groups.push(at..at + 1);
                tokens = 0;
            }
        }
        tokens += text.len();
    }
    groups
}

/// The logits of some states, one vector each.
fn logits<B: Backend>(
    session: &mut Session<B>,
    states: &B::Rows,
    rows: &[usize],
) -> Result<Vec<Vec<f32>>> {
    let mut all = Vec::with_capacity(rows.len());
    session.logits(states, rows, |_, logits| {
        all.push(logits.to_vec());
        Ok(())
    })?;
    Ok(all)
}

/// The KL divergence of `after` from `before`, and whether the most likely token is the same.
fn compare(before: &[f32], after: &[f32]) -> (f64, bool) {
    let (before_lse, before_best) = log_sum_exp(before);
    let (after_lse, after_best) = log_sum_exp(after);
    let term = |(&b, &a): (&f32, &f32)| {
        let (b, a) = (f64::from(b) - before_lse, f64::from(a) - after_lse);
        b.exp() * (b - a)
    };
    let kl: f64 = before.iter().zip(after).map(term).sum();
    // Rounding can make the divergence of equal distributions slightly negative.
    (kl.max(0.0), before_best == after_best)
}

/// `log(sum(e^x))`, and the index of the largest value.
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
        // The same distribution: once from other logits, once from the same ones.
        assert!(compare(&[3.0, -2.0], &[4.0, -1.0]).0 < 1e-15);
        assert_eq!(compare(&[3.0, -2.0], &[3.0, -2.0]), (0.0, true));
    }
}
