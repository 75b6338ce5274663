//! Interpretation prompts: text with placeholders that embeddings are written over.

use std::str::FromStr;

use selfie_llama::Tokenizer;

use crate::{InterpError, Result};

/// What stands for a placeholder in the text that is tokenized, as in the Python package of SelfIE.
const PLACEHOLDER: &str = "_ ";

/// A part of an interpretation prompt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PromptPart {
    /// Literal text.
    Text(String),
    /// A place that the embedding is written to.
    Placeholder,
}

/// A prompt that asks the model what the embedding at its placeholders says (arXiv 2403.10949, section 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterpretationPrompt {
    /// Its parts, in order.
    pub parts: Vec<PromptPart>,
}

/// An interpretation prompt in a tokenizer's ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedPrompt {
    /// The text that was tokenized.
    pub text: String,
    /// Its ids, `[m]`.
    pub ids: Vec<u32>,
    /// The positions of the placeholders, in order; a placeholder may take several.
    pub placeholders: Vec<usize>,
}

impl InterpretationPrompt {
    /// The names that [`template`](InterpretationPrompt::template) knows.
    pub const TEMPLATES: [&str; 2] = ["summarize", "materials"];

    /// A prompt by name.
    pub fn template(name: &str) -> Result<Self> {
        let answer = match name {
            "summarize" => "[/INST] Sure, I will summarize the message:",
            "materials" => "[/INST] The materials mentioned in the message are:\n\n",
            _ => {
                return Err(InterpError::UnknownTemplate {
                    name: name.to_owned(),
                });
            }
        };
        let mut parts = vec![PromptPart::Placeholder; 7];
        parts[0] = PromptPart::Text("[INST]".to_owned());
        parts[6] = PromptPart::Text(answer.to_owned());
        Ok(Self { parts })
    }

    /// Tokenizes the prompt with `"_ "` for each placeholder. The rows of a placeholder are the indices of the tokens
    /// that it adds to the text before it.
    pub fn locate(&self, tokenizer: &Tokenizer) -> Result<LocatedPrompt> {
        let mut text = String::new();
        let mut placeholders = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                PromptPart::Text(part) => text.push_str(part),
                PromptPart::Placeholder => {
                    let first = tokenizer.encode(&text)?.len();
                    text.push_str(PLACEHOLDER);
                    let end = tokenizer.encode(&text)?.len();
                    if first >= end {
                        return Err(InterpError::PlaceholderWithoutToken { index });
                    }
                    placeholders.extend(first..end);
                }
            }
        }
        if placeholders.is_empty() {
            return Err(InterpError::NoPlaceholder);
        }
        let ids = tokenizer.encode(&text)?;
        // Tokens of the text that follows may swallow the end of the last placeholder.
        if let Some(&position) = placeholders.iter().find(|&&p| p >= ids.len()) {
            return Err(InterpError::PlaceholderOutside {
                position,
                tokens: ids.len(),
            });
        }
        Ok(LocatedPrompt {
            text,
            ids,
            placeholders,
        })
    }
}

/// JSON: a list of strings and zeros, a zero for each placeholder.
impl FromStr for InterpretationPrompt {
    type Err = InterpError;

    fn from_str(json: &str) -> Result<Self> {
        use serde_json::Value;
        let parts: Vec<Value> =
            serde_json::from_str(json).map_err(|source| InterpError::PromptJson { source })?;
        let part = |(index, part)| match part {
            Value::String(text) => Ok(PromptPart::Text(text)),
            Value::Number(number) if number.as_u64() == Some(0) => Ok(PromptPart::Placeholder),
            other => Err(InterpError::PromptPart {
                index,
                found: other.to_string(),
            }),
        };
        let parts = parts.into_iter().enumerate().map(part);
        Ok(Self {
            parts: parts.collect::<Result<_>>()?,
        })
    }
}
