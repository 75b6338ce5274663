//! What both methods of control share: the training loop, the keep loss, the drift gate, and the resulting edit.

use selfie_kernels::{Adam, Backend};
use selfie_llama::{Decoding, Llama, MlpWeights, PackedMlp, Tokenizer};
use serde_json::Value;

use crate::edit::{BaseShape, EditMeta, hashes};
use crate::keep::Keep;
use crate::states::{continue_all, encode_all};
use crate::training::TrainedMlp;
use crate::watch::{Figure, push_drift};
use crate::{ControlError, Edit, End, Observer, Outcome, Result, Step, Training, Unedited, Write};

/// The controlled embeddings: tokens of prompts, all at one layer.
pub(crate) struct Sources<'a> {
    /// A text and one of its tokens, for each embedding.
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

/// A method's objective for the embeddings.
pub(crate) trait Objective<B: Backend> {
    /// `supervised` or `reinforcement`.
    fn method(&self) -> &'static str;
    /// The loss of the embeddings (`[n, d_model]`) before an update.
    fn loss(&mut self, context: &StepContext<'_, B>, embeddings: &[f32]) -> Result<Loss>;
    /// The loss after the last update, if it needs no interpretation.
    fn final_loss(&self, embeddings: &[f32]) -> Option<f64>;
    /// The target of the embeddings, `[d_model]`, if there is one.
    fn goal(&self) -> Option<&[f32]>;
}

/// The current step of a run.
pub(crate) struct StepContext<'a, B: Backend> {
    /// The model with the edit so far.
    pub(crate) model: &'a Llama<B>,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) step: usize,
    /// Seeds all sampling at this step.
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

/// Trains the MLP below the embeddings. `options` is the edit's record of how it was made; `unedited` holds the
/// unedited model's states for the prompts.
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
    // Weights are shared: this keeps only the current MLP alive.
    let before = model.clone();
    let mut run = Run::new(model, tokenizer, layer, training, base, unedited)?;
    let mut steps: Vec<Step> = Vec::new();
    let mut draws = fastrand::Rng::with_seed(training.seed);
    let mut kept = KeptStep::new(training);
    let mut updates = 0;
    let end = loop {
        // A run that writes its last step does not compare it with others, so it does not evaluate after the last
        // update.
        if updates == training.steps && training.write == Write::Last {
            break End::Steps;
        }
        let context = StepContext {
            model,
            tokenizer,
            step: updates,
            draw: draws.u64(..),
        };
        let (step, gradient) = match run.evaluate(&context, objective) {
            Ok(evaluated) => evaluated,
            Err(error) if updates == 0 => return Err(error),
            Err(error) => break End::Failed(Box::new(error)),
        };
        let stopped = observer.step(&step).is_break();
        steps.push(step);
        if let Some(end) = run.bound_exceeded(&steps[updates], training) {
            kept.reject_current();
            break end;
        }
        kept.consider(&steps, training);
        if stopped {
            break End::Stopped;
        }
        if let Some(end) = goal_reached(&steps, training) {
            break end;
        }
        if updates == training.steps {
            break End::Steps;
        }
        match run.update(model, &gradient) {
            Ok(packed) => kept.save_replaced(updates, packed),
            Err(error) if updates == 0 => return Err(error),
            Err(error) => break End::Failed(Box::new(error)),
        }
        updates += 1;
    };
    let (updates, last, end) =
        run.restore_kept(model, kept, &steps, updates, end, training, objective)?;
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

/// The step that becomes the edit: the best one, or the last one within the bounds.
struct KeptStep<B: Backend> {
    write: Write,
    /// Without a bound, the last update is never undone.
    bounded: bool,
    /// The number of updates before the step.
    step: usize,
    /// The step's MLP, as the model computes with it; `None` while the model has it.
    packed: Option<PackedMlp<B>>,
    rejected: bool,
}

impl<B: Backend> KeptStep<B> {
    fn new(training: &Training) -> Self {
        let reference = training.reference.as_ref();
        let watch = training.watch.as_ref();
        Self {
            write: training.write,
            bounded: reference.is_some_and(|r| r.max_drift.is_some())
                || watch.is_some_and(|w| w.max_surprise.is_some())
                || training.max_norm_change.is_some(),
            step: 0,
            packed: None,
            rejected: false,
        }
    }

    /// The current step exceeds a bound.
    fn reject_current(&mut self) {
        self.rejected = true;
    }

    /// Keeps the last step if it is the one to go back to.
    fn consider(&mut self, steps: &[Step], training: &Training) {
        let current = steps.len() - 1;
        let take = match self.write {
            Write::Last => true,
            Write::Best => {
                current == 0 || rank(steps, current, training) < rank(steps, self.step, training)
            }
        };
        if take {
            self.step = current;
            self.packed = None;
        }
    }

    /// The update after a step has replaced this MLP.
    fn save_replaced(&mut self, step: usize, packed: PackedMlp<B>) {
        if step == self.step && (self.write == Write::Best || self.bounded) {
            self.packed = Some(packed);
        }
    }
}

/// Ranks a step, lower is better: by its loss, or by the least reward over the last `patience` steps; then by its
/// drift.
fn rank(steps: &[Step], at: usize, training: &Training) -> (f64, f64) {
    let step = &steps[at];
    let lasted = steps[at.saturating_sub(training.patience)..=at].iter();
    let reward = lasted
        .filter_map(Step::mean_reward)
        .min_by(|a, b| a.total_cmp(b));
    let cost = reward.map_or(step.loss, |reward| -reward);
    (cost, step.drift.unwrap_or(0.0))
}

/// Whether the run has met its goal for long enough.
fn goal_reached(steps: &[Step], training: &Training) -> Option<End> {
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

/// The drift and its bound, if the drift exceeds it.
fn drift_exceeded(training: &Training, drift: Option<f64>) -> Option<End> {
    let (drift, bound) = (drift?, training.reference.as_ref()?.max_drift?);
    // NaN exceeds every bound.
    (drift > bound || drift.is_nan()).then_some(End::Drift { drift, bound })
}

/// The results after the last update.
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
    /// The rows of a step: the cells, then the reference rows.
    x: B::Rows,
    /// The weight of the keep loss.
    beta: f64,
    /// The range of norms that count as unchanged, for each embedding.
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
                encode_all(tokenizer, &probes.prompts, training.bos)?,
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

    /// Evaluates the model before an update; also returns the gradient at the MLP's output.
    fn evaluate(
        &mut self,
        context: &StepContext<'_, B>,
        objective: &mut dyn Objective<B>,
    ) -> Result<(Step, Vec<f32>)> {
        let backend = context.model.backend();
        let (embeddings, kept, rows) = self.forward(backend)?;
        let found = objective.loss(context, &embeddings)?;
        let mut gradient = found.gradient;
        let keep = self.unedited.keep.as_ref();
        let keep_loss = keep.map(|keep| keep.loss(&rows, &kept, self.beta, &mut gradient));
        let probes = match &self.probes {
            Some((prompts, decoding)) => {
                continue_all(context.model, context.tokenizer, prompts, decoding, |_| {})?
            }
            None => Vec::new(),
        };
        let drift = self.drift(context.model)?;
        let watched = match &mut self.unedited.watcher {
            Some(watcher) => Some(watcher.measure(context.model, context.tokenizer)?),
            None => None,
        };
        let norm_change = self.norm_change(&embeddings, objective.goal());
        let losses = [Some(found.loss), keep_loss, drift];
        if let Some(loss) = losses.into_iter().flatten().find(|x| !x.is_finite()) {
            return Err(ControlError::Diverged {
                step: context.step,
                loss,
            });
        }
        let step = Step {
            step: context.step,
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

    /// The embeddings with the edit so far, the MLP's outputs on the reference rows, and the indices of these rows.
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

    /// Takes one step of Adam and gives the model the new weights. Returns the old ones.
    fn update(&mut self, model: &mut Llama<B>, gradient: &[f32]) -> Result<PackedMlp<B>> {
        self.mlp.step(model.backend(), &self.x, gradient)?;
        let packed = model.pack_mlp(self.layer, &self.mlp.rows())?;
        Ok(model.swap_mlp(packed))
    }

    /// The largest factor by which an embedding's norm is off. It is 1 for a norm between the one before the edit and
    /// the goal's.
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

    /// The bound that a step exceeds.
    fn bound_exceeded(&self, step: &Step, training: &Training) -> Option<End> {
        if let Some(end) = drift_exceeded(training, step.drift) {
            return Some(end);
        }
        let watched = step.watched.as_ref();
        let answers = watched.and_then(|watched| watched.answers);
        if let Some(end) = drift_exceeded(training, answers.map(|drift| drift.kl)) {
            return Some(end);
        }
        let bound = training.watch.and_then(|watch| watch.max_surprise);
        let surprise = self.unedited.watcher.as_ref().zip(watched).zip(bound);
        if let Some(((watcher, now), bound)) = surprise
            && let Some(rise) = watcher.excess_surprise(now, bound)
        {
            return Some(End::Surprise { rise, bound });
        }
        let (change, bound) = (step.norm_change, training.max_norm_change?);
        (change > bound).then_some(End::Norm { change, bound })
    }

    /// Gives the model the kept step; returns its number of updates, its results, and why the run ended.
    fn restore_kept(
        &mut self,
        model: &mut Llama<B>,
        kept: KeptStep<B>,
        steps: &[Step],
        updates: usize,
        end: End,
        training: &Training,
        objective: &dyn Objective<B>,
    ) -> Result<(usize, Final, End)> {
        let (mut end, mut rejected) = (end, kept.rejected);
        if kept.write == Write::Last && !rejected {
            if matches!(end, End::Failed(_)) {
                return Ok((updates, Final::default(), end));
            }
            let last = self.evaluate_final(model, objective)?;
            match drift_exceeded(training, last.drift) {
                Some(past) => (end, rejected) = (past, true),
                None => return Ok((updates, last, end)),
            }
        }
        debug_assert!(rejected || kept.write == Write::Best);
        if let Some(packed) = kept.packed {
            drop(model.swap_mlp(packed));
        }
        let step = &steps[kept.step];
        let last = Final {
            loss: Some(step.loss),
            keep_loss: step.keep_loss,
            drift: step.drift,
            reward: step.mean_reward(),
        };
        Ok((kept.step, last, end))
    }

    /// The report of the written edit: each figure before and after.
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
            push_drift(&mut figures, "reference prompts", &meter.measure(model)?);
        }
        if let Some(watcher) = &mut self.unedited.watcher {
            figures.extend(watcher.report(model, tokenizer)?);
        }
        Ok(figures)
    }

    /// Evaluates the model after the last update.
    fn evaluate_final(&mut self, model: &Llama<B>, objective: &dyn Objective<B>) -> Result<Final> {
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
