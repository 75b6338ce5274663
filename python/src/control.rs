//! Control: training embeddings to match a target, or to say something else.

use std::ops::ControlFlow;

use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use selfie::control::{
    ControlError, End, Interpreted, Probes, Push, Reference, Reinforce, Reward, Step, Supervised,
    Target, TargetCell, Training, Verdicts, Watch, Write,
};
use selfie::kernels::Backend;
use selfie::llama::{Bos, Llama, Tokenizer};
use selfie::{Opened, on};
use serde_json::{Value, json};

use crate::cells::from_end;
use crate::edit::{Edit, from_json};
use crate::error::{Failed, value_error};
use crate::model::{Model, rows_of};
use crate::options::{Defaults, Keywords, interpretation};
use crate::prompt::Prompt;

/// The defaults of `selfie control` for interpretations.
const INTERPRETATION: Defaults = Defaults {
    inject_layer: 2,
    max_new_tokens: 50,
    relevancy: false,
};

/// The result of a run of control: `edit`; `end` (why it ended); `steps` (a dict per step, as it was before its
/// update); `updates` (how many the edit contains).
#[pyclass(frozen, name = "Outcome", module = "selfie_rs")]
pub(crate) struct Outcome {
    edit: Py<Edit>,
    outcome: selfie::control::Outcome,
}

#[pymethods]
impl Outcome {
    /// The edit. The model does not have it yet: apply it with `model.apply(outcome.edit)`, or save it with
    /// `outcome.edit.save(path)`.
    #[getter]
    fn edit(&self, py: Python<'_>) -> Py<Edit> {
        self.edit.clone_ref(py)
    }

    /// Why the run ended.
    #[getter]
    fn end(&self) -> String {
        self.outcome.end.to_string()
    }

    /// The number of updates in the edit.
    #[getter]
    fn updates(&self) -> usize {
        self.outcome.updates()
    }

    /// The steps in order, as dicts with the fields of the program's log.
    #[getter]
    fn steps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        from_json(py, &self.outcome.steps)
    }

    fn __repr__(&self) -> String {
        format!("Outcome({} updates: {})", self.updates(), self.end())
    }
}

/// Trains one layer's MLP until `hidden_states[layer]` at some tokens matches a target embedding (SelfIE, section 3.4).
///
/// `sources`: `(prompt, token)` pairs; a negative token counts from the end. All prompts of a run are texts, or all are
/// chats, which the chat template formats. `target`: `(prompt, layer, token)` triples, or vectors `[n, d_model]`;
/// several are averaged. `interpret`: whether to interpret the embeddings at each step, with `interpretation` (a dict
/// of `Model.interpret`'s keywords). `on_step` gets each step as a dict; returning False ends the run.
///
/// Other keywords, with the program's defaults: `betas`, `seed`, `stop_below` (a loss), `patience`, `write` ("best",
/// "last"), `max_norm_change` (0: no bound), `reference` (prompts that should stay as they are), `beta`,
/// `reference_batch`, `max_drift`, `watch_tokens` (0: none), `max_surprise` (0: no bound), `probes`, `probe_tokens`.
///
/// The model does not change. Ctrl-C raises KeyboardInterrupt, whose `outcome` has the updates so far.
#[pyfunction]
#[pyo3(signature = (
    model, sources, layer, target, *, steps = 12, lr = 1e-3, interpret = false, interpretation = None, on_step = None,
    **training
))]
pub(crate) fn supervised(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    sources: Vec<(Bound<'_, PyAny>, isize)>,
    layer: usize,
    target: &Bound<'_, PyAny>,
    steps: usize,
    lr: f64,
    interpret: bool,
    interpretation: Option<&Bound<'_, PyDict>>,
    on_step: Option<Py<PyAny>>,
    training: Option<&Bound<'_, PyDict>>,
) -> PyResult<Outcome> {
    let model = model.get();
    let prompts = RunPrompts::new(model, &sources)?;
    let control = Supervised {
        sources: prompts.resolve(sources)?,
        layer,
        target: read_target(&prompts, target)?,
        training: read_training(py, &prompts, training, Training::new(steps, lr), 10.0)?,
        interpretation: if interpret {
            Some(read_interpretation(py, model, interpretation)?)
        } else {
            None
        },
    };
    let mut llama = model.llama();
    let tokenizer = &model.opened.tokenizer;
    let mut watcher = Watcher::new(on_step);
    let outcome = py.detach(|| {
        on!(&mut llama, llama => control.run(llama, tokenizer, &mut |step: &Step| watcher.step(step)))
    });
    finish(py, outcome, watcher.raised)
}

/// Trains one layer's MLP until a reward accepts what the embeddings say (SelfIE, section 3.4).
///
/// `sources`: `(prompt, token)` pairs. `reward`: a callable that takes a list of dicts (`interpretation`, `prompt`,
/// `layer`, `token`, `step`) and returns a number from -1 to 1 for each, or None if undecided, which counts as 0. It is
/// called once per step, and may use the model. The other arguments are those of `supervised`, plus `push` ("until",
/// "always") and `stop_reward` (None: no stop).
///
/// The model does not change. Exceptions of the reward are raised, as is KeyboardInterrupt on Ctrl-C; their `outcome`
/// has the updates so far.
#[pyfunction]
#[pyo3(signature = (
    model, sources, layer, reward, *, steps = 20, lr = 2e-3, interpretation = None, on_step = None, **training
))]
pub(crate) fn reinforce(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    sources: Vec<(Bound<'_, PyAny>, isize)>,
    layer: usize,
    reward: Py<PyAny>,
    steps: usize,
    lr: f64,
    interpretation: Option<&Bound<'_, PyDict>>,
    on_step: Option<Py<PyAny>>,
    training: Option<&Bound<'_, PyDict>>,
) -> PyResult<Outcome> {
    let model = model.get();
    let defaults = Training {
        // Only the user knows which reward is enough.
        stop_reward: None,
        ..Training::new(steps, lr)
    };
    let prompts = RunPrompts::new(model, &sources)?;
    let control = Reinforce {
        sources: prompts.resolve(sources)?,
        layer,
        interpretation: read_interpretation(py, model, interpretation)?,
        training: read_training(py, &prompts, training, defaults, 1.0)?,
    };
    // Not its repr, which contains an address: equal runs should make equal files.
    let name = match reward.getattr(py, "__qualname__") {
        Ok(name) => name.extract(py)?,
        Err(_) => reward.bind(py).get_type().qualname()?.to_string(),
    };
    let mut reward = Callable { reward, name };
    let mut llama = model.llama();
    let tokenizer = &model.opened.tokenizer;
    let mut watcher = Watcher::new(on_step);
    let outcome = py.detach(|| {
        on!(&mut llama, llama => {
            control.run(llama, tokenizer, &mut reward, &mut |step: &Step| watcher.step(step))
        })
    });
    finish(py, outcome, watcher.raised)
}

/// Calls Python at each step, and checks for Ctrl-C.
struct Watcher {
    on_step: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Watcher {
    fn new(on_step: Option<Py<PyAny>>) -> Self {
        Self {
            on_step,
            raised: None,
        }
    }

    fn step(&mut self, step: &Step) -> ControlFlow<()> {
        let go_on = Python::attach(|py| {
            py.check_signals()?;
            let Some(on_step) = &self.on_step else {
                return Ok(true);
            };
            let answer = on_step.call1(py, (from_json(py, step)?,))?;
            Ok(answer.is_none(py) || answer.is_truthy(py)?)
        });
        match go_on {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(()),
            Err(error) => {
                self.raised = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// A reward implemented in Python.
struct Callable {
    reward: Py<PyAny>,
    name: String,
}

impl<B: Backend> Reward<B> for Callable {
    fn rewards(
        &mut self,
        _: &Llama<B>,
        _: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> Result<Verdicts, ControlError> {
        let call = |py: Python<'_>| -> PyResult<Verdicts> {
            let dicts = interpretations.iter().map(|one| from_json(py, one));
            let dicts = PyList::new(py, dicts.collect::<PyResult<Vec<_>>>()?)?;
            let answer = self.reward.call1(py, (dicts,))?;
            let answer: Vec<Option<f64>> = answer
                .bind(py)
                .try_iter()?
                .map(|one| one?.extract())
                .collect::<PyResult<_>>()?;
            let undecided = answer.iter().enumerate();
            Ok(Verdicts {
                rewards: answer.iter().map(|reward| reward.unwrap_or(0.0)).collect(),
                undecided: undecided
                    .filter(|(_, reward)| reward.is_none())
                    .map(|(index, _)| index)
                    .collect(),
            })
        };
        Python::attach(call).map_err(|error| ControlError::Reward {
            step: interpretations.first().map_or(0, |one| one.step),
            source: Box::new(error),
        })
    }

    fn describe(&self) -> Value {
        json!({ "python": self.name })
    }
}

/// Returns the outcome, or raises what Python raised during the run, with the outcome attached.
fn finish(
    py: Python<'_>,
    outcome: Result<selfie::control::Outcome, ControlError>,
    raised: Option<PyErr>,
) -> PyResult<Outcome> {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(ControlError::Reward { source, step }) => return Err(reward_error(source, step)),
        Err(error) => return Err(Failed::from(error).into()),
    };
    let mut outcome = outcome;
    let end = std::mem::replace(&mut outcome.end, End::Stopped);
    let raised = match (raised, end) {
        (Some(raised), _) => Some(raised),
        (None, End::Failed(error)) => Some(match *error {
            ControlError::Reward { source, step } => reward_error(source, step),
            error => Failed::from(error).into(),
        }),
        (None, end) => {
            outcome.end = end;
            None
        }
    };
    let edit = Edit {
        name: format!("the {} edit", outcome.edit.meta.method),
        edit: outcome.edit.clone(),
    };
    let outcome = Outcome {
        edit: Py::new(py, edit)?,
        outcome,
    };
    match raised {
        None => Ok(outcome),
        Some(raised) => {
            let value = raised.value(py);
            if value.is_instance_of::<PyKeyboardInterrupt>() || value.hasattr("__dict__")? {
                value.setattr("outcome", outcome)?;
            }
            Err(raised)
        }
    }
}

/// The exception of the callable.
fn reward_error(source: Box<dyn std::error::Error + Send + Sync>, step: usize) -> PyErr {
    match source.downcast::<PyErr>() {
        Ok(error) => *error,
        Err(source) => Failed::from(ControlError::Reward { step, source }).into(),
    }
}

/// The prompts of a run: texts, or chats.
struct RunPrompts<'a> {
    opened: &'a Opened,
    bos: Bos,
}

impl<'a> RunPrompts<'a> {
    /// Prompts of the same kind as the first source.
    fn new(model: &'a Model, sources: &[(Bound<'_, PyAny>, isize)]) -> PyResult<Self> {
        let opened = &model.opened;
        let bos = match sources.first() {
            Some((prompt, _)) => Prompt::new(opened, prompt)?.bos,
            None => opened.options.bos,
        };
        Ok(Self { opened, bos })
    }

    fn text(&self, given: &Bound<'_, PyAny>) -> PyResult<String> {
        let prompt = Prompt::new(self.opened, given)?;
        if prompt.bos == self.bos {
            return Ok(prompt.text);
        }
        value_error(
            "prompts: some are texts and some are chats; all of a run must be the same kind",
        )
    }

    fn texts(&self, given: Vec<Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
        given.iter().map(|prompt| self.text(prompt)).collect()
    }

    /// The index of a token; a negative one counts from the prompt's end.
    fn token(&self, what: &str, prompt: &str, token: isize) -> PyResult<usize> {
        let ids = self.opened.encode_as(prompt, self.bos);
        from_end(what, token, ids.map_err(Failed::from)?.len())
    }

    fn resolve(&self, sources: Vec<(Bound<'_, PyAny>, isize)>) -> PyResult<Vec<(String, usize)>> {
        let source = |(prompt, token): (Bound<'_, PyAny>, isize)| {
            let prompt = self.text(&prompt)?;
            let token = self.token("sources", &prompt, token)?;
            Ok((prompt, token))
        };
        sources.into_iter().map(source).collect()
    }
}

fn read_target(prompts: &RunPrompts<'_>, target: &Bound<'_, PyAny>) -> PyResult<Target> {
    let cells: PyResult<Vec<(Bound<'_, PyAny>, isize, isize)>> = target.extract();
    let Ok(cells) = cells else {
        return Ok(Target::Vectors {
            name: "vectors".to_owned(),
            vectors: rows_of(target).map_err(|error| {
                PyTypeError::new_err(format!(
                    "target: expected (prompt, layer, token) triples, or vectors [n, d_model]; {error}"
                ))
            })?,
        });
    };
    let cell = |(prompt, layer, token): (Bound<'_, PyAny>, isize, isize)| {
        let prompt = prompts.text(&prompt)?;
        Ok(TargetCell {
            layer: from_end("target", layer, prompts.opened.config.n_layers + 1)?,
            token: prompts.token("target", &prompt, token)?,
            prompt,
        })
    };
    Ok(Target::Cells(
        cells.into_iter().map(cell).collect::<PyResult<_>>()?,
    ))
}

fn read_interpretation(
    py: Python<'_>,
    model: &Model,
    given: Option<&Bound<'_, PyDict>>,
) -> PyResult<selfie::interp::Options> {
    let mut keywords = Keywords::new(py, given)?;
    let options = interpretation(&model.opened, &mut keywords, &INTERPRETATION)?;
    keywords.finish()?;
    Ok(options)
}

/// `beta` is the method's default.
fn read_training(
    py: Python<'_>,
    prompts: &RunPrompts<'_>,
    given: Option<&Bound<'_, PyDict>>,
    defaults: Training,
    beta: f64,
) -> PyResult<Training> {
    let mut keywords = Keywords::new(py, given)?;
    let bound = |given: f64| (given != 0.0).then_some(given);
    let write = match keywords.take::<String>("write")?.as_deref() {
        None => defaults.write,
        Some("best") => Write::Best,
        Some("last") => Write::Last,
        Some(other) => {
            return value_error(format!("write=\"{other}\": expected \"best\" or \"last\""));
        }
    };
    let push = match keywords.take::<String>("push")?.as_deref() {
        None => defaults.push,
        Some("until") => Push::Until,
        Some("always") => Push::Always,
        Some(other) => {
            return value_error(format!(
                "push=\"{other}\": expected \"until\" or \"always\""
            ));
        }
    };
    let watch = Watch::default();
    let watch_tokens = keywords.take("watch_tokens")?.unwrap_or(watch.new_tokens);
    let max_surprise = keywords
        .take("max_surprise")?
        .map_or(watch.max_surprise, bound);
    let (beta, batch, max_drift) = (
        keywords.take("beta")?.unwrap_or(beta),
        keywords.take("reference_batch")?.unwrap_or(256),
        keywords.take("max_drift")?,
    );
    let reference = match keywords.take("reference")? {
        Some(given) => Some(Reference {
            prompts: prompts.texts(given)?,
            beta,
            batch,
            max_drift,
        }),
        None => None,
    };
    let probe_tokens = keywords.take("probe_tokens")?.unwrap_or(30);
    let probes = match keywords.take("probes")? {
        Some(given) => Some(Probes {
            prompts: prompts.texts(given)?,
            decoding: prompts.opened.decoding(probe_tokens),
        }),
        None => None,
    };
    let training = Training {
        bos: prompts.bos,
        betas: keywords.take("betas")?.unwrap_or(defaults.betas),
        seed: keywords.take("seed")?.unwrap_or(defaults.seed),
        stop_below: keywords.take("stop_below")?.or(defaults.stop_below),
        stop_reward: keywords.take("stop_reward")?.or(defaults.stop_reward),
        patience: keywords.take("patience")?.unwrap_or(defaults.patience),
        max_norm_change: keywords
            .take("max_norm_change")?
            .map_or(defaults.max_norm_change, bound),
        push,
        write,
        watch: (watch_tokens > 0).then_some(Watch {
            new_tokens: watch_tokens,
            max_surprise,
            ..watch
        }),
        reference,
        probes,
        ..defaults
    };
    keywords.finish()?;
    Ok(training)
}
