//! The weights of a Hugging Face folder or a GGUF file: lists the tensors, and reads them in pieces.

mod adapter;
mod fingerprint;
mod header;
mod map;
mod tensor;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use serde::Deserialize;

use crate::folder::resolve_folder;
use crate::gguf::{Gguf, is_gguf};
use crate::{LlamaError, Note, Result};
pub(crate) use adapter::only_adapter;
pub(crate) use header::{Entry, Shard};
pub use tensor::{Tensor, TensorInfo};

/// The index file: it says which shard holds which tensor.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
/// The head; a model whose head is the embedding table lacks it.
const HEAD: &str = "lm_head.weight";

/// The safetensors files of a folder, or a GGUF file, with its tensors in the names and order of transformers. Opening
/// reads and checks the headers, not the weights.
///
/// The files stay open: replacing one on disk does not change what is read.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    tensors: BTreeMap<String, Located>,
    notes: Vec<Note>,
}

/// The prefixes of a language model's tensor names in a multimodal checkpoint: of transformers up to 4.51, and of later
/// versions.
pub(crate) const TEXT_PARTS: [&str; 2] = ["language_model.model.", "model.language_model."];

fn has_part(tensors: &BTreeMap<String, Located>, part: &str) -> bool {
    tensors.contains_key(&format!("{part}embed_tokens.weight"))
}

impl Checkpoint {
    /// Opens `model.safetensors`; otherwise `model.safetensors.index.json` and its shards; otherwise the only
    /// `*.safetensors` file of the folder, or of the snapshot of a `models--org--name` folder. A path that ends with
    /// `.gguf` is a GGUF file, or the first part of a split one.
    pub fn open(dir: &Path) -> Result<Self> {
        if is_gguf(dir) {
            return Ok(Checkpoint {
                dir: dir.to_owned(),
                tensors: Gguf::open(dir)?.locate()?,
                notes: Vec::new(),
            });
        }
        let dir = &*resolve_folder(dir)?;
        check_folder(dir)?;
        // In a folder that has both, transformers reads the single file.
        let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
        let tensors = if exists(&single)? {
            open_single(&single)?
        } else if exists(&index)? {
            open_index(dir, &index)?
        } else {
            open_single(&only_file(dir)?)?
        };
        let mut notes: Vec<Note> = adapter::note(dir)?.into_iter().collect();
        if TEXT_PARTS.iter().any(|part| has_part(&tensors, part)) {
            notes.push(Note::TextOnly {
                dir: dir.to_owned(),
            });
        }
        Ok(Checkpoint {
            dir: dir.to_owned(),
            tensors,
            notes,
        })
    }

    /// Opens one safetensors file that is not a whole model: an adapter, a head.
    pub fn open_file(path: &Path) -> Result<Self> {
        Ok(Checkpoint {
            dir: path.parent().unwrap_or(path).to_owned(),
            tensors: open_single(path)?,
            notes: Vec::new(),
        })
    }

    /// Reads a safetensors file from memory. Errors call it `path`.
    pub fn from_bytes(bytes: &'static [u8], path: &Path) -> Result<Self> {
        Ok(Checkpoint {
            dir: path.parent().unwrap_or(path).to_owned(),
            tensors: locate_all(Shard::from_bytes(path, bytes.into()))?,
            notes: Vec::new(),
        })
    }

    /// Notes on the folder, such as an adapter beside the weights that is ignored.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Every tensor, by name. With an index, these are the tensors that the index names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, TensorInfo<'_>)> {
        self.tensors
            .iter()
            .map(|(name, located)| (name.as_str(), located.info()))
    }

    /// The number of tensors of each quantized type, by the type's name; empty for safetensors files.
    pub fn quantized(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for Located { entry, .. } in self.tensors.values() {
            if entry.layout.is_some_and(|layout| layout.is_quantized()) {
                *counts.entry(&*entry.dtype).or_default() += 1;
            }
        }
        counts
    }

    /// The bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.entry.bytes).sum()
    }

    /// What the files say about a tensor, or `None` if they lack it.
    pub fn find(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.tensors.get(name).map(Located::info)
    }

    /// A tensor that must exist, in a dtype that can be computed with and in this shape.
    pub fn tensor(&self, name: &str, expected_shape: &[usize]) -> Result<Tensor> {
        let Located { entry, shard } = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let dtype = entry.float().ok_or_else(|| LlamaError::TensorDType {
            tensor: name.to_owned(),
            file: shard.path.clone(),
            dtype: entry.dtype.clone(),
        })?;
        if entry.shape != expected_shape {
            return Err(LlamaError::TensorShape {
                tensor: name.to_owned(),
                file: shard.path.clone(),
                found: entry.shape.clone(),
                expected: expected_shape.to_owned(),
            });
        }
        Ok(Tensor::new(name, entry, dtype, Arc::clone(shard)))
    }
}

impl Checkpoint {
    fn missing(&self, name: &str) -> LlamaError {
        let dir = self.dir.clone();
        if name == HEAD {
            return LlamaError::MissingHead { dir };
        }
        LlamaError::MissingTensor {
            tensor: name.to_owned(),
            dir,
        }
    }
}

/// Fails with the reason unless `dir` is a folder.
pub(crate) fn check_folder(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(LlamaError::NotAFolder {
            path: dir.to_owned(),
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(LlamaError::NoFolder {
            path: dir.to_owned(),
        }),
        Err(source) => Err(read_error(dir, source)),
    }
}

pub(crate) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| read_error(path, source))
}

pub(crate) fn read_error(path: &Path, source: io::Error) -> LlamaError {
    LlamaError::Read {
        path: path.to_owned(),
        source,
    }
}

/// A tensor, and the file that holds it.
#[derive(Debug)]
pub(crate) struct Located {
    entry: Entry,
    shard: Arc<Shard>,
}

impl Located {
    pub(crate) fn new(entry: Entry, shard: &Arc<Shard>) -> Self {
        Located {
            entry,
            shard: Arc::clone(shard),
        }
    }

    fn info(&self) -> TensorInfo<'_> {
        TensorInfo {
            dtype: &self.entry.dtype,
            shape: &self.entry.shape,
            bytes: self.entry.bytes,
            file: &self.shard.path,
        }
    }
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn open_single(path: &Path) -> Result<BTreeMap<String, Located>> {
    locate_all(Shard::open(path)?)
}

fn locate_all(shard: Shard) -> Result<BTreeMap<String, Located>> {
    let entries = header::entries(&shard)?;
    let shard = Arc::new(shard);
    let locate = |(name, entry)| (name, Located::new(entry, &shard));
    Ok(entries.into_iter().map(locate).collect())
}

fn open_index(dir: &Path, index: &Path) -> Result<BTreeMap<String, Located>> {
    let json = fs::read(index).map_err(|source| read_error(index, source))?;
    let Index { weight_map } =
        serde_json::from_slice(&json).map_err(|source| LlamaError::Index {
            path: index.to_owned(),
            source,
        })?;
    let mut names_by_shard: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        names_by_shard.entry(shard).or_default().push(tensor);
    }

    let mut tensors = BTreeMap::new();
    for (file_name, names) in names_by_shard {
        // An index comes from the network, so it must not lead out of the folder.
        let mut parts = Path::new(&file_name).components();
        let is_inside = !file_name.is_empty() && parts.all(|p| matches!(p, Component::Normal(_)));
        if !is_inside {
            return Err(LlamaError::ShardPath {
                index: index.to_owned(),
                shard: file_name,
            });
        }
        let path = dir.join(&file_name);
        if !exists(&path)? {
            return Err(LlamaError::MissingShard {
                index: index.to_owned(),
                shard: file_name,
            });
        }
        let shard = Arc::new(Shard::open(&path)?);
        let mut entries = header::entries(&shard)?;
        for name in names {
            let Some(entry) = entries.remove(&name) else {
                return Err(LlamaError::NotInShard {
                    index: index.to_owned(),
                    shard: file_name,
                    tensor: name,
                });
            };
            tensors.insert(name, Located::new(entry, &shard));
        }
    }
    Ok(tensors)
}

/// The only weight file of a folder without an index.
fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir).map_err(|source| read_error(dir, source))? {
        files.push(item.map_err(|source| read_error(dir, source))?.path());
    }
    files.sort();

    let is_weights = |file: &&PathBuf| has_extension(file, "safetensors") && !adapter::is_of(file);
    let mut weights = files.iter().filter(is_weights);
    match (weights.next(), weights.count()) {
        (Some(one), 0) => return Ok(one.clone()),
        (Some(_), others) => {
            return Err(LlamaError::ManyWeightFiles {
                dir: dir.to_owned(),
                count: 1 + others,
            });
        }
        (None, _) => {}
    }
    if let Some(error) = only_adapter(dir)? {
        return Err(error);
    }
    for (extension, advice) in OTHER_FORMATS {
        if let Some(file) = files.iter().find(|file| has_extension(file, extension)) {
            return Err(LlamaError::WeightFormat {
                file: file.clone(),
                advice,
            });
        }
    }
    Err(LlamaError::NoWeights {
        dir: dir.to_owned(),
    })
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Unsupported weight files, by the end of their names, and the advice for each.
const OTHER_FORMATS: [(&str, &str); 3] = [
    (
        "bin",
        "load the folder in Python with transformers and write it again: \
         AutoModelForCausalLM.from_pretrained(dir).save_pretrained(new_dir, safe_serialization=True)",
    ),
    (
        "pth",
        "Meta's original files are not supported: download the Hugging Face version of the model, \
         with config.json and *.safetensors",
    ),
    (
        "gguf",
        "give the path of this file itself, instead of its folder's",
    ),
];
