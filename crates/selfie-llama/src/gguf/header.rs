//! The header of a GGUF file: magic, version, metadata, a list of tensors, then their data
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).
//!
//! The header is untrusted: every count is compared with the remaining bytes before anything is allocated for it.

use std::collections::BTreeMap;
use std::path::Path;

use super::blocks::BlockType;
use crate::{LlamaError, Result, ShardError};

const MAGIC: &[u8] = b"GGUF";
/// The most dimensions that a tensor can have.
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
/// Longer names are refused, as in ggml.
const MAX_KEY: usize = 65_535;
const MAX_TENSOR_NAME: usize = 64;

/// The contents of a header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: BTreeMap<String, Meta>,
    pub(super) tensors: BTreeMap<String, Stored>,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meta {
    Unsigned(u64),
    Signed(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    List(List),
}

/// A metadata list; all its values have one type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum List {
    Unsigned(Vec<u64>),
    Signed(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Text(Vec<String>),
}

/// The description of a stored tensor.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) kind: BlockType,
    /// The size of each dimension, innermost first, as in the file.
    pub(super) dims: Vec<usize>,
    /// The tensor's offset from the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Header {
    /// Reads and checks the header of a whole file. Errors call it `path`.
    pub(super) fn parse(file: &[u8], path: &Path) -> Result<Self> {
        let mut reader = Reader { file, at: 0, path };
        let version = reader.begin()?;
        let n_tensors = reader.count("tensors", 8 + 4 + 8 + 4 + 8)?;
        let n_metadata = reader.count("metadata entries", 8 + 4 + 1)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..n_metadata {
            let key = reader.name("a key", MAX_KEY)?;
            let value = reader.value(&key)?;
            if metadata.contains_key(&key) {
                return Err(reader.fail(format!("the key {key} is there twice")));
            }
            metadata.insert(key, value);
        }
        let alignment = reader.alignment(metadata.get("general.alignment"))?;
        let mut tensors = BTreeMap::new();
        for _ in 0..n_tensors {
            let (name, tensor) = reader.tensor(alignment)?;
            if tensors.contains_key(&name) {
                return Err(ShardError::DuplicateTensor {
                    tensor: name,
                    file: path.to_owned(),
                }
                .into());
            }
            tensors.insert(name, tensor);
        }
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        reader.place(&mut tensors, data_start)?;
        Ok(Header {
            version,
            metadata,
            tensors,
        })
    }
}

/// The rest of a file, read from front to back.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    path: &'a Path,
}

impl<'a> Reader<'a> {
    fn fail(&self, problem: impl Into<String>) -> LlamaError {
        LlamaError::Gguf {
            file: self.path.to_owned(),
            problem: problem.into(),
        }
    }

    fn left(&self) -> usize {
        self.file.len() - self.at
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        if len > self.left() {
            return Err(self.fail(format!(
                "{what} at byte {} takes {len} bytes, and the file has only {} more: it is cut off",
                self.at,
                self.left()
            )));
        }
        let taken = &self.file[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads the magic number and the version.
    fn begin(&mut self) -> Result<u32> {
        let magic = self.take(MAGIC.len(), "the magic number")?;
        if magic != MAGIC {
            return Err(self.fail(format!("it begins with {magic:02x?}, not with \"GGUF\"")));
        }
        let version = self.u32("the version")?;
        match version {
            2 | 3 => Ok(version),
            _ if matches!(version.swap_bytes(), 1..=3) => Err(self.fail(
                "it is big-endian, and little-endian files are read: convert it again with --endian little \
                 (gguf_convert_endian.py of llama.cpp)",
            )),
            _ => Err(self.fail(format!("its version is {version}; supported: 2, 3"))),
        }
    }

    /// The number of items that follow; each takes at least `least` bytes.
    fn count(&mut self, what: &str, least: u64) -> Result<usize> {
        let count = self.u64(what)?;
        match count.checked_mul(least) {
            Some(bytes) if bytes <= self.left() as u64 => Ok(count as usize),
            _ => Err(self.fail(format!(
                "its header claims {count} {what}, which do not fit the {} bytes that follow",
                self.left()
            ))),
        }
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let len = self.u64(what)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let start = self.at;
        let bytes = self.take(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.fail(format!("{what} at byte {start} is not UTF-8"))),
        }
    }

    fn name(&mut self, what: &str, longest: usize) -> Result<String> {
        let name = self.text(what)?;
        if name.is_empty() || name.len() > longest {
            return Err(self.fail(format!(
                "{what} has {} bytes; expected 1 to {longest}",
                name.len()
            )));
        }
        Ok(name)
    }

    fn bool(&mut self, key: &str) -> Result<bool> {
        match self.array::<1>(key)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.fail(format!("{key} must be 0 or 1 (a boolean), but is {other}"))),
        }
    }

    fn value(&mut self, key: &str) -> Result<Meta> {
        const LIST: u32 = 9;
        Ok(match self.u32(key)? {
            0 => Meta::Unsigned(u8::from_le_bytes(self.array(key)?).into()),
            1 => Meta::Signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Meta::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => Meta::Signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Meta::Unsigned(self.u32(key)?.into()),
            5 => Meta::Signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Meta::F32(f32::from_le_bytes(self.array(key)?)),
            7 => Meta::Bool(self.bool(key)?),
            8 => Meta::Text(self.text(key)?),
            LIST => Meta::List(self.list(key)?),
            10 => Meta::Unsigned(self.u64(key)?),
            11 => Meta::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Meta::F64(f64::from_le_bytes(self.array(key)?)),
            other => {
                return Err(self.fail(format!("{key} is of type {other}, which does not exist")));
            }
        })
    }

    fn list(&mut self, key: &str) -> Result<List> {
        let of = self.u32(key)?;
        let least = match of {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(self.fail(format!("{key} is a list of lists, which is not supported"))),
            _ => {
                return Err(self.fail(format!(
                    "{key} is a list of type {of}, which does not exist"
                )));
            }
        };
        let n = self.count(&format!("values in {key}"), least)?;
        Ok(match of {
            0 => List::Unsigned(self.many(n, |r| Ok(u8::from_le_bytes(r.array(key)?).into()))?),
            1 => List::Signed(self.many(n, |r| Ok(i8::from_le_bytes(r.array(key)?).into()))?),
            2 => List::Unsigned(self.many(n, |r| Ok(u16::from_le_bytes(r.array(key)?).into()))?),
            3 => List::Signed(self.many(n, |r| Ok(i16::from_le_bytes(r.array(key)?).into()))?),
            4 => List::Unsigned(self.many(n, |r| Ok(r.u32(key)?.into()))?),
            5 => List::Signed(self.many(n, |r| Ok(i32::from_le_bytes(r.array(key)?).into()))?),
            6 => List::F32(self.many(n, |r| Ok(f32::from_le_bytes(r.array(key)?)))?),
            7 => List::Bool(self.many(n, |r| r.bool(key))?),
            8 => List::Text(self.many(n, |r| r.text(key))?),
            10 => List::Unsigned(self.many(n, |r| r.u64(key))?),
            11 => List::Signed(self.many(n, |r| Ok(i64::from_le_bytes(r.array(key)?)))?),
            _ => List::F64(self.many(n, |r| Ok(f64::from_le_bytes(r.array(key)?)))?),
        })
    }

    fn many<T>(&mut self, n: usize, read: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        (0..n).map(|_| read(self)).collect()
    }

    fn alignment(&self, value: Option<&Meta>) -> Result<u64> {
        match value {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(&Meta::Unsigned(value)) if value.is_power_of_two() && value <= 1 << 20 => {
                Ok(value)
            }
            Some(other) => Err(self.fail(format!(
                "general.alignment is {other:?}; expected a power of two up to {}",
                1 << 20
            ))),
        }
    }

    /// The entry of a tensor. Its offset still counts from the start of the data.
    fn tensor(&mut self, alignment: u64) -> Result<(String, Stored)> {
        let name = self.name("the name of a tensor", MAX_TENSOR_NAME)?;
        let n_dims = self.u32(&name)?;
        if !(1..=MAX_DIMS).contains(&n_dims) {
            return Err(self.fail(format!(
                "tensor {name} has {n_dims} dimensions; expected 1 to {MAX_DIMS}"
            )));
        }
        let mut dims = Vec::new();
        for _ in 0..n_dims {
            let size = self.u64(&name)?;
            match usize::try_from(size) {
                Ok(size) if size > 0 => dims.push(size),
                _ => return Err(self.fail(format!("tensor {name} has a dimension of size {size}"))),
            }
        }
        let id = self.u32(&name)?;
        let kind = BlockType::find(id).ok_or_else(|| LlamaError::GgufType {
            tensor: name.clone(),
            file: self.path.to_owned(),
            found: BlockType::unknown_name(id),
            supported: BlockType::ALL.map(|kind| kind.name).join(", "),
        })?;
        if !dims[0].is_multiple_of(kind.values) {
            return Err(self.fail(format!(
                "tensor {name} has rows of {} values, which are not whole blocks of {}: a block holds {} values",
                dims[0], kind.name, kind.values
            )));
        }
        let blocks = dims[1..]
            .iter()
            .try_fold(dims[0] / kind.values, |product, &size| {
                product.checked_mul(size)
            });
        let bytes = blocks.and_then(|blocks| blocks.checked_mul(kind.bytes));
        let Some(bytes) = bytes else {
            return Err(ShardError::ShapeOverflow {
                tensor: name,
                file: self.path.to_owned(),
                shape: dims,
            }
            .into());
        };
        let offset = self.u64(&name)?;
        if !offset.is_multiple_of(alignment) {
            return Err(self.fail(format!(
                "tensor {name} begins at byte {offset} of the data, which is not aligned to {alignment}"
            )));
        }
        let tensor = Stored {
            kind,
            dims,
            offset,
            bytes: bytes as u64,
        };
        Ok((name, tensor))
    }

    /// Converts offsets to count from the start of the file, and checks that no tensor exceeds the file or overlaps
    /// another.
    fn place(&self, tensors: &mut BTreeMap<String, Stored>, data_start: u64) -> Result<()> {
        let found = self.file.len() as u64;
        let mut spans = Vec::new();
        for (name, tensor) in tensors {
            let begin = data_start.checked_add(tensor.offset);
            let end = begin.and_then(|begin| begin.checked_add(tensor.bytes));
            match (begin, end) {
                (Some(begin), Some(end)) if end <= found => {
                    tensor.offset = begin;
                    spans.push((begin, end, name.as_str()));
                }
                _ => {
                    return Err(self.fail(format!(
                        "its header gives tensor {name} {} bytes from byte {} of the data; the data begins at byte \
                         {data_start}, and the file ends at {found}: it is cut off",
                        tensor.bytes, tensor.offset
                    )));
                }
            }
        }
        spans.sort_unstable();
        for pair in spans.windows(2) {
            let ((_, before_end, before), (begin, _, tensor)) = (pair[0], pair[1]);
            if begin < before_end {
                return Err(ShardError::Overlap {
                    tensor: tensor.to_owned(),
                    file: self.path.to_owned(),
                    begin: begin - data_start,
                    before: before.to_owned(),
                    before_end: before_end - data_start,
                }
                .into());
            }
        }
        Ok(())
    }
}
