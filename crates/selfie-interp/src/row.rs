//! A row of results.

use selfie_kernels::InjectMode;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::{Controlled, Key};

/// The interpretation of one embedding. Its fields are those of the Python package of SelfIE, then ours; serialized, each
/// control adds two, named after it: `none_interpretation` and `none_evidence`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The prompt that the embedding comes from, or the name of the tensor that it was read from.
    pub prompt: String,
    /// What the model says, without special tokens.
    pub interpretation: String,
    /// The embedding is `hidden_states[layer]`; `None` for a vector from elsewhere.
    pub layer: Option<usize>,
    /// The embedding's position in the prompt, or its index in the tensor.
    pub token: usize,
    /// The text of the prompt's token; `None` for a vector from elsewhere.
    pub token_decoded: Option<String>,
    /// For each generated token, how much the injection changed its probability: `|p_with - p_without|`.
    /// Empty when it was not asked for.
    pub relevancy_score: Vec<f32>,
    /// The generated ids; the last one may be the one that ended the text.
    pub new_ids: Vec<u32>,
    /// The text that each generated id adds, special tokens included.
    pub pieces: Vec<String>,
    /// The layer at whose input the embedding was written.
    pub inject_layer: usize,
    /// How it was written.
    #[serde(serialize_with = "mode_name")]
    pub mode: InjectMode,
    /// The factor of `mode`.
    pub strength: f32,
    /// The name of the model that the embedding comes from, as the caller gave it.
    pub model: String,
    /// The index of the prompt among those that were given; `None` for a vector from elsewhere.
    pub prompt_index: Option<usize>,
    /// What the cell is: the same whichever other cells are asked for.
    pub key: Key,
    /// The name of the model that reads it, where it is another one.
    pub reader: Option<String>,
    /// The map that the embedding went through; none can be named yet.
    pub map: Option<String>,
    /// For each generated token, its log-probability under the injection, by the logits as they are.
    pub logprobs: Vec<f32>,
    /// The controls that were asked for, in that order.
    #[serde(flatten, serialize_with = "control_fields")]
    pub controls: Vec<Controlled>,
}

fn control_fields<S: Serializer>(
    controls: &[Controlled],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut fields = serializer.serialize_map(Some(2 * controls.len()))?;
    for one in controls {
        let name = one.control.name();
        fields.serialize_entry(&format!("{name}_interpretation"), &one.interpretation)?;
        fields.serialize_entry(&format!("{name}_evidence"), &one.evidence)?;
    }
    fields.end()
}

fn mode_name<S: Serializer>(mode: &InjectMode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode.name())
}
