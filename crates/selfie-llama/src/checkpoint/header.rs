//! The header of a safetensors file: eight bytes of length, then JSON, then the data it describes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use selfie_kernels::DType;
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserializer, IgnoredAny, IntoDeserializer, MapAccess, Visitor};

use super::{map, read_error};
use crate::gguf::Layout;
use crate::{Result, ShardError};

/// The length field before the JSON.
const LENGTH_BYTES: u64 = 8;
/// The largest header that the safetensors format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// An open file of weights.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    data: Data,
}

/// Where a shard's bytes come from.
enum Data {
    File(File),
    Memory(Cow<'static, [u8]>),
}

impl Shard {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| read_error(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            data: Data::File(file),
        })
    }

    pub(crate) fn from_bytes(path: &Path, bytes: Cow<'static, [u8]>) -> Self {
        Self {
            path: path.to_owned(),
            data: Data::Memory(bytes),
        }
    }

    /// Calls `read` once with a byte range that the header check found inside the shard.
    pub(crate) fn with_bytes(
        &self,
        range: Range<u64>,
        read: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        match &self.data {
            Data::File(file) => {
                let len = (range.end - range.start) as usize;
                map::with_bytes(file, range.start, len, read)
            }
            Data::Memory(bytes) => {
                read(&bytes[range.start as usize..range.end as usize]);
                Ok(())
            }
        }
    }
}

impl Shard {
    /// Calls `read` once with all bytes.
    pub(crate) fn with_all(&self, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let len = match &self.data {
            Data::File(file) => file.metadata()?.len(),
            Data::Memory(bytes) => bytes.len() as u64,
        };
        self.with_bytes(0..len, read)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::File(file) => file.fmt(f),
            Data::Memory(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

/// A header's entry for a tensor.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The element type, as the format names it.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Where the tensor's data begins, from the start of the file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    /// How a GGUF file stores it; `None` means row after row.
    pub(crate) layout: Option<Layout>,
}

impl Entry {
    /// The type of the rows as read, if weights can be computed in it.
    pub(super) fn float(&self) -> Option<DType> {
        if let Some(layout) = &self.layout {
            return Some(layout.dtype());
        }
        match self.dtype.as_str() {
            "F32" => Some(DType::F32),
            "BF16" => Some(DType::Bf16),
            "F16" => Some(DType::F16),
            _ => None,
        }
    }
}

/// Reads a shard's header, and checks that its tensors fill it without holes or overlaps.
pub(super) fn entries(shard: &Shard) -> Result<BTreeMap<String, Entry>> {
    let path = &*shard.path;
    let Header {
        listed,
        data_start,
        file_len,
    } = match &shard.data {
        Data::File(file) => {
            let len = file.metadata().map_err(|source| read_error(path, source))?;
            read_header(path, len.len(), &mut &*file)?
        }
        Data::Memory(bytes) => read_header(path, bytes.len() as u64, &mut &**bytes)?,
    };
    let mut raw = BTreeMap::new();
    for (name, tensor) in listed.0 {
        if raw.insert(name.clone(), tensor).is_some() {
            return Err(ShardError::DuplicateTensor {
                tensor: name,
                file: path.to_owned(),
            }
            .into());
        }
    }
    check_layout(path, &raw, data_start, file_len)?;

    let locate = |tensor: RawEntry| {
        let [begin, end] = tensor.data_offsets;
        Entry {
            dtype: tensor.dtype,
            shape: tensor.shape,
            offset: data_start + begin,
            bytes: end - begin,
            layout: None,
        }
    };
    Ok(raw.into_iter().map(|(name, t)| (name, locate(t))).collect())
}

/// What precedes a file's data.
struct Header {
    listed: Listing,
    data_start: u64,
    file_len: u64,
}

/// The `safetensors` crate also has a reader, but it needs the whole file in memory or mapped, and it merges tensors
/// with the same name.
fn read_header(path: &Path, found: u64, file: &mut dyn Read) -> Result<Header> {
    let io = |source| read_error(path, source);
    if found < LENGTH_BYTES {
        return Err(ShardError::Truncated {
            file: path.to_owned(),
            promised: LENGTH_BYTES,
            found,
        }
        .into());
    }
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(io)?;
    let header = u64::from_le_bytes(length);
    if header > MAX_HEADER_BYTES {
        return Err(ShardError::HeaderTooLarge {
            file: path.to_owned(),
            header,
            limit: MAX_HEADER_BYTES,
        }
        .into());
    }
    if header > found - LENGTH_BYTES {
        return Err(ShardError::HeaderPastEnd {
            file: path.to_owned(),
            header,
            found,
        }
        .into());
    }
    let mut json = vec![0; header as usize];
    file.read_exact(&mut json).map_err(io)?;
    let listed = serde_json::from_slice(&json).map_err(|source| ShardError::Header {
        file: path.to_owned(),
        source,
    })?;
    Ok(Header {
        listed,
        data_start: LENGTH_BYTES + header,
        file_len: found,
    })
}

/// The tensors of a header in file order; a duplicate is listed twice.
struct Listing(Vec<(String, RawEntry)>);

#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<usize>,
    /// The first byte and one past the last, from the start of the data.
    data_offsets: [u64; 2],
}

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListingVisitor)
    }
}

struct ListingVisitor;

impl<'de> Visitor<'de> for ListingVisitor {
    type Value = Listing;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listing, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                tensors.push((name, map.next_value()?));
            }
        }
        Ok(Listing(tensors))
    }
}

fn check_layout(
    path: &Path,
    tensors: &BTreeMap<String, RawEntry>,
    data_start: u64,
    found: u64,
) -> Result<(), ShardError> {
    let mut spans = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        check_size(path, name, tensor)?;
        let [begin, end] = tensor.data_offsets;
        spans.push((begin, end, name.as_str()));
    }

    let last = spans.iter().map(|span| span.1).max().unwrap_or(0);
    let promised = data_start.saturating_add(last);
    if promised > found {
        return Err(ShardError::Truncated {
            file: path.to_owned(),
            promised,
            found,
        });
    }

    spans.sort_unstable();
    let gap = |begin, end| ShardError::Gap {
        file: path.to_owned(),
        begin,
        end,
    };
    let (mut filled, mut before) = (0, "");
    for (begin, end, name) in spans {
        if begin < filled {
            return Err(ShardError::Overlap {
                tensor: name.to_owned(),
                file: path.to_owned(),
                begin,
                before: before.to_owned(),
                before_end: filled,
            });
        }
        if begin > filled {
            return Err(gap(filled, begin));
        }
        (filled, before) = (end, name);
    }
    match found - data_start {
        data if data > filled => Err(gap(filled, data)),
        _ => Ok(()),
    }
}

/// The offsets must span as many bytes as the shape takes. An unknown element type passes: such a tensor may be in the
/// file, but nothing can ask for it.
fn check_size(path: &Path, name: &str, tensor: &RawEntry) -> Result<(), ShardError> {
    let [begin, end] = tensor.data_offsets;
    let bytes = match element_bits(&tensor.dtype) {
        None => end.checked_sub(begin),
        Some(bits) => {
            let needed = count_bytes(&tensor.shape, bits);
            if needed.is_none() {
                return Err(ShardError::ShapeOverflow {
                    tensor: name.to_owned(),
                    file: path.to_owned(),
                    shape: tensor.shape.clone(),
                });
            }
            end.checked_sub(begin).filter(|&held| Some(held) == needed)
        }
    };
    match bytes {
        Some(_) => Ok(()),
        None => Err(ShardError::TensorBytes {
            tensor: name.to_owned(),
            file: path.to_owned(),
            begin,
            end,
            shape: tensor.shape.clone(),
            dtype: tensor.dtype.clone(),
        }),
    }
}

fn element_bits(dtype: &str) -> Option<u64> {
    let name: StrDeserializer<'_, ValueError> = dtype.into_deserializer();
    let dtype = safetensors::Dtype::deserialize(name).ok()?;
    Some(dtype.bitsize() as u64)
}

fn count_bytes(shape: &[usize], bits: u64) -> Option<u64> {
    let total = shape
        .iter()
        .try_fold(bits, |product, &size| product.checked_mul(size as u64))?;
    Some(total.div_ceil(8))
}
