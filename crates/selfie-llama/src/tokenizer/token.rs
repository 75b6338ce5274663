//! Added tokens in the form that transformers passes around, before the `tokenizers` crate gets them.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

/// Python's `AddedToken`. Whether it is matched in the normalized text is decided late: if nobody set the flag, it
/// depends on whether the token is special when it is added.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) content: String,
    pub(super) special: bool,
    pub(super) normalized: Option<bool>,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

/// How a file names a special token: by its text alone, or with flags. In Python the two are never equal.
#[derive(Clone, Debug)]
pub(super) enum Named {
    Text(String),
    Token(Added),
}

impl Added {
    pub(super) fn new(content: &str, special: bool) -> Self {
        Added {
            content: content.to_owned(),
            special,
            normalized: None,
            single_word: false,
            lstrip: false,
            rstrip: false,
        }
    }

    /// Reads a token from a JSON object; `None` if a field has the wrong type.
    pub(super) fn read(object: &Map<String, Value>) -> Option<Self> {
        let flag = |name: &str| match object.get(name) {
            None => Some(None),
            Some(value) => value.as_bool().map(Some),
        };
        let content = match object.get("content") {
            None | Some(Value::Null) => String::new(),
            Some(value) => value.as_str()?.to_owned(),
        };
        Some(Added {
            content,
            special: flag("special")?.unwrap_or(false),
            normalized: flag("normalized")?,
            single_word: flag("single_word")?.unwrap_or(false),
            lstrip: flag("lstrip")?.unwrap_or(false),
            rstrip: flag("rstrip")?.unwrap_or(false),
        })
    }

    /// The token with its late flag decided, as a copy in Python has it.
    pub(super) fn settled(self) -> Self {
        Added {
            normalized: Some(self.normalized.unwrap_or(!self.special)),
            ..self
        }
    }

    /// The token as the `tokenizers` crate takes it.
    pub(super) fn finish(&self) -> AddedToken {
        AddedToken {
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized.unwrap_or(!self.special),
            special: self.special,
        }
    }
}

impl PartialEq for Added {
    fn eq(&self, other: &Self) -> bool {
        self.finish() == other.finish()
    }
}

impl Named {
    pub(super) fn content(&self) -> &str {
        match self {
            Named::Text(text) => text,
            Named::Token(token) => &token.content,
        }
    }

    /// Turns a text into a token with `wrap`.
    pub(super) fn wrapped(self, wrap: impl FnOnce(&str) -> Added) -> Self {
        match self {
            Named::Text(text) => Named::Token(wrap(&text)),
            token => token,
        }
    }
}
