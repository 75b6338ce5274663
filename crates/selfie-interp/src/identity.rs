//! The identity of a cell, which seeds its samples and its random control.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{InjectAt, InterpError, InterpretationPrompt, Joining, PromptPart, Vector};

/// The identity of a cell: a hash of what is interpreted (a prompt's text, a layer and a token, or a vector) and of how
/// it is injected into which interpretation prompt.
///
/// Together with a seed, it determines the cell's samples and its random control. So a cell's row does not depend on
/// the other cells. It prints as 16 hexadecimal digits: the first 8 bytes of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

impl Key {
    /// The key of `hidden_states[layer]` at a token of a prompt.
    pub fn of_cell(
        prompt: &str,
        layer: usize,
        token: usize,
        inject: &InjectAt,
        interpretation: &InterpretationPrompt,
    ) -> Self {
        let mut hash = Hash::of_place(prompt, layer, token);
        hash.write(inject, interpretation);
        hash.finish()
    }

    /// The key of `hidden_states[layer]` at a token of a prompt, independent of how it is interpreted.
    pub(crate) fn of_place(prompt: &str, layer: usize, token: usize) -> Self {
        Hash::of_place(prompt, layer, token).finish()
    }

    /// The key of a cell of several tokens, given the key of its last token alone.
    pub fn of_span(self, tokens: usize) -> Self {
        if tokens == 1 {
            return self;
        }
        let mut hash = Hash::new("span");
        hash.number(self.0);
        hash.number(tokens as u64);
        hash.finish()
    }

    /// The key of a cell of several layers, given the key of its last one alone.
    pub fn of_layers(self, layers: &[usize]) -> Self {
        if layers.is_empty() {
            return self;
        }
        let mut hash = Hash::new("layers");
        hash.number(self.0);
        for &layer in layers {
            hash.number(layer as u64);
        }
        hash.finish()
    }

    /// The key that seeds sample `index` of the cell. Sample 0 uses the cell's own key.
    pub fn of_sample(self, index: usize) -> Self {
        if index == 0 {
            return self;
        }
        let mut hash = Hash::new("sample");
        hash.number(self.0);
        hash.number(index as u64);
        hash.finish()
    }

    /// The key of a given vector.
    pub fn of_vector(
        vector: &Vector,
        inject: &InjectAt,
        interpretation: &InterpretationPrompt,
    ) -> Self {
        let mut hash = Hash::new("vector");
        hash.text(&vector.name);
        hash.number(vector.index as u64);
        hash.number(vector.values.len() as u64);
        for value in &vector.values {
            hash.0.update(value.to_bits().to_le_bytes());
        }
        hash.write(inject, interpretation);
        hash.finish()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Key {
    type Err = InterpError;

    fn from_str(text: &str) -> Result<Self, InterpError> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(Key).ok_or_else(|| InterpError::Key {
            text: text.to_owned(),
        })
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A hash of fields, each prefixed with its length, so that different lists of fields cannot collide.
struct Hash(Sha256);

impl Hash {
    fn new(kind: &str) -> Self {
        let mut hash = Self(Sha256::new());
        hash.text(kind);
        hash
    }

    fn of_place(prompt: &str, layer: usize, token: usize) -> Self {
        let mut hash = Self::new("cell");
        hash.text(prompt);
        hash.number(layer as u64);
        hash.number(token as u64);
        hash
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    fn write(&mut self, inject: &InjectAt, interpretation: &InterpretationPrompt) {
        self.number(inject.layer as u64);
        self.text(inject.mode.name());
        self.number(u64::from(inject.strength.to_bits()));
        let joining = match interpretation.joining {
            Joining::OneText => 0,
            Joining::PartByPart => 1,
        };
        self.number(joining + 2 * u64::from(interpretation.rendered));
        self.number(interpretation.parts.len() as u64);
        for part in &interpretation.parts {
            match part {
                PromptPart::Text(text) => {
                    self.number(0);
                    self.text(text);
                }
                PromptPart::Placeholder => self.number(1),
                PromptPart::Marker(text) => {
                    self.number(2);
                    self.text(text);
                }
            }
        }
    }

    fn finish(self) -> Key {
        let digest = self.0.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Key(u64::from_be_bytes(first))
    }
}

#[cfg(test)]
mod tests {
    use selfie_kernels::InjectMode;

    use super::*;

    fn prompt(parts: &[&str]) -> InterpretationPrompt {
        let part = |&part: &&str| match part {
            "0" => PromptPart::Placeholder,
            text => PromptPart::Text(text.to_owned()),
        };
        InterpretationPrompt::new(parts.iter().map(part).collect())
    }

    const AT: InjectAt = InjectAt {
        layer: 1,
        mode: InjectMode::Replace,
        strength: 1.0,
    };

    /// The bytes of the fields, hashed by Python's hashlib: see the comments on the values.
    #[test]
    fn a_key_is_the_hash_of_its_fields() {
        // sha256(b"".join(f(x) for x in [...])) with f(text) = len as u64 LE + utf-8, f(number) = u64 LE, over
        // "cell", "a prompt", 3, 4, 1, "replace", 0x3f800000, 0, 3, 0, "[INST]", 1, 0, "[/INST]".
        let key = Key::of_cell("a prompt", 3, 4, &AT, &prompt(&["[INST]", "0", "[/INST]"]));
        assert_eq!(key.to_string(), "79676a94d4f9fe1c");
        assert_eq!("79676a94d4f9fe1c".parse::<Key>().unwrap(), key);
    }

    #[test]
    fn every_field_counts() {
        let base = prompt(&["a", "0"]);
        let apart = InterpretationPrompt {
            joining: Joining::PartByPart,
            ..base.clone()
        };
        let rendered = InterpretationPrompt {
            rendered: true,
            ..base.clone()
        };
        let key = |text: &str, layer, token, at: &InjectAt, prompt: &InterpretationPrompt| {
            Key::of_cell(text, layer, token, at, prompt)
        };
        let mut keys = vec![
            key("p", 1, 2, &AT, &base),
            key("q", 1, 2, &AT, &base),
            key("p", 2, 2, &AT, &base),
            key("p", 1, 1, &AT, &base),
            key("p", 1, 2, &InjectAt { layer: 2, ..AT }, &base),
            key(
                "p",
                1,
                2,
                &InjectAt {
                    strength: 0.5,
                    ..AT
                },
                &base,
            ),
            key(
                "p",
                1,
                2,
                &InjectAt {
                    mode: InjectMode::Add,
                    ..AT
                },
                &base,
            ),
            key("p", 1, 2, &AT, &prompt(&["a", "0", "0"])),
            key("p", 1, 2, &AT, &prompt(&["a", "", "0"])),
            key("p", 1, 2, &AT, &apart),
            key("p", 1, 2, &AT, &rendered),
        ];
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 11);
    }

    #[test]
    fn malformed_keys_are_refused() {
        for text in ["", "12", "0123456789abcdeg", "+123456789abcdef"] {
            let error = text.parse::<Key>().unwrap_err().to_string();
            assert!(error.contains("16 hexadecimal digits"), "{error}");
        }
    }
}
