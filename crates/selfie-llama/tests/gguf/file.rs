//! GGUF files, written as llama.cpp writes them, or with one false statement.

use std::path::Path;

use selfie_llama::{DType, Gguf, LlamaError, Result};

/// A metadata value, with the number of its type.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    /// A type's number, and arbitrary bytes.
    Raw(u32, Vec<u8>),
}

/// A tensor: the number of its element type, its dimensions, innermost first, and its data.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) kind: u32,
    pub(crate) dims: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

/// A GGUF file.
#[derive(Clone, Default)]
pub(crate) struct File {
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<(String, Tensor)>,
}

pub(crate) const ALIGNMENT: usize = 32;

pub(crate) fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

impl Meta {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        fn list<T>(of: u32, values: &[T], bytes: impl Fn(&T) -> Vec<u8>) -> (u32, Vec<u8>) {
            let mut all = of.to_le_bytes().to_vec();
            all.extend((values.len() as u64).to_le_bytes());
            all.extend(values.iter().flat_map(bytes));
            (9, all)
        }
        let (of, bytes) = match self {
            Meta::U32(value) => (4, value.to_le_bytes().to_vec()),
            Meta::F32(value) => (6, value.to_le_bytes().to_vec()),
            Meta::Bool(value) => (7, vec![u8::from(*value)]),
            Meta::Text(value) => (8, text(value.as_bytes())),
            Meta::Texts(values) => list(8, values, |value| text(value.as_bytes())),
            Meta::I32s(values) => list(5, values, |value| value.to_le_bytes().to_vec()),
            Meta::F32s(values) => list(6, values, |value| value.to_le_bytes().to_vec()),
            Meta::Bools(values) => list(7, values, |value| vec![u8::from(*value)]),
            Meta::Raw(of, bytes) => (*of, bytes.clone()),
        };
        [of.to_le_bytes().to_vec(), bytes].concat()
    }
}

impl Tensor {
    /// An f32 tensor; dimensions innermost first.
    pub(crate) fn f32(dims: &[u64], values: &[f32]) -> Self {
        Self {
            kind: 0,
            dims: dims.to_vec(),
            data: DType::F32.to_bytes(values),
        }
    }

    /// An f32 tensor of zeros.
    pub(crate) fn zeros(dims: &[u64]) -> Self {
        Self::f32(dims, &vec![0.0; dims.iter().product::<u64>() as usize])
    }
}

impl File {
    /// The metadata of a model with one layer. Entries in `more` are added, or replace others.
    pub(crate) fn model(name: &str, more: &[(&str, Meta)]) -> Self {
        let own = [
            ("context_length", Meta::U32(128)),
            ("embedding_length", Meta::U32(8)),
            ("block_count", Meta::U32(1)),
            ("feed_forward_length", Meta::U32(16)),
            ("attention.head_count", Meta::U32(2)),
            ("attention.head_count_kv", Meta::U32(1)),
            ("attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ];
        let mut file = Self::default();
        file.set("general.architecture", Meta::Text(name.to_owned().leak()));
        for (key, value) in own {
            file.set(&format!("{name}.{key}"), value);
        }
        for (key, value) in more {
            file.set(key, value.clone());
        }
        file.tensor("token_embd.weight", Tensor::zeros(&[8, 4]))
    }

    pub(crate) fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(there, _)| there != key);
        self.metadata.push((key.to_owned(), value));
    }

    pub(crate) fn tensor(mut self, name: &str, tensor: Tensor) -> Self {
        self.tensors.push((name.to_owned(), tensor));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut offset = 0;
        let offsets = self.tensors.iter().map(|(_, tensor)| {
            let begin = offset;
            offset = (offset + tensor.data.len()).next_multiple_of(ALIGNMENT);
            begin as u64
        });
        let offsets: Vec<u64> = offsets.collect();
        self.bytes_at(&offsets)
    }

    /// The file with these offsets in its header, true or not.
    pub(crate) fn bytes_at(&self, offsets: &[u64]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            bytes.extend(text(key.as_bytes()));
            bytes.extend(value.bytes());
        }
        for ((name, tensor), offset) in self.tensors.iter().zip(offsets) {
            bytes.extend(text(name.as_bytes()));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            bytes.extend(tensor.dims.iter().flat_map(|size| size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        for (_, tensor) in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
            bytes.extend(&tensor.data);
        }
        bytes
    }

    pub(crate) fn parse(&self) -> Result<Gguf> {
        parse(self.bytes())
    }
}

pub(crate) fn parse(bytes: Vec<u8>) -> Result<Gguf> {
    Gguf::parse(bytes, Path::new("model.gguf"))
}

/// The message of a refused file.
#[track_caller]
pub(crate) fn refusal<T>(result: Result<T, LlamaError>) -> String {
    match result {
        Ok(_) => panic!("the file was not refused"),
        Err(error) => error.to_string(),
    }
}
