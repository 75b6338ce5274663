//! Reads a GGUF file as if it were a Hugging Face folder. Its metadata become `config.json`, `generation_config.json`,
//! `tokenizer.json` and `tokenizer_config.json`. Its tensors get the names and the order of transformers.

mod blocks;
mod config;
mod header;
mod names;
mod rope;
mod rows;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::checkpoint::{Entry, Located, Shard, exists, read_error};
use crate::{Result, ShardError};
use config::Keys;
use header::{Header, Meta, Stored};
use names::{Architecture, Shapes};
pub(crate) use rows::Layout;

/// The largest number of parts that the file names of a split model can express.
const MAX_PARTS: u64 = 99_999;

/// The description of a model in a GGUF file, including its other parts if it is split.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    version: u32,
    /// The metadata of the first part, which holds everything that matters.
    metadata: BTreeMap<String, Meta>,
    /// The tensors of all parts.
    tensors: BTreeMap<String, (Stored, Arc<Shard>)>,
}

/// Whether a path names a GGUF file, by its extension.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let extension = path.extension().and_then(|end| end.to_str());
    extension.is_some_and(|end| end.eq_ignore_ascii_case("gguf")) && !path.is_dir()
}

impl Gguf {
    /// Reads and checks the headers of a file and its other parts. The path is that of the first part.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(Shard::open(path)?)
    }

    /// Like [`open`](Self::open), for bytes in memory. Errors call them `path`.
    pub fn parse(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        Self::new(Shard::from_bytes(path, bytes.into()))
    }

    /// The version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata as the object that `config.json` would hold, with the names of transformers.
    pub fn config(&self) -> Result<Map<String, Value>> {
        config::config(self)
    }

    /// What `generation_config.json` would hold: the ids that end a text. `None` if the file names none.
    pub fn generation_config(&self) -> Result<Option<Value>> {
        let eos = config::eos(&self.keys())?;
        Ok((!eos.is_empty()).then(|| json!({ "eos_token_id": eos })))
    }

    /// The chat template as in `tokenizer_config.json`: a text, or a list of named texts. `None` if there is none.
    pub fn chat_template(&self) -> Result<Option<Value>> {
        tokenizer::chat_template(&self.keys())
    }

    /// What `tokenizer.json` and `tokenizer_config.json` would hold; the latter includes the chat template.
    pub fn tokenizer(&self) -> Result<(Value, Value)> {
        tokenizer::tokenizer(&self.keys())
    }
}

impl Gguf {
    fn new(shard: Shard) -> Result<Self> {
        let path = shard.path.clone();
        let header = read(&shard)?;
        let count = n_parts(&path, &header.metadata)?;
        let mut gguf = Gguf {
            path,
            version: header.version,
            metadata: header.metadata,
            tensors: BTreeMap::new(),
        };
        gguf.add(header.tensors, shard)?;
        for number in 1..count {
            gguf.add_part(number, count)?;
        }
        let (keys, found) = (gguf.keys(), gguf.tensors.len() as u64);
        let said = keys.integer("split.tensors.count", 0..=u64::MAX)?;
        if count > 1 && said.is_some_and(|said| said != found) {
            return Err(keys.refuse(
                "split.tensors.count",
                format!("but the {count} parts have {found} tensors: they do not belong together"),
            ));
        }
        Ok(gguf)
    }

    fn add_part(&mut self, number: u64, count: u64) -> Result<()> {
        let first = self.keys();
        let stem = stem(&self.path, 0, count).ok_or_else(|| {
            first.fail(format!(
                "it is the first of {count} parts, whose names have to end with -00001-of-{count:05}.gguf and so on: \
                 rename it"
            ))
        })?;
        let path = part_path(&self.path, &stem, number, count);
        if !exists(&path)? {
            return Err(first.fail(format!(
                "it is the first of {count} parts, and {} is not there: download it too",
                path.display()
            )));
        }
        let shard = Shard::open(&path)?;
        let header = read(&shard)?;
        let keys = Keys {
            path: &path,
            metadata: &header.metadata,
        };
        for (key, expected) in [("split.no", number), ("split.count", count)] {
            if keys.integer(key, 0..=MAX_PARTS)? != Some(expected) {
                return Err(keys.refuse(key, format!("expected {expected}, by the file's name")));
            }
        }
        self.add(header.tensors, shard)
    }

    fn add(&mut self, tensors: BTreeMap<String, Stored>, shard: Shard) -> Result<()> {
        let shard = Arc::new(shard);
        for (name, stored) in tensors {
            if self.tensors.contains_key(&name) {
                return Err(ShardError::DuplicateTensor {
                    tensor: name,
                    file: shard.path.clone(),
                }
                .into());
            }
            self.tensors.insert(name, (stored, Arc::clone(&shard)));
        }
        Ok(())
    }

    fn keys(&self) -> Keys<'_> {
        Keys {
            path: &self.path,
            metadata: &self.metadata,
        }
    }

    /// The tensors under the names of transformers, and how to read them.
    pub(crate) fn locate(&self) -> Result<BTreeMap<String, Located>> {
        let (architecture, shapes) = (Architecture::of(&self.keys())?, Shapes::new(&self.keys())?);
        let mut located = BTreeMap::new();
        for (name, (stored, shard)) in &self.tensors {
            let found = architecture.tensor(name, stored, &shapes, &shard.path)?;
            let Some((name, layout)) = found else {
                continue;
            };
            let entry = Entry {
                dtype: stored.kind.name.to_owned(),
                shape: stored.dims.iter().rev().copied().collect(),
                offset: stored.offset,
                bytes: stored.bytes,
                layout: Some(layout),
            };
            located.insert(name, Located::new(entry, shard));
        }
        Ok(located)
    }
}

fn read(shard: &Shard) -> Result<Header> {
    let mut header = None;
    shard
        .with_all(&mut |bytes| header = Some(Header::parse(bytes, &shard.path)))
        .map_err(|source| read_error(&shard.path, source))?;
    header.unwrap_or_else(|| Header::parse(&[], &shard.path))
}

/// The number of parts, given the header of the first one; an error for the header of another part.
fn n_parts(path: &Path, metadata: &BTreeMap<String, Meta>) -> Result<u64> {
    let keys = Keys { path, metadata };
    let count = keys.integer("split.count", 0..=MAX_PARTS)?.unwrap_or(1);
    let number = keys.integer("split.no", 0..=MAX_PARTS)?.unwrap_or(0);
    if number == 0 {
        return Ok(count.max(1));
    }
    let first = stem(path, number, count).map(|stem| part_path(path, &stem, 0, count));
    let first = first.map_or_else(String::new, |first| format!(", {}", first.display()));
    Err(keys.fail(format!(
        "it is part {} of {count}; give the first part{first}",
        number + 1
    )))
}

/// What the name of part `number` begins with; `None` if it does not end as it should.
fn stem(path: &Path, number: u64, count: u64) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-{:05}-of-{count:05}.gguf", number + 1))?;
    Some(stem.to_owned())
}

fn part_path(path: &Path, stem: &str, number: u64, count: u64) -> PathBuf {
    path.with_file_name(format!("{stem}-{:05}-of-{count:05}.gguf", number + 1))
}
