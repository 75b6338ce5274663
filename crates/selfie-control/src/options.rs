//! Training options, and the checks that do not need the weights.

use selfie_interp::{InterpretationPrompt, Options, PromptPart};
use selfie_llama::{Bos, Decoding, LlamaConfig, Tokenizer};
use serde_json::{Value, json};

use crate::{ControlError, Result};

/// How to train.
///
/// What works depends on the model and the layer. On a 135M LLaMA (SmolLM2-135M-Instruct), supervised control of layer
/// 6 reached its target within 30 steps at a learning rate of 3e-4, and reinforcement control earned its reward after 3
/// steps at 3e-3. Larger models need smaller rates. If the rate is too large, the loss grows, or the model drifts on
/// the reference prompts: give some, with a weight `beta` of 0.1 to 1 and a bound `max_drift`.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// The maximum number of updates: tens for supervised control, fewer for reinforcement.
    pub steps: usize,
    /// Adam's learning rate: 1e-4 to 3e-3.
    pub lr: f64,
    /// Adam's decay rates.
    pub betas: [f64; 2],
    /// Seeds the order of minibatches and all sampled texts.
    pub seed: u64,
    /// Stops before an update when the loss is below this. A tenth of the first loss is close to the target.
    pub stop_below: Option<f64>,
    /// Stops before an update when the mean reward is at least this, from -1 to 1. Only reinforcement has rewards.
    pub stop_reward: Option<f64>,
    /// The number of further steps at which `stop_below` or `stop_reward` must still hold. 0 stops at once; 1 to 3 tell
    /// a lasting reward from a lucky one.
    pub patience: usize,
    /// Which embeddings to push. Only reinforcement pushes.
    pub push: Push,
    /// Which step becomes the edit.
    pub write: Write,
    /// Stops when the norm of an embedding grows or shrinks by more than this factor; above 1. On
    /// SmolLM2-135M-Instruct, a country is gone at 1.8 to 2.7, and the model babbles past 4. In supervised control,
    /// norms up to the target's do not count as changed.
    pub max_norm_change: Option<f64>,
    /// Whether all prompts of a run begin with bos, its references and probes included. [`Bos::Given`] is for prompts
    /// from a chat template. The interpretation prompt has its own ([`Options::bos`]).
    pub bos: Bos,
    /// Prompts whose states should stay as they are.
    pub reference: Option<Reference>,
    /// What to measure on the texts that the edited model writes.
    pub watch: Option<Watch>,
    /// Prompts to continue before each update, to watch what the model says.
    pub probes: Option<Probes>,
}

/// Which embeddings reinforcement pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Those that have not reached their reward: `stop_reward`, or 1 if it is not set.
    Until,
    /// All of them, at every step: the published objective.
    Always,
}

/// Which step of a run becomes the edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// The best one within all bounds: by its loss (supervised) or its reward, then by its drift.
    Best,
    /// The last one within all bounds.
    Last,
}

/// What to measure, at each step, on the texts that the model writes after the controlled prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watch {
    /// Tokens per text: 16 to 40. A prompt near the end of the context gets fewer.
    pub new_tokens: usize,
    /// Sampled continuations of each controlled prompt, on which to measure the divergence: 1 to 4.
    pub draws: usize,
    /// Stops when the texts surprise the unedited model by this much more than its own texts, in nats per token: 2 to
    /// 4. A fluent answer about something else adds about 1, babbling 5 or more.
    pub max_surprise: Option<f64>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            new_tokens: 24,
            draws: 2,
            max_surprise: Some(3.0),
        }
    }
}

impl Training {
    /// At most `steps` updates that stop at their goal: the defaults of `selfie control`.
    pub fn new(steps: usize, lr: f64) -> Self {
        Self {
            stop_reward: Some(1.0),
            patience: 2,
            push: Push::Until,
            write: Write::Best,
            max_norm_change: Some(3.0),
            watch: Some(Watch::default()),
            ..Self::published(steps, lr)
        }
    }

    /// Exactly `steps` updates with the betas of Adam's paper, and nothing else: the published objective, which never
    /// stops pushing.
    pub fn published(steps: usize, lr: f64) -> Self {
        Self {
            steps,
            lr,
            betas: [0.9, 0.999],
            seed: 0,
            stop_below: None,
            stop_reward: None,
            patience: 0,
            push: Push::Always,
            write: Write::Last,
            max_norm_change: None,
            bos: Bos::Auto,
            reference: None,
            watch: None,
            probes: None,
        }
    }
}

/// Prompts whose states should stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// The prompts; all of their tokens count.
    pub prompts: Vec<String>,
    /// The weight of the keep loss, which is the mean squared change of the controlled layer's states.
    pub beta: f64,
    /// The maximum number of rows (tokens of prompts) in a step. If there are more, each step takes the next ones in a
    /// shuffled order.
    pub batch: usize,
    /// Stops and undoes the update when the mean KL divergence of the next-token distributions exceeds this, on the
    /// prompts or (with a [`Watch`]) on the unedited model's answers to them. 0.01 to 0.1 nats.
    pub max_drift: Option<f64>,
}

/// Prompts to continue at each step.
#[derive(Clone, Debug, PartialEq)]
pub struct Probes {
    /// The prompts.
    pub prompts: Vec<String>,
    /// How to continue them.
    pub decoding: Decoding,
}

impl Training {
    /// Checks everything that does not need the weights.
    pub(crate) fn check(&self, config: &LlamaConfig, tokenizer: &Tokenizer) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let share = |value: f64| (0.0..1.0).contains(&value);
        let finite = |value: Option<f64>| value.is_none_or(f64::is_finite);
        let at_least_0 = |value: f64| value >= 0.0 && value.is_finite();
        let reference = self.reference.as_ref();
        let beta = reference.map_or(0.0, |r| r.beta);
        let max_drift = reference.and_then(|r| r.max_drift).unwrap_or(0.0);
        let max_surprise = self.watch.and_then(|w| w.max_surprise).unwrap_or(0.0);
        for (name, value, right, expected) in [
            ("steps", self.steps as f64, self.steps > 0, "at least 1"),
            ("lr", self.lr, positive(self.lr), "a finite number above 0"),
            (
                "betas[0]",
                self.betas[0],
                share(self.betas[0]),
                "a number from 0 to below 1",
            ),
            (
                "betas[1]",
                self.betas[1],
                share(self.betas[1]),
                "a number from 0 to below 1",
            ),
            (
                "stop_below",
                self.stop_below.unwrap_or(0.0),
                finite(self.stop_below),
                "a finite number",
            ),
            (
                "stop_reward",
                self.stop_reward.unwrap_or(0.0),
                self.stop_reward.is_none_or(|r| (-1.0..=1.0).contains(&r)),
                "a number from -1 to 1",
            ),
            (
                "max_norm_change",
                self.max_norm_change.unwrap_or(2.0),
                self.max_norm_change
                    .is_none_or(|c| c > 1.0 && c.is_finite()),
                "a finite number above 1",
            ),
            (
                "max_surprise",
                max_surprise,
                at_least_0(max_surprise),
                "a finite number of at least 0",
            ),
            (
                "beta",
                beta,
                at_least_0(beta),
                "a finite number of at least 0",
            ),
            (
                "max_drift",
                max_drift,
                at_least_0(max_drift),
                "a finite number of at least 0",
            ),
        ] {
            if !right {
                return Err(ControlError::Value {
                    name,
                    value,
                    expected,
                });
            }
        }
        if let Some(watch) = &self.watch
            && (watch.new_tokens == 0 || watch.draws == 0)
        {
            return Err(ControlError::Value {
                name: "watch's tokens or draws",
                value: 0.0,
                expected: "at least 1",
            });
        }
        if let Some(reference) = reference {
            if reference.prompts.is_empty() {
                return Err(ControlError::Nothing {
                    what: "reference prompt",
                });
            }
            if reference.batch == 0 {
                return Err(ControlError::Value {
                    name: "reference batch",
                    value: 0.0,
                    expected: "at least 1",
                });
            }
            for (index, prompt) in reference.prompts.iter().enumerate() {
                check_text(config, tokenizer, self.bos, prompt, 0, || {
                    format!("reference prompt {index}")
                })?;
            }
        }
        if let Some(probes) = &self.probes {
            let new = probes.decoding.max_new_tokens;
            for (index, prompt) in probes.prompts.iter().enumerate() {
                check_text(config, tokenizer, self.bos, prompt, new, || {
                    format!("probe {index}")
                })?;
            }
        }
        Ok(())
    }

    /// The record of these options in an edit.
    pub(crate) fn describe(&self) -> Value {
        json!({
            "steps": self.steps,
            "lr": self.lr,
            "betas": self.betas,
            "seed": self.seed,
            "stop_below": self.stop_below,
            "stop_reward": self.stop_reward,
            "patience": self.patience,
            "push": match self.push {
                Push::Until => "until",
                Push::Always => "always",
            },
            "write": match self.write {
                Write::Best => "best",
                Write::Last => "last",
            },
            "max_norm_change": self.max_norm_change,
            "bos": format!("{:?}", self.bos).to_lowercase(),
            "watch": self.watch.map(|watch| json!({
                "new_tokens": watch.new_tokens,
                "draws": watch.draws,
                "max_surprise": watch.max_surprise,
            })),
            "reference": self.reference.as_ref().map(|reference| json!({
                "prompts": reference.prompts,
                "beta": reference.beta,
                "batch": reference.batch,
                "max_drift": reference.max_drift,
            })),
            "probes": self.probes.as_ref().map(|probes| &probes.prompts),
        })
    }
}

/// Tokenizes a text, which must not be empty and must fit the context with `new` more tokens.
pub(crate) fn check_text(
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    bos: Bos,
    text: &str,
    new: usize,
    what: impl Fn() -> String,
) -> Result<Vec<u32>> {
    if text.is_empty() {
        return Err(ControlError::EmptyText { what: what() });
    }
    let ids = tokenizer.encode_as(text, bos)?;
    config.check_context(ids.len() + new)?;
    Ok(ids)
}

/// Checks that a prompt has a token.
pub(crate) fn check_token(
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    bos: Bos,
    prompt: &str,
    token: usize,
) -> Result<()> {
    let ids = check_text(config, tokenizer, bos, prompt, 0, || "a prompt".to_owned())?;
    let tokens = ids.len();
    if token < tokens {
        return Ok(());
    }
    Err(ControlError::Token {
        token,
        prompt: prompt.to_owned(),
        tokens,
    })
}

/// Checks that the embeddings exist.
pub(crate) fn check_sources(
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    bos: Bos,
    sources: &[(String, usize)],
) -> Result<()> {
    if sources.is_empty() {
        return Err(ControlError::Nothing {
            what: "source embedding",
        });
    }
    for (prompt, token) in sources {
        check_token(config, tokenizer, bos, prompt, *token)?;
    }
    Ok(())
}

/// The record of the sources in an edit.
pub(crate) fn describe_sources(sources: &[(String, usize)]) -> Value {
    let sources = sources.iter();
    sources
        .map(|(prompt, token)| json!({"prompt": prompt, "token": token}))
        .collect()
}

/// Checks that some MLP's output is part of the layer's states.
pub(crate) fn check_layer(config: &LlamaConfig, layer: usize) -> Result<()> {
    let n_layers = config.n_layers;
    if (1..n_layers).contains(&layer) {
        return Ok(());
    }
    Err(ControlError::Layer { layer, n_layers })
}

/// Checks options that must describe a single way to interpret.
pub(crate) fn check_interpretation(
    config: &LlamaConfig,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<()> {
    if options.injections.len() != 1 {
        return Err(ControlError::Injections {
            found: options.injections.len(),
        });
    }
    let prompts: [&str; 0] = [];
    Ok(selfie_interp::check(
        config,
        tokenizer,
        &prompts,
        &[],
        options,
    )?)
}

/// The record of an interpretation's options in an edit.
pub(crate) fn describe_interpretation(options: &Options) -> Value {
    let injection = options.injections.first();
    json!({
        "interpretation_prompt": prompt_json(&options.prompt),
        "inject_layer": injection.map(|at| at.layer),
        "mode": injection.map(|at| at.mode.name()),
        "strength": injection.map(|at| at.strength),
        "max_new_tokens": options.max_new_tokens,
        "sampling": options.sampling.map(|sampling| json!({
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
        })),
    })
}

fn prompt_json(prompt: &InterpretationPrompt) -> Value {
    let part = |part: &PromptPart| match part {
        PromptPart::Text(text) => json!(text),
        PromptPart::Placeholder => json!(0),
        PromptPart::Marker(text) => json!({"marker": text}),
    };
    Value::Array(prompt.parts.iter().map(part).collect())
}
