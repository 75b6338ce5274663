//! Activation Oracles (adamkarvonen/activation_oracles, commit 55f153f: `nl_probes/utils/steering_hooks.py`,
//! `nl_probes/utils/dataset_utils.py`). Those that read several layers together follow
//! adamkarvonen/activation_oracles_dev, commit 603497b: `nl_probes/utils/dataset_utils.py`.

use std::path::Path;

use selfie_llama::ChatTemplate;
use serde::Deserialize;
use serde_json::Value;

use super::mark_runs;
use crate::{InterpError, InterpretationPrompt, PromptMessage, PromptPart, Result};

const CONFIG: &str = "ao_config.json";
/// The only supported prefix of a layer, with its line breaks written out. Files may escape them.
const PREFIX: &str = "Layer: {layer}\n{special_token} * {num_positions} \n";

/// An oracle, as described by `ao_config.json`, or the repository's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Oracle {
    /// The layer at whose *output* the vectors are added, in the repository's numbering.
    pub hook_layer: usize,
    /// The placeholder, one per vector.
    pub special_token: String,
    /// The factor of the matched norm.
    pub coefficient: f32,
    /// The layers it was trained to read, in the repository's numbering: one list per combination, which is read
    /// together. If empty, `percents` says.
    pub combinations: Vec<Vec<usize>>,
    /// The same in percent of the subject's depth.
    pub percents: Vec<Vec<usize>>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default = "one")]
    hook_onto_layer: usize,
    #[serde(default = "question_mark")]
    special_token: String,
    #[serde(default = "prefix")]
    prefix_template: String,
    #[serde(default = "full")]
    steering_coefficient: f32,
    #[serde(default)]
    act_layer_combinations: Vec<Vec<usize>>,
    #[serde(default = "quarters")]
    layer_combinations: Vec<Vec<usize>>,
}

fn one() -> usize {
    1
}

fn question_mark() -> String {
    " ?".to_owned()
}

fn prefix() -> String {
    PREFIX.to_owned()
}

fn full() -> f32 {
    1.0
}

fn quarters() -> Vec<Vec<usize>> {
    vec![vec![25], vec![50], vec![75]]
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            hook_layer: one(),
            special_token: question_mark(),
            coefficient: full(),
            combinations: Vec::new(),
            percents: quarters(),
        }
    }
}

impl Oracle {
    /// Reads a folder; `None` if it has no `ao_config.json`.
    pub(super) fn open(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(CONFIG);
        let Ok(json) = std::fs::read(&path) else {
            return Ok(None);
        };
        let refuse = |problem: String| InterpError::ReaderFile {
            path: path.clone(),
            problem,
        };
        let file: File =
            serde_json::from_slice(&json).map_err(|source| refuse(source.to_string()))?;
        if file.prefix_template.replace("\\n", "\n") != PREFIX {
            return Err(refuse(format!(
                "prefix_template is {:?}; only {PREFIX:?} is supported",
                file.prefix_template
            )));
        }
        let all = [&file.act_layer_combinations, &file.layer_combinations];
        if all.iter().any(|lists| lists.iter().any(Vec::is_empty)) {
            return Err(refuse("a combination of layers is empty".to_owned()));
        }
        if !file.steering_coefficient.is_finite() || file.special_token.is_empty() {
            return Err(refuse(
                "steering_coefficient is not finite, or special_token is empty".to_owned(),
            ));
        }
        Ok(Some(Self {
            hook_layer: file.hook_onto_layer,
            special_token: file.special_token,
            coefficient: file.steering_coefficient,
            combinations: file.act_layer_combinations,
            percents: file.layer_combinations,
        }))
    }

    /// Their layer L is the output of `layers[L]`, our `hidden_states[L + 1]`.
    pub(super) fn reads(&self, n_layers: usize) -> Vec<Vec<usize>> {
        let ours = |layers: &Vec<usize>| layers.iter().map(|&l| l.saturating_add(1)).collect();
        let of_percents = |percents: &Vec<usize>| {
            let layer = |&percent: &usize| n_layers.saturating_mul(percent) / 100;
            ours(&percents.iter().map(layer).collect())
        };
        if self.combinations.is_empty() {
            return self.percents.iter().map(of_percents).collect();
        }
        self.combinations.iter().map(ours).collect()
    }

    /// The user's message: for each layer, `Layer: L` and the placeholders; then the question. The answer begins
    /// without thinking.
    ///
    /// `L` is the layer's index, as in training. The repository's notebook for several layers writes the depth in
    /// percent.
    pub(super) fn prompt(
        &self,
        layers: &[usize],
        span: usize,
        question: &str,
        template: ChatTemplate,
    ) -> Result<InterpretationPrompt> {
        let markers = vec![self.special_token.clone(); span];
        let mut content = String::new();
        for &layer in layers {
            let Some(theirs) = layer.checked_sub(1) else {
                return Err(InterpError::ReaderLayer {
                    reader: "an Activation Oracle",
                    layer,
                });
            };
            content += &format!("Layer: {theirs}\n{} \n", markers.concat());
        }
        content += question;
        let message = PromptMessage {
            role: "user".to_owned(),
            parts: vec![PromptPart::Text(content)],
        };
        let template = template.with_value("enable_thinking", Value::Bool(false));
        let prompt = InterpretationPrompt::from_messages(&[message], &template)?;
        // In the question, the placeholder's text would be overwritten too.
        if !question.contains(&self.special_token) {
            return mark_runs(&prompt, &markers, layers.len());
        }
        Err(InterpError::QuestionHoldsMarker {
            marker: self.special_token.clone(),
            question: question.to_owned(),
        })
    }
}
