//! A row of results.

use selfie_kernels::InjectMode;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::{Control, Controlled, Key};

/// The interpretation of one embedding. The first fields are those of the Python package of SelfIE. When serialized,
/// each control adds two fields, named after it: `none_interpretation` and `none_evidence`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The prompt of the embedding, or the name of its tensor.
    pub prompt: String,
    /// What the model says, without special tokens.
    pub interpretation: String,
    /// The embedding is `hidden_states[layer]`; `None` for a given vector.
    pub layer: Option<usize>,
    /// The embedding's position in the prompt, or its index in the tensor.
    pub token: usize,
    /// The text of the token; `None` for a given vector.
    pub token_decoded: Option<String>,
    /// For each generated token, how much the injection changed its probability: `|p_with - p_without|`. Empty unless
    /// asked for.
    pub relevancy_score: Vec<f32>,
    /// The generated ids; the last one may be the one that ended the text.
    pub new_ids: Vec<u32>,
    /// The text that each generated id adds, special tokens included.
    pub pieces: Vec<String>,
    /// The layer at whose input the embedding was injected.
    pub inject_layer: usize,
    /// How it was injected.
    #[serde(serialize_with = "mode_name")]
    pub mode: InjectMode,
    /// The strength in `mode`.
    pub strength: f32,
    /// The caller's name for the model that the embedding comes from.
    pub model: String,
    /// The index of the prompt among the given ones; `None` for a given vector.
    pub prompt_index: Option<usize>,
    /// The identity of the cell, which does not depend on the other cells.
    pub key: Key,
    /// The name of the reader, if it is another model.
    pub reader: Option<String>,
    /// The name of the map that was applied to the embedding.
    pub map: Option<String>,
    /// The log-probability of each generated token under the injection, from the unmodified logits.
    pub logprobs: Vec<f32>,
    /// The samples; these fields exist only if there were several.
    #[serde(flatten)]
    pub samples: Option<Samples>,
    /// The controls, in the requested order.
    #[serde(flatten, serialize_with = "control_fields")]
    pub controls: Vec<Controlled>,
}

/// Several texts for one embedding. The row's own fields are those of the first text with the most frequent answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Samples {
    /// The interpretation in each sample.
    pub samples: Vec<String>,
    /// The share of the samples with the most frequent answer, ignoring case, white space, and punctuation at the ends.
    pub agreement: f32,
    /// The mean log-probability of the row's tokens, in nats.
    pub mean_logprob: f32,
}

impl Samples {
    /// Chooses among texts. Returns the index of the first text with the most frequent answer (the earliest of equally
    /// frequent ones), and the answer's share.
    pub(crate) fn choose(texts: &[String]) -> (usize, f32) {
        let answers: Vec<String> = texts.iter().map(|text| answer(text)).collect();
        let votes = |answer: &String| answers.iter().filter(|other| *other == answer).count();
        let most = answers.iter().map(votes).max().unwrap_or(0);
        let first = answers
            .iter()
            .position(|answer| votes(answer) == most)
            .unwrap_or(0);
        (first, most as f32 / texts.len().max(1) as f32)
    }
}

/// Normalizes an answer: ignores case, the amount of white space, and punctuation at the ends.
fn answer(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let is_letter = |c: char| c.is_alphanumeric();
    words.join(" ").trim_matches(|c| !is_letter(c)).to_owned()
}

/// Which optional fields the rows of a run have; these choose the columns of tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFields {
    /// Whether rows have `samples`, `agreement` and `mean_logprob`.
    pub samples: bool,
    /// The controls, in order.
    pub controls: Vec<Control>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_answer_wins_up_to_case_and_punctuation() {
        let texts = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        assert_eq!(
            Samples::choose(&texts(&["Peru", "Rome.", " rome ", "peru?", "ROME"])),
            (1, 0.6)
        );
        assert_eq!(
            Samples::choose(&texts(&["a b", "A  b!", "c", "c"])),
            (0, 0.5)
        );
        assert_eq!(
            Samples::choose(&texts(&["東京", "東京。", ""])),
            (0, 2.0 / 3.0)
        );
        assert_eq!(Samples::choose(&texts(&["x"])), (0, 1.0));
    }
}
