//! Where a model's files are.

use std::fs;
use std::path::{Path, PathBuf};

use selfie_llama::{
    ChatTemplate, Checkpoint, GenerationConfig, LlamaConfig, Tokenizer, resolve_folder,
};

use crate::Result;

/// Where a model's files are. New kinds of places become variants, which `From<PathBuf>` recognizes by the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Hugging Face folder: `config.json`, `*.safetensors`, `tokenizer.json`. If the path does not exist, `org/name`
    /// or `org/name@revision` in the local Hugging Face cache ([`resolve_folder`]).
    Folder(PathBuf),
    /// A GGUF file, or the first part of a split one.
    Gguf(PathBuf),
    /// The demo checkpoint built into the program.
    Demo,
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        let is_gguf = path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        if is_gguf && !path.is_dir() {
            Self::Gguf(path)
        } else {
            Self::Folder(path)
        }
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl Source {
    /// The model's name in rows and messages: the given path, or the demo's name.
    pub fn name(&self) -> String {
        match self {
            Self::Folder(path) | Self::Gguf(path) => path.display().to_string(),
            Self::Demo => selfie_demo::NAME.to_owned(),
        }
    }

    /// Whether both are the same files, under any name.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Folder(one), Self::Folder(other)) => {
                let real = |dir: &Path| fs::canonicalize(resolve_folder(dir).ok()?).ok();
                one == other || (real(one).is_some() && real(one) == real(other))
            }
            (Self::Gguf(one), Self::Gguf(other)) => {
                let real = |path: &Path| fs::canonicalize(path).ok();
                one == other || (real(one).is_some() && real(one) == real(other))
            }
            _ => self == other,
        }
    }

    /// The model's shape.
    pub fn config(&self) -> Result<LlamaConfig> {
        Ok(match self {
            Self::Folder(path) | Self::Gguf(path) => LlamaConfig::open(path)?,
            Self::Demo => selfie_demo::config()?,
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(match self {
            Self::Folder(path) | Self::Gguf(path) => Tokenizer::open(path)?,
            Self::Demo => selfie_demo::tokenizer()?,
        })
    }

    /// The chat template, if there is one. `tokenizer` is the model's.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        Ok(match self {
            Self::Folder(path) | Self::Gguf(path) => ChatTemplate::open(path, tokenizer)?,
            Self::Demo => Some(selfie_demo::chat_template()?),
        })
    }

    /// The `generation_config.json`, if there is one; for a GGUF file, its end-of-text ids.
    pub fn generation(&self) -> Result<Option<GenerationConfig>> {
        Ok(match self {
            Self::Folder(path) | Self::Gguf(path) => GenerationConfig::open(path)?,
            Self::Demo => Some(selfie_demo::generation_config()?),
        })
    }

    /// The checkpoint, of which only the headers are read.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(match self {
            Self::Folder(path) | Self::Gguf(path) => Checkpoint::open(path)?,
            Self::Demo => selfie_demo::checkpoint()?,
        })
    }
}
