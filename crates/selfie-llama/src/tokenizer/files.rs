//! The files of a tokenizer, in a folder or in memory, read on demand.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::json::parse_object;
use crate::{LlamaError, Result};

/// The location of a tokenizer's files.
pub(super) struct Files<'a> {
    dir: &'a Path,
    memory: Option<Memory<'a>>,
}

/// Files in memory, in place of a folder.
struct Memory<'a> {
    json: &'a [u8],
    config: Option<&'a str>,
}

impl<'a> Files<'a> {
    pub(super) fn of_folder(dir: &'a Path) -> Self {
        Files { dir, memory: None }
    }

    /// Only `tokenizer.json` and `tokenizer_config.json`. Errors say that they are in `dir`.
    pub(super) fn of_memory(json: &'a [u8], config: Option<&'a str>, dir: &'a Path) -> Self {
        Files {
            dir,
            memory: Some(Memory { json, config }),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir
    }

    /// The path of a file for messages.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The bytes of a file; `None` if it does not exist.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Cow<'a, [u8]>>> {
        if let Some(Memory { json, config }) = &self.memory {
            let bytes = match name {
                "tokenizer.json" => Some(*json),
                "tokenizer_config.json" => config.map(str::as_bytes),
                _ => None,
            };
            return Ok(bytes.map(Cow::Borrowed));
        }
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LlamaError::Read {
                path: self.path(name),
                source,
            }),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(name)? else {
            return Ok(None);
        };
        match String::from_utf8(bytes.into_owned()) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(LlamaError::Read {
                path: self.path(name),
                source: std::io::Error::new(ErrorKind::InvalidData, error.utf8_error()),
            }),
        }
    }

    /// The object in a JSON file.
    pub(super) fn object(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        let text = self.text(name)?;
        text.map(|text| parse_object(&text, &self.path(name)))
            .transpose()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.memory.is_none() && self.path(name).is_file()
    }
}
