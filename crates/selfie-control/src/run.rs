//! What both methods of control share: the step, the keep term, the drift gate, the edit that comes of it.

use selfie_kernels::{Adam, Backend};
use selfie_llama::{Decoding, Llama, MlpWeights, PackedMlp, Tokenizer};
use serde_json::Value;

use crate::edit::{BaseShape, EditMeta, hashes};
use crate::keep::Keep;
use crate::states::{continue_all, encode_all};
use crate::training::TrainedMlp;
use crate::watch::{Figure, drifted};
use crate::{ControlError, Edit, End, Observer, Outcome, Result, Step, Training, Unedited, Write};

/// The embeddings that are controlled: tokens of prompts, all at one layer.
pub(crate) struct Sources<'a> {
    /// A text and a token of it, for each embedding.
    pub(crate) cells: Vec<(&'a str, usize)>,
    /// The embeddings are `hidden_states[layer]`.
    pub(crate) layer: usize,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(cells: &'a [(String, usize)], layer: usize) -> Self {
        let cells = cells.iter().map(|(prompt, token)| (&prompt[..], *token));
        Self {
            cells: cells.collect(),
            layer,
        }
    }
}

/// What a method asks of the embeddings.
pub(crate) trait Objective<B: Backend> {
    /// `supervised` or `reinforcement`.
    fn method(&self) -> &'static str;
    /// The loss of the embeddings (`[n, d_model]`) before an update. `draw` settles what is left to chance.
    fn loss(&mut self, now: &Now<'_, B>, embeddings: &[f32]) -> Result<Loss>;
    /// The loss after the last update, where it needs no interpretation.
    fn final_loss(&self, embeddings: &[f32]) -> Option<f64>;
    /// What the embeddings are to become, `[d_model]`, where that is known.
    fn goal(&self) -> Option<&[f32]>;
}

/// Where a run is.
pub(crate) struct Now<'a, B: Backend> {
    /// The model with the edit so far.
    pub(crate) model: &'a Llama<B>,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) step: usize,
    /// Settles what is left to chance at this step.
    pub(crate) draw: u64,
}

/// The loss of the embeddings, and its gradient.
#[derive(Default)]
pub(crate) struct Loss {
    pub(crate) loss: f64,
    /// `[n, d_model]`
    pub(crate) gradient: Vec<f32>,
    pub(crate) rewards: Vec<f64>,
    pub(crate) interpretations: Vec<String>,
    pub(crate) undecided: Vec<usize>,
}

/// Trains the MLP under the embeddings. `options` is what the edit says of how it was made; `unedited` is what the model makes
/// of the prompts before.
pub(crate) fn train<B: Backend>(
    model: &mut Llama<B>,
    tokenizer: &Tokenizer,
    sources: &Sources<'_>,
    unedited: &mut Unedited<B>,
    objective: &mut dyn Objective<B>,
    training: &Training,
    options: Value,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    unedited.check(sources, training)?;
    let layer = sources.layer - 1;
    let base = model.mlp(layer)?;
    let base_sha256 = hashes(&base);
    // The weights are shared, so that this keeps the MLP that is there now, and nothing else.
    let before = model.clone();
    let mut run = Run::new(model, tokenizer, layer, training, base, unedited)?;
    let mut steps: Vec<Step> = Vec::new();
    let mut draws = fastrand::Rng::with_seed(training.seed);
    let mut kept = Kept::new(training);
    let mut updates = 0;
    let end = loop {
        // A run whose last look is not weighed against the others has none after its last update.
        if updates == training.steps && training.write == Write::Last {
            break End::Steps;
        }
        let now = Now {
            model,
            tokenizer,
            step: updates,
            draw: draws.u64(..),
        };
        let (step, gradient) = match run.look(&now, objective) {
            Ok(looked) => looked,
            Err(error) if updates == 0 => return Err(error),
            Err(error) => break End::Failed(Box::new(error)),
        };
        let stopped = observer.step(&step).is_break();
        steps.push(step);
        if let Some(end) = run.past_bound(&steps[updates], training) {
            kept.refuse_current();
            break end;
        }
        kept.weigh(&steps, training);
        if stopped {
            break End::Stopped;
        }
        if let Some(end) = reached(&steps, training) {
            break end;
        }
        if updates == training.steps {
            break End::Steps;
        }
        match run.update(model, &gradient) {
            Ok(packed) => kept.replaced(updates, packed),
            Err(error) if updates == 0 => return Err(error),
            Err(error) => break End::Failed(Box::new(error)),
        }
        updates += 1;
    };
    let (updates, last, end) =
        run.settle(model, kept, &steps, updates, end, training, objective)?;
    let report = run.report(model, tokenizer, &steps, &last)?;
    let known = |value: &dyn Fn(&Step) -> Option<f64>| {
        steps[..updates.min(steps.len())]
            .iter()
            .filter_map(value)
            .collect()
    };
    let meta = EditMeta {
        tool: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
        method: objective.method().to_owned(),
        layer: sources.layer,
        base: BaseShape::new(model.config()),
        base_sha256,
        options,
        updates,
        end: end.to_string(),
        losses: known(&|step| Some(step.loss)),
        keep_losses: known(&|step| step.keep_loss),
        drifts: known(&|step| step.drift),
        rewards: known(&|step| step.mean_reward()),
        final_loss: last.loss,
        final_keep_loss: last.keep_loss,
        final_drift: last.drift,
        final_reward: last.reward,
        report,
    };
    drop(run);
    let edit = Edit {
        mlp: model.mlp(layer)?,
        meta,
    };
    Ok(Outcome {
        edit,
        base: before.mlp(layer)?,
        steps,
        end,
    })
}

/// The look that the edit goes back to: the best one, or the one before the current where only bounds are watched.
struct Kept<B: Backend> {
    write: Write,
    /// Without a bound the last look is never taken back.
    bounded: bool,
    /// The updates of the look.
    look: usize,
    /// Its MLP, as the model computes with it; `None` while the model has it.
    packed: Option<PackedMlp<B>>,
    refused: bool,
}

impl<B: Backend> Kept<B> {
    fn new(training: &Training) -> Self {
        let reference = training.reference.as_ref();
        let watch = training.watch.as_ref();
        Self {
            write: training.write,
            bounded: reference.is_some_and(|r| r.max_drift.is_some())
                || watch.is_some_and(|w| w.max_surprise.is_some())
                || training.max_norm_change.is_some(),
            look: 0,
            packed: None,
            refused: false,
        }
    }

    /// The current look is past a bound.
    fn refuse_current(&mut self) {
        self.refused = true;
    }

    /// Takes the last look in, where it is the one to go back to.
    fn weigh(&mut self, steps: &[Step], training: &Training) {
        let current = steps.len() - 1;
        let take = match self.write {
            Write::Last => true,
            Write::Best => {
                current == 0 || rank(steps, current, training) < rank(steps, self.look, training)
            }
        };
        if take {
            self.look = current;
            self.packed = None;
        }
    }

    /// The MLP of a look has made place for a new one.
    fn replaced(&mut self, look: usize, packed: PackedMlp<B>) {
        if look == self.look && (self.write == Write::Best || self.bounded) {
            self.packed = Some(packed);
        }
    }
}

/// What a look is worth, the least is the best: its loss, or its reward as far as it has lasted; then its drift.
fn rank(steps: &[Step], look: usize, training: &Training) -> (f64, f64) {
    let step = &steps[look];
    let lasted = steps[look.saturating_sub(training.patience)..=look].iter();
    let reward = lasted
        .filter_map(Step::mean_reward)
        .min_by(|a, b| a.total_cmp(b));
    let worth = reward.map_or(step.loss, |reward| -reward);
    (worth, step.drift.unwrap_or(0.0))
}

/// Whether the run has what it is for, and has had it for long enough.
fn reached(steps: &[Step], training: &Training) -> Option<End> {
    let needed = training.patience + 1;
    let lasted = steps.len().checked_sub(needed).map(|from| &steps[from..])?;
    let last = steps.last()?;
    if let Some(bound) = training.stop_below
        && lasted.iter().all(|step| step.loss < bound)
    {
        let loss = last.loss;
        return Some(End::LossBelow { loss, bound });
    }
    let bound = training.stop_reward?;
    let has = |step: &Step| step.mean_reward().is_some_and(|reward| reward >= bound);
    let reward = last.mean_reward()?;
    lasted
        .iter()
        .all(has)
        .then_some(End::Reward { reward, bound })
}

/// The drift and its bound, where it has passed it.
fn past_drift(training: &Training, drift: Option<f64>) -> Option<End> {
    let (drift, bound) = (drift?, training.reference.as_ref()?.max_drift?);
    // A drift that is no number has passed every bound.
    (drift > bound || drift.is_nan()).then_some(End::Drift { drift, bound })
}

/// How things stand after the last update.
#[derive(Default)]
struct Final {
    loss: Option<f64>,
    keep_loss: Option<f64>,
    drift: Option<f64>,
    reward: Option<f64>,
}

/// The state of a run.
struct Run<'a, B: Backend> {
    mlp: TrainedMlp<B>,
    layer: usize,
    unedited: &'a mut Unedited<B>,
    /// The rows of a step: the cells, then those that should stay.
    x: B::Rows,
    /// The weight of the keep loss.
    beta: f64,
    /// For each embedding the least and the greatest norm that it may have without having moved.
    norms: Vec<(f64, f64)>,
    width: usize,
    probes: Option<(Vec<Vec<u32>>, Decoding)>,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        layer: usize,
        training: &Training,
        base: MlpWeights,
        unedited: &'a mut Unedited<B>,
    ) -> Result<Self> {
        let (backend, width) = (model.backend(), model.config().d_model);
        let n = backend.len(&unedited.inputs);
        if let (Some(keep), Some(reference)) = (&mut unedited.keep, &training.reference) {
            keep.begin(reference.batch, training.seed);
        }
        let batch = unedited.keep.as_ref().map_or(0, Keep::batch);
        let adam = Adam {
            beta1: training.betas[0],
            beta2: training.betas[1],
            ..Adam::new(training.lr)
        };
        let mut mlp = TrainedMlp::new(backend, &base, model.mlp_unit(layer)?, adam, n + batch)?;
        drop(base);
        let mut x = backend.rows(n + batch, width)?;
        if let Some(keep) = &mut unedited.keep {
            keep.measure(backend, &mut mlp, &mut x)?;
        }
        let probes = match &training.probes {
            Some(probes) => Some((
                encode_all(tokenizer, &probes.prompts)?,
                probes.decoding.clone(),
            )),
            None => None,
        };
        Ok(Self {
            mlp,
            layer,
            unedited,
            x,
            beta: training.reference.as_ref().map_or(0.0, |r| r.beta),
            norms: Vec::new(),
            width,
            probes,
        })
    }

    /// The state before an update, and the gradient of the MLP's output for it.
    fn look(
        &mut self,
        now: &Now<'_, B>,
        objective: &mut dyn Objective<B>,
    ) -> Result<(Step, Vec<f32>)> {
        let backend = now.model.backend();
        let (embeddings, kept, rows) = self.forward(backend)?;
        let found = objective.loss(now, &embeddings)?;
        let mut gradient = found.gradient;
        let keep = self.unedited.keep.as_ref();
        let keep_loss = keep.map(|keep| keep.loss(&rows, &kept, self.beta, &mut gradient));
        let probes = match &self.probes {
            Some((prompts, decoding)) => {
                continue_all(now.model, now.tokenizer, prompts, decoding, |_| {})?
            }
            None => Vec::new(),
        };
        let drift = self.drift(now.model)?;
        let watched = match &mut self.unedited.watcher {
            Some(watcher) => Some(watcher.look(now.model, now.tokenizer)?),
            None => None,
        };
        let norm_change = self.norm_change(&embeddings, objective.goal());
        let losses = [Some(found.loss), keep_loss, drift];
        if let Some(loss) = losses.into_iter().flatten().find(|x| !x.is_finite()) {
            return Err(ControlError::Diverged {
                step: now.step,
                loss,
            });
        }
        let step = Step {
            step: now.step,
            loss: found.loss,
            keep_loss,
            drift,
            rewards: found.rewards,
            interpretations: found.interpretations,
            probes,
            undecided: found.undecided,
            norm_change,
            watched,
            embeddings,
        };
        Ok((step, gradient))
    }

    /// The embeddings as the edit so far makes them, the MLP's output at the rows that should stay, and these rows.
    fn forward(&mut self, backend: &B) -> Result<(Vec<f32>, Vec<f32>, Vec<usize>)> {
        let unedited = &mut *self.unedited;
        let n = backend.len(&unedited.inputs);
        backend.clear(&mut self.x);
        let cells: Vec<usize> = (0..n).collect();
        backend.gather(&unedited.inputs, &cells, &mut self.x)?;
        let mut rows = Vec::new();
        if let Some(keep) = &mut unedited.keep {
            rows = keep.draw();
            keep.gather(backend, &rows, &mut self.x)?;
        }
        let mut embeddings = self.mlp.forward(backend, &self.x)?;
        let kept = embeddings.split_off(unedited.residual.len());
        for (value, residual) in embeddings.iter_mut().zip(&unedited.residual) {
            *value += residual;
        }
        Ok((embeddings, kept, rows))
    }

    fn drift(&mut self, model: &Llama<B>) -> Result<Option<f64>> {
        match &mut self.unedited.meter {
            Some(meter) => Ok(Some(meter.measure(model)?.kl)),
            None => Ok(None),
        }
    }

    /// One step of Adam; the model gets the new weights. Returns those that it had.
    fn update(&mut self, model: &mut Llama<B>, gradient: &[f32]) -> Result<PackedMlp<B>> {
        self.mlp.step(model.backend(), &self.x, gradient)?;
        let packed = model.pack_mlp(self.layer, &self.mlp.rows())?;
        Ok(model.swap_mlp(packed))
    }

    /// The largest factor by which the norm of an embedding is off: 1 where it is what it was before the edit, what the
    /// goal's is, or between the two.
    fn norm_change(&mut self, embeddings: &[f32], goal: Option<&[f32]>) -> f64 {
        let rows = embeddings.chunks_exact(self.width);
        if self.norms.is_empty() {
            let at_goal = goal.map(norm);
            let bounds = |row: &[f32]| {
                let before = norm(row);
                let goal = at_goal.unwrap_or(before);
                (before.min(goal), before.max(goal))
            };
            self.norms = rows.clone().map(bounds).collect();
        }
        let off = |(row, &(least, most)): (&[f32], &(f64, f64))| {
            let norm = norm(row);
            (norm / most).max(least / norm)
        };
        rows.zip(&self.norms).map(off).fold(1.0, f64::max)
    }

    /// The bound that a look has passed.
    fn past_bound(&self, step: &Step, training: &Training) -> Option<End> {
        if let Some(end) = past_drift(training, step.drift) {
            return Some(end);
        }
        let watched = step.watched.as_ref();
        let answers = watched.and_then(|watched| watched.answers);
        if let Some(end) = past_drift(training, answers.map(|drift| drift.kl)) {
            return Some(end);
        }
        let bound = training.watch.and_then(|watch| watch.max_surprise);
        let surprise = self.unedited.watcher.as_ref().zip(watched).zip(bound);
        if let Some(((watcher, now), bound)) = surprise
            && let Some(rise) = watcher.past(now, bound)
        {
            return Some(End::Surprise { rise, bound });
        }
        let (change, bound) = (step.norm_change, training.max_norm_change?);
        (change > bound).then_some(End::Norm { change, bound })
    }

    /// Gives the model the look that is kept; its updates, its figures, and why the run ended.
    fn settle(
        &mut self,
        model: &mut Llama<B>,
        kept: Kept<B>,
        steps: &[Step],
        updates: usize,
        end: End,
        training: &Training,
        objective: &dyn Objective<B>,
    ) -> Result<(usize, Final, End)> {
        let (mut end, mut refused) = (end, kept.refused);
        if kept.write == Write::Last && !refused {
            if matches!(end, End::Failed(_)) {
                return Ok((updates, Final::default(), end));
            }
            let last = self.finish(model, objective)?;
            match past_drift(training, last.drift) {
                Some(past) => (end, refused) = (past, true),
                None => return Ok((updates, last, end)),
            }
        }
        debug_assert!(refused || kept.write == Write::Best);
        if let Some(packed) = kept.packed {
            drop(model.swap_mlp(packed));
        }
        let step = &steps[kept.look];
        let last = Final {
            loss: Some(step.loss),
            keep_loss: step.keep_loss,
            drift: step.drift,
            reward: step.mean_reward(),
        };
        Ok((kept.look, last, end))
    }

    /// The figures of the written edit, each before and after.
    fn report(
        &mut self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        steps: &[Step],
        last: &Final,
    ) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        if let (Some(before), Some(after)) =
            (steps.first().and_then(Step::mean_reward), last.reward)
        {
            figures.push(Figure {
                name: "mean reward".to_owned(),
                before,
                after,
            });
        }
        if let Some(meter) = &mut self.unedited.meter {
            drifted(&mut figures, "reference prompts", &meter.measure(model)?);
        }
        if let Some(watcher) = &mut self.unedited.watcher {
            figures.extend(watcher.report(model, tokenizer)?);
        }
        Ok(figures)
    }

    /// How things stand after the last update.
    fn finish(&mut self, model: &Llama<B>, objective: &dyn Objective<B>) -> Result<Final> {
        let (embeddings, kept, rows) = self.forward(model.backend())?;
        let keep = self.unedited.keep.as_ref();
        let keep_loss = keep.map(|keep| keep.loss(&rows, &kept, self.beta, &mut Vec::new()));
        Ok(Final {
            loss: objective.final_loss(&embeddings),
            keep_loss,
            drift: self.drift(model)?,
            reward: None,
        })
    }
}

fn norm(row: &[f32]) -> f64 {
    let squares = row.iter().map(|&x| f64::from(x) * f64::from(x));
    squares.sum::<f64>().sqrt()
}
