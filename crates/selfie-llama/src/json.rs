//! Typed reads of a checkpoint's small JSON files. An error names the file, the field and its value.

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{LlamaError, Result};

/// Messages truncate values longer than this.
const SHOWN_CHARS: usize = 60;

/// Parses a file whose top level must be an object.
///
/// Python writes `NaN`, `Infinity` and `-Infinity`, which are not JSON. They are read as strings, which no number field
/// accepts.
pub(crate) fn parse_object(json: &str, path: &Path) -> Result<Map<String, Value>> {
    let parsed = serde_json::from_str(json).or_else(|error| {
        let quoted = quote_not_finite(json);
        // Report the error of the unquoted text, whose columns are right.
        quoted
            .and_then(|json| serde_json::from_str(&json).ok())
            .ok_or(error)
    });
    parsed.map_err(|source| LlamaError::Json {
        path: path.to_owned(),
        source,
    })
}

/// A text with quotes around Python's non-finite numbers; `None` if it has none.
fn quote_not_finite(json: &str) -> Option<String> {
    let mut quoted = String::with_capacity(json.len() + 16);
    let mut rest = json;
    let mut found = false;
    while let Some(next) = rest.chars().next() {
        let name = ["NaN", "Infinity", "-Infinity"]
            .into_iter()
            .find(|name| rest.starts_with(name));
        let len = if next == '"' {
            string_len(rest)
        } else {
            name.map_or(next.len_utf8(), str::len)
        };
        let (part, after) = rest.split_at(len);
        if name.is_some() {
            found = true;
            quoted.extend(["\"", part, "\""]);
        } else {
            quoted.push_str(part);
        }
        rest = after;
    }
    found.then_some(quoted)
}

/// The bytes of the string at the start of a text, including its quotes.
fn string_len(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

fn shortened(value: String) -> String {
    match value.char_indices().nth(SHOWN_CHARS) {
        Some((cut, _)) => format!("{}...", &value[..cut]),
        None => value,
    }
}

/// One object of a file. Like transformers, the getters treat `null` as an absent field.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// The path from the file's top level to this object, with a final dot.
    prefix: String,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The file's top level.
    pub(crate) fn new(path: &'a Path, object: &'a Map<String, Value>) -> Self {
        Fields {
            path,
            prefix: String::new(),
            object,
        }
    }

    /// The raw value.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// The raw object, without a check of its own.
    pub(crate) fn object_value(&self, name: &str) -> Option<&'a Map<String, Value>> {
        self.get(name)?.as_object()
    }

    /// A field's value as messages show it.
    pub(crate) fn shown(&self, name: &str) -> String {
        shortened(self.object.get(name).unwrap_or(&Value::Null).to_string())
    }

    /// Whether the field is present, even as `null`.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    pub(crate) fn integer(
        &self,
        name: &str,
        range: RangeInclusive<usize>,
    ) -> Result<Option<usize>> {
        self.typed(
            name,
            |value| {
                let integer = usize::try_from(value.as_u64()?).ok()?;
                range.contains(&integer).then_some(integer)
            },
            || {
                format!(
                    "expected an integer from {} to {}",
                    range.start(),
                    range.end()
                )
            },
        )
    }

    /// A number that `accept` accepts; `expected` describes those numbers.
    pub(crate) fn number(
        &self,
        name: &str,
        expected: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>> {
        self.typed(
            name,
            |value| value.as_f64().filter(|number| accept(*number)),
            || format!("expected {expected}"),
        )
    }

    /// A number above 0 that is representable in f32 too.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f64>> {
        self.number(name, "a finite number above 0", |number| {
            let rounded = number as f32;
            rounded > 0.0 && rounded.is_finite()
        })
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, Value::as_bool, || "expected true or false".into())
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, Value::as_str, || "expected a string".into())
    }

    /// A list of strings.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(
            name,
            |value| value.as_array()?.iter().map(Value::as_str).collect(),
            || "expected a list of strings".into(),
        )
    }

    /// One token id, or a list of them; -1 means none.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Option<Vec<u32>>> {
        let id = |value: &Value| match value.as_i64()? {
            -1 => Some(None),
            id => u32::try_from(id).ok().map(Some),
        };
        self.typed(
            name,
            |value| {
                let ids: Option<Vec<Option<u32>>> = match value {
                    Value::Array(list) => list.iter().map(id).collect(),
                    one => id(one).map(|id| vec![id]),
                };
                Some(ids?.into_iter().flatten().collect())
            },
            || "expected a token id or a list of token ids".into(),
        )
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        let object = self.typed(name, Value::as_object, || "expected an object".into())?;
        Ok(object.map(|object| Fields {
            path: self.path,
            prefix: format!("{}{name}.", self.prefix),
            object,
        }))
    }

    /// The error for a field with an unacceptable value.
    pub(crate) fn refuse(&self, name: &str, expected: impl Into<String>) -> LlamaError {
        let value = self.object.get(name).unwrap_or(&Value::Null).to_string();
        self.refuse_as(name, value, expected)
    }

    /// Like [`refuse`](Self::refuse), for a value that is not the field's own text: a default, a quotient.
    pub(crate) fn refuse_as(
        &self,
        name: &str,
        value: String,
        expected: impl Into<String>,
    ) -> LlamaError {
        LlamaError::ConfigField {
            path: self.path.to_owned(),
            field: format!("{}{name}", self.prefix),
            value: shortened(value),
            expected: expected.into(),
        }
    }

    /// The error for a required field that is missing.
    pub(crate) fn missing(&self, name: &str) -> LlamaError {
        LlamaError::ConfigMissing {
            path: self.path.to_owned(),
            field: format!("{}{name}", self.prefix),
        }
    }

    fn typed<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
        expected: impl FnOnce() -> String,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.refuse(name, expected())),
        }
    }
}
