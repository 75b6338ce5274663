//! A row of results.

use selfie_kernels::InjectMode;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use crate::{Control, Controlled, Key};

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
    /// The map that the embedding went through, by its name.
    pub map: Option<String>,
    /// For each generated token, its log-probability under the injection, by the logits as they are.
    pub logprobs: Vec<f32>,
    /// What came of drawing several texts; its fields are there only if several were drawn.
    #[serde(flatten)]
    pub samples: Option<Samples>,
    /// The controls that were asked for, in that order.
    #[serde(flatten, serialize_with = "control_fields")]
    pub controls: Vec<Controlled>,
}

/// Several texts of one embedding. The row's own fields are those of the first text that gives the most frequent answer.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Samples {
    /// What each says.
    pub samples: Vec<String>,
    /// The share of the samples that give the most frequent answer, up to case, white space, and punctuation at the ends.
    pub agreement: f32,
    /// The mean log-probability of the row's tokens, in nats.
    pub mean_logprob: f32,
}

impl Samples {
    /// Chooses among texts: the index of the first of the most frequent answer (of the earliest, of several), and its
    /// share.
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

/// An answer without case, the amount of white space, and punctuation at its ends.
fn answer(text: &str) -> String {
    let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
    let is_letter = |c: char| c.is_alphanumeric();
    words.join(" ").trim_matches(|c| !is_letter(c)).to_owned()
}

/// Which fields the rows of a run have beside those that all have: what a table's columns are chosen by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFields {
    /// Whether several texts are drawn: `samples`, `agreement` and `mean_logprob`.
    pub samples: bool,
    /// The controls, in their order.
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
