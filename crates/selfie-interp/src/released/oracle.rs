//! Activation Oracles (adamkarvonen/activation_oracles, commit 55f153f: `nl_probes/utils/steering_hooks.py`,
//! `nl_probes/utils/dataset_utils.py`).

use std::path::Path;

use selfie_llama::ChatTemplate;
use serde::Deserialize;
use serde_json::Value;

use super::mark_run;
use crate::{InterpError, InterpretationPrompt, PromptMessage, PromptPart, Result};

const CONFIG: &str = "ao_config.json";
/// The only supported prefix, with its line breaks written out. Files may escape them.
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
    /// The layers it was trained to read, in the repository's numbering: one list per combination. If empty, they are
    /// at a quarter, a half and three quarters of the subject's depth.
    pub combinations: Vec<Vec<usize>>,
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

impl Default for Oracle {
    fn default() -> Self {
        Self {
            hook_layer: one(),
            special_token: question_mark(),
            coefficient: full(),
            combinations: Vec::new(),
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
        }))
    }

    /// Their layer L is the output of `layers[L]`, our `hidden_states[L + 1]`.
    pub(super) fn reads(&self, n_layers: usize) -> Vec<usize> {
        let layers = self.combinations.iter().filter(|layers| layers.len() == 1);
        let mut layers: Vec<usize> = layers.map(|layers| layers[0] + 1).collect();
        if layers.is_empty() {
            layers = [25, 50, 75]
                .map(|percent| n_layers * percent / 100 + 1)
                .to_vec();
        }
        layers
    }

    /// The user's message: `Layer: L`, the placeholders, and the question. The answer begins without thinking.
    pub(super) fn prompt(
        &self,
        layer: usize,
        span: usize,
        question: &str,
        template: ChatTemplate,
    ) -> Result<InterpretationPrompt> {
        let Some(theirs) = layer.checked_sub(1) else {
            return Err(InterpError::ReaderLayer {
                reader: "an Activation Oracle",
                layer,
            });
        };
        let markers = vec![self.special_token.clone(); span];
        let content = format!("Layer: {theirs}\n{} \n{question}", markers.concat());
        let message = PromptMessage {
            role: "user".to_owned(),
            parts: vec![PromptPart::Text(content)],
        };
        let template = template.with_value("enable_thinking", Value::Bool(false));
        // The question may contain the placeholder's text too, so only the run after the first line is marked.
        let prompt = InterpretationPrompt::from_messages(&[message], &template)?;
        if !question.contains(&self.special_token) {
            return mark_run(&prompt, &markers);
        }
        Err(InterpError::QuestionHoldsMarker {
            marker: self.special_token.clone(),
            question: question.to_owned(),
        })
    }
}
