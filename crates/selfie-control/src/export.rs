//! Exports a checkpoint with edits in it as a new Hugging Face folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use selfie_kernels::MatrixSource;
use selfie_llama::{Checkpoint, HostTensor, LlamaConfig, LlamaError, Lora};
use serde_json::{Map, Value, json};

use crate::edit::file_dtype;
use crate::output::{self, OutputFolder};
use crate::{ControlError, Edit, Result};

/// The index of a checkpoint with several shards.
const INDEX: &str = "model.safetensors.index.json";
/// Extensions of weight files. Those that are not part of the checkpoint are not copied, since they would hold the old
/// weights.
const WEIGHTS: [&str; 9] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "h5",
    "msgpack",
    "onnx",
];

/// What an export did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Rewritten shards.
    pub rewritten: Vec<String>,
    /// Shards that are hard links to the old files, or copies if the file systems differ.
    pub linked: Vec<String>,
    /// Other files, copied.
    pub copied: Vec<String>,
    /// Whether an edit's dtype differs from that of the tensors it replaced.
    pub other_dtype: bool,
}

/// Writes the checkpoint of `dir` with the edits merged in order, and then with a low-rank adapter, to the new folder
/// `out`. Messages call the edits by their names. A matrix with an adapter becomes `W + s B A`, rounded once to its
/// dtype.
///
/// Only shards with an edited tensor are rewritten; the others are hard links. The folder appears when it is complete,
/// as with [`OutputFolder`].
pub fn export(
    dir: &Path,
    edits: &[(String, Edit)],
    lora: Option<&Lora>,
    out: &Path,
) -> Result<Exported> {
    // A GGUF file also opens as a checkpoint, but has no safetensors shards to rewrite.
    if dir.is_file() {
        let path = dir.to_owned();
        return Err(LlamaError::NotAFolder { path }.into());
    }
    let folder = OutputFolder::new(out)?;
    let config = LlamaConfig::open(dir)?;
    let checkpoint = Checkpoint::open(dir)?;
    let mut new = new_tensors(&config, &checkpoint, edits)?;
    if let Some(lora) = lora {
        merge(&config, &checkpoint, lora, &mut new)?;
    }
    let failed = |source| ControlError::Write {
        path: out.to_owned(),
        source,
    };
    let mut exported = Exported::default();
    let mut shards = BTreeSet::new();
    let mut change = 0;
    for (_, info) in checkpoint.tensors() {
        shards.insert(info.file.to_owned());
    }
    for shard in &shards {
        // An index may name a file in a subfolder.
        let inside = shard.strip_prefix(dir).unwrap_or(shard);
        let name = inside.display().to_string();
        let to = folder.partial().join(inside);
        fs::create_dir_all(output::folder(&to)).map_err(failed)?;
        let own: BTreeMap<&str, &HostTensor> = new
            .iter()
            .filter(|(name, _)| checkpoint.find(name).is_some_and(|info| info.file == shard))
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        if own.is_empty() {
            link(shard, &to).map_err(failed)?;
            exported.linked.push(name);
            continue;
        }
        for tensor in own.values() {
            let old = checkpoint.find(&tensor.name);
            change += tensor.bytes.len() as i64 - old.as_ref().map_or(0, |info| info.bytes) as i64;
            // Compared by name: two dtypes may have the same size.
            let dtype = format!("{:?}", file_dtype(tensor.dtype));
            exported.other_dtype |= old.is_none_or(|info| info.dtype != dtype);
        }
        rewrite(shard, &own, &to)?;
        exported.rewritten.push(name);
    }
    for file in fs::read_dir(dir).map_err(|source| read_failed(dir, source))? {
        let path = file.map_err(|source| read_failed(dir, source))?.path();
        let name = file_name(&path);
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        if !path.is_file() || WEIGHTS.contains(&ending) {
            continue;
        }
        let to = folder.partial().join(&name);
        if name == INDEX && change != 0 {
            resize_index(&path, &to, change)?;
        } else {
            fs::copy(&path, &to).map_err(failed)?;
        }
        exported.copied.push(name);
    }
    exported.copied.sort();
    folder.finish()?;
    Ok(exported)
}

/// The changed tensors, after checking every edit against the tensors it replaces.
fn new_tensors(
    config: &LlamaConfig,
    checkpoint: &Checkpoint,
    edits: &[(String, Edit)],
) -> Result<BTreeMap<String, HostTensor>> {
    let mut new: BTreeMap<String, HostTensor> = BTreeMap::new();
    for (name, edit) in edits {
        edit.check_shape(name, config)?;
        for tensor in &edit.mlp.tensors {
            let before = match new.get(&tensor.name) {
                Some(before) if before.dtype != tensor.dtype => {
                    return Err(ControlError::EditDType {
                        edit: name.clone(),
                        of_edit: tensor.dtype,
                        of_model: before.dtype,
                    });
                }
                Some(before) => before.clone(),
                None => stored(checkpoint, tensor)?,
            };
            edit.check_base(name, &before)?;
        }
        for tensor in &edit.mlp.tensors {
            new.insert(tensor.name.clone(), tensor.clone());
        }
    }
    Ok(new)
}

/// Merges an adapter into its tensors, edited or not.
fn merge(
    config: &LlamaConfig,
    checkpoint: &Checkpoint,
    lora: &Lora,
    new: &mut BTreeMap<String, HostTensor>,
) -> Result<()> {
    let mut merged = 0;
    for (name, info) in checkpoint.tensors() {
        if !lora.is_for(name) {
            continue;
        }
        let tensor = match new.remove(name) {
            Some(tensor) => tensor,
            None => {
                let dtype = MatrixSource::dtype(&checkpoint.tensor(name, info.shape)?);
                let empty = HostTensor::new(name.to_owned(), dtype, info.shape.to_vec(), &[]);
                stored(checkpoint, &empty)?
            }
        };
        let (_, columns) = MatrixSource::shape(&tensor);
        let mut values = tensor.to_f32();
        lora.merge(name, &mut values, columns)?;
        let tensor = HostTensor::new(tensor.name, tensor.dtype, tensor.shape, &values);
        new.insert(name.to_owned(), tensor);
        merged += 1;
    }
    Ok(lora.check_merged(merged, config)?)
}

/// The checkpoint's tensor that `edited` replaces, in the dtype of `edited`, as a model of that dtype would load it.
fn stored(checkpoint: &Checkpoint, edited: &HostTensor) -> Result<HostTensor> {
    let tensor = checkpoint.tensor(&edited.name, &edited.shape)?;
    let (rows, _) = MatrixSource::shape(&tensor);
    let dtype = MatrixSource::dtype(&tensor);
    let mut bytes = Vec::new();
    tensor
        .with_rows(0..rows, &mut |stored| {
            bytes = if dtype == edited.dtype {
                stored.to_vec()
            } else {
                edited.dtype.to_bytes(&dtype.to_f32(stored))
            };
        })
        .map_err(|source| read_failed(tensor.file(), source))?;
    Ok(HostTensor {
        bytes,
        ..edited.clone()
    })
}

/// Writes a shard with some tensors replaced; everything else (names, order, metadata) stays as it was.
fn rewrite(shard: &Path, new: &BTreeMap<&str, &HostTensor>, to: &Path) -> Result<()> {
    let unread = |source| read_failed(shard, source);
    let mut file = File::open(shard).map_err(unread)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(unread)?;
    let header_len = u64::from_le_bytes(length);
    let mut header = vec![0; header_len as usize];
    file.read_exact(&mut header).map_err(unread)?;
    let mut header: Map<String, Value> =
        serde_json::from_slice(&header).map_err(|e| unread(e.into()))?;

    // Offsets of the tensors in the file. The header was checked when the checkpoint was opened.
    let offset = |entry: &Value, at: usize| entry["data_offsets"][at].as_u64().unwrap_or(0);
    let mut parts: Vec<(String, u64, u64)> = header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, entry)| (name.clone(), offset(entry, 0), offset(entry, 1)))
        .collect();
    parts.sort_by_key(|part| (part.1, part.2));
    let mut at = 0;
    for (name, begin, end) in &parts {
        let entry = &mut header[name];
        let bytes = match new.get(name.as_str()) {
            Some(tensor) => {
                entry["dtype"] = json!(file_dtype(tensor.dtype));
                tensor.bytes.len() as u64
            }
            None => end - begin,
        };
        entry["data_offsets"] = json!([at, at + bytes]);
        at += bytes;
    }
    let mut header = Value::Object(header).to_string();
    // The data begins at a multiple of 8.
    header.extend(std::iter::repeat_n(
        ' ',
        header.len().next_multiple_of(8) - header.len(),
    ));

    let mut write = || -> io::Result<()> {
        let mut out = BufWriter::new(File::create(to)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for (name, begin, end) in &parts {
            match new.get(name.as_str()) {
                Some(tensor) => out.write_all(&tensor.bytes)?,
                None => {
                    file.seek(SeekFrom::Start(8 + header_len + begin))?;
                    let copied = io::copy(&mut (&mut file).take(end - begin), &mut out)?;
                    if copied != end - begin {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
        out.into_inner()?.sync_all()
    };
    write().map_err(|source| ControlError::Write {
        path: to.to_owned(),
        source,
    })
}

/// Copies the index with the total size corrected.
fn resize_index(from: &Path, to: &Path, change: i64) -> Result<()> {
    let unread = |source| read_failed(from, source);
    let text = fs::read_to_string(from).map_err(unread)?;
    let mut index: Value = serde_json::from_str(&text).map_err(|e| unread(e.into()))?;
    if let Some(size) = index["metadata"]["total_size"].as_i64() {
        index["metadata"]["total_size"] = json!(size + change);
    }
    let text = serde_json::to_string_pretty(&index).map_err(|e| unread(e.into()))?;
    fs::write(to, text + "\n").map_err(|source| ControlError::Write {
        path: to.to_owned(),
        source,
    })
}

/// Links a file under another name, or copies it.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    // Download caches use symbolic links, relative to their location.
    let from = fs::canonicalize(from)?;
    match fs::hard_link(&from, to) {
        Ok(()) => Ok(()),
        Err(_) => fs::copy(&from, to).map(|_| ()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn read_failed(path: &Path, source: io::Error) -> ControlError {
    ControlError::Read {
        path: PathBuf::from(path),
        source,
    }
}
