//! What both methods of control share: the step, the keep term, the drift gate, the edit that comes of it.

use std::collections::HashMap;

use selfie_kernels::{Adam, Backend};
use selfie_llama::{Decoding, Llama, MlpWeights, PackedMlp, PromptSite, Site, Tokenizer, capture};
use serde_json::Value;

use crate::drift::DriftMeter;
use crate::edit::{BaseShape, EditMeta, hashes};
use crate::keep::Keep;
use crate::states::{continue_all, encode_all};
use crate::training::TrainedMlp;
use crate::{ControlError, Edit, End, Observer, Outcome, Result, Step, Training};

/// The embeddings that are controlled: tokens of prompts, all at one layer.
pub(crate) struct Sources<'a> {
    /// A text and a token of it, for each embedding.
    pub(crate) cells: Vec<(&'a str, usize)>,
    /// The embeddings are `hidden_states[layer]`.
    pub(crate) layer: usize,
}

/// What a method asks of the embeddings.
pub(crate) trait Objective<B: Backend> {
    /// `supervised` or `reinforcement`.
    fn method(&self) -> &'static str;
    /// The loss of the embeddings (`[n, d_model]`) before an update. `draw` settles what is left to chance.
    fn loss(&mut self, now: &Now<'_, B>, embeddings: &[f32]) -> Result<Loss>;
    /// The loss after the last update, where it needs no interpretation.
    fn final_loss(&self, embeddings: &[f32]) -> Option<f64>;
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

/// Trains the MLP under the embeddings. `options` is what the edit says of how it was made.
pub(crate) fn train<B: Backend>(
    model: &mut Llama<B>,
    tokenizer: &Tokenizer,
    sources: &Sources<'_>,
    objective: &mut dyn Objective<B>,
    training: &Training,
    options: Value,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let base = model.mlp(sources.layer - 1)?;
    let base_sha256 = hashes(&base);
    // The weights are shared, so that this keeps the MLP that is there now, and nothing else.
    let unedited = model.clone();
    let mut run = Run::new(model, tokenizer, sources, training, base)?;
    let mut steps: Vec<Step> = Vec::new();
    let mut draws = fastrand::Rng::with_seed(training.seed);
    // With a gate the MLP before the last update is kept, as the model computes with it.
    let mut before: Option<PackedMlp<B>> = None;
    let mut updates = 0;
    let mut end = End::Steps;
    for index in 0..training.steps {
        let now = Now {
            model,
            tokenizer,
            step: index,
            draw: draws.u64(..),
        };
        let looked = run.look(&now, objective);
        let (step, gradient) = match looked {
            Ok(looked) => looked,
            Err(error) if updates == 0 => return Err(error),
            Err(error) => {
                end = End::Failed(Box::new(error));
                break;
            }
        };
        let stopped = observer.step(&step).is_break();
        let (loss, drift) = (step.loss, step.drift);
        steps.push(step);
        if let Some((drift, bound)) = past_gate(training, drift) {
            end = End::Drift { drift, bound };
            break;
        }
        if stopped {
            end = End::Stopped;
            break;
        }
        if let Some(bound) = training.stop_below.filter(|&bound| loss < bound) {
            end = End::LossBelow { loss, bound };
            break;
        }
        before = None;
        match run.update(model, &gradient) {
            Ok(packed) => before = Some(packed).filter(|_| gate(training).is_some()),
            Err(error) if updates == 0 => return Err(error),
            Err(error) => {
                end = End::Failed(Box::new(error));
                break;
            }
        }
        updates += 1;
    }
    let mut last = match end {
        End::Failed(_) => Final::default(),
        _ => run.finish(model, objective)?,
    };
    if let Some((drift, bound)) = past_gate(training, last.drift) {
        end = End::Drift { drift, bound };
    }
    if matches!(end, End::Drift { .. })
        && let Some(before) = before.take()
    {
        drop(model.swap_mlp(before));
        updates -= 1;
        last = Final {
            drift: run.drift(model)?,
            ..Final::default()
        };
    }
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
        final_loss: last.loss,
        final_keep_loss: last.keep_loss,
        final_drift: last.drift,
    };
    drop(run);
    let edit = Edit {
        mlp: model.mlp(sources.layer - 1)?,
        meta,
    };
    Ok(Outcome {
        edit,
        base: unedited.mlp(sources.layer - 1)?,
        steps,
        end,
    })
}

fn gate(training: &Training) -> Option<f64> {
    training.reference.as_ref().and_then(|r| r.max_drift)
}

/// The drift and its bound, where it has passed it.
fn past_gate(training: &Training, drift: Option<f64>) -> Option<(f64, f64)> {
    let (drift, bound) = (drift?, gate(training)?);
    // A drift that is no number has passed every bound.
    (drift > bound || drift.is_nan()).then_some((drift, bound))
}

/// How things stand after the last update.
#[derive(Default)]
struct Final {
    loss: Option<f64>,
    keep_loss: Option<f64>,
    drift: Option<f64>,
}

/// The state of a run.
struct Run<B: Backend> {
    mlp: TrainedMlp<B>,
    layer: usize,
    /// Inputs of the MLP at the controlled cells, `[n, d_model]`; captured once, before the edit.
    inputs: B::Rows,
    /// What its output is added to there.
    residual: Vec<f32>,
    /// The rows of a step: the cells, then those that should stay.
    x: B::Rows,
    keep: Option<(Keep<B>, f64)>,
    meter: Option<DriftMeter<B>>,
    probes: Option<(Vec<Vec<u32>>, Decoding)>,
}

impl<B: Backend> Run<B> {
    fn new(
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        sources: &Sources<'_>,
        training: &Training,
        base: MlpWeights,
    ) -> Result<Self> {
        let (backend, width) = (model.backend(), model.config().d_model);
        let layer = sources.layer - 1;
        let mut index: HashMap<&str, usize> = HashMap::new();
        let mut prompts = Vec::new();
        for (text, _) in &sources.cells {
            if !index.contains_key(text) {
                index.insert(text, prompts.len());
                prompts.push(tokenizer.encode(text)?);
            }
        }
        let rows_at = |site| -> Result<B::Rows> {
            let wants: Vec<PromptSite> = sources
                .cells
                .iter()
                .map(|&(text, token)| PromptSite {
                    prompt: index[text],
                    site,
                    token,
                })
                .collect();
            Ok(capture(model, &prompts, &wants)?)
        };
        let inputs = rows_at(Site::PreMlp(layer))?;
        let residual = rows_at(Site::Residual(layer))?;
        let residual = backend.read_rows(&residual, 0..backend.len(&residual))?;
        let n = sources.cells.len();

        let mut keep = None;
        let mut meter = None;
        if let Some(reference) = &training.reference {
            let texts = encode_all(tokenizer, &reference.prompts)?;
            let wants = PromptSite::all(&texts, Site::PreMlp(layer));
            let rows = capture(model, &texts, &wants)?;
            let rows = Keep::new(backend, rows, reference.batch, training.seed);
            keep = Some((rows, reference.beta));
            meter = Some(DriftMeter::new(model, &texts, layer)?);
        }
        let batch = keep.as_ref().map_or(0, |(keep, _)| keep.batch());
        let adam = Adam {
            beta1: training.betas[0],
            beta2: training.betas[1],
            ..Adam::new(training.lr)
        };
        let mut mlp = TrainedMlp::new(backend, &base, model.mlp_unit(layer)?, adam, n + batch)?;
        drop(base);
        let mut x = backend.rows(n + batch, width)?;
        if let Some((keep, _)) = &mut keep {
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
            inputs,
            residual,
            x,
            keep,
            meter,
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
        let keep = self.keep.as_ref();
        let keep_loss = keep.map(|(keep, beta)| keep.loss(&rows, &kept, *beta, &mut gradient));
        let probes = match &self.probes {
            Some((prompts, decoding)) => {
                continue_all(now.model, now.tokenizer, prompts, decoding, |_| {})?
            }
            None => Vec::new(),
        };
        let drift = self.drift(now.model)?;
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
            embeddings,
        };
        Ok((step, gradient))
    }

    /// The embeddings as the edit so far makes them, the MLP's output at the rows that should stay, and these rows.
    fn forward(&mut self, backend: &B) -> Result<(Vec<f32>, Vec<f32>, Vec<usize>)> {
        let n = backend.len(&self.inputs);
        backend.clear(&mut self.x);
        let cells: Vec<usize> = (0..n).collect();
        backend.gather(&self.inputs, &cells, &mut self.x)?;
        let mut rows = Vec::new();
        if let Some((keep, _)) = &mut self.keep {
            rows = keep.draw();
            keep.gather(backend, &rows, &mut self.x)?;
        }
        let mut embeddings = self.mlp.forward(backend, &self.x)?;
        let kept = embeddings.split_off(self.residual.len());
        for (value, residual) in embeddings.iter_mut().zip(&self.residual) {
            *value += residual;
        }
        Ok((embeddings, kept, rows))
    }

    fn drift(&mut self, model: &Llama<B>) -> Result<Option<f64>> {
        match &mut self.meter {
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

    /// How things stand after the last update.
    fn finish(&mut self, model: &Llama<B>, objective: &dyn Objective<B>) -> Result<Final> {
        let (embeddings, kept, rows) = self.forward(model.backend())?;
        let keep = self.keep.as_ref();
        let keep_loss = keep.map(|(keep, beta)| keep.loss(&rows, &kept, *beta, &mut Vec::new()));
        Ok(Final {
            loss: objective.final_loss(&embeddings),
            keep_loss,
            drift: self.drift(model)?,
        })
    }
}
