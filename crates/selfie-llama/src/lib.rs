//! A LLaMA: its checkpoint, its tokenizer, an explicit KV cache, a forward pass with probes, decoding.
#![deny(unsafe_code)]

mod cache;
mod checkpoint;
mod config;
mod decode;
mod error;
mod folder;
mod forward;
mod generate;
mod generation_config;
mod json;
mod mlp;
mod model;
mod note;
mod probe;
mod rope;
mod sampling;
mod splitmix;
mod states;
mod tokenizer;
mod trace;

pub use cache::{KvCache, branch_rows, shared_rows};
pub use checkpoint::{Checkpoint, Tensor, TensorInfo};
pub use config::{LlamaConfig, ModelType};
pub use decode::{Decoder, Decoding, Sequence};
pub use error::{LlamaError, Result};
pub use folder::resolve_folder;
pub use forward::Workspace;
pub use generate::{Generated, generate, generate_all};
pub use generation_config::{
    GenerationConfig, LeftOut, ResolvedSampling, SamplingOverrides, eos_ids,
};
pub use mlp::{HostTensor, MlpRows, MlpValues, MlpWeights, PackedMlp};
pub use model::{Llama, stored_dtype};
pub use note::Note;
pub use probe::{Capture, Inject, Probe, Site, Visit, Want};
pub use rope::{Rope, RopeScaling};
pub use sampling::Sampling;
pub use states::{PromptSite, capture};
pub use tokenizer::{Bos, TextStream, TokenText, Tokenizer};
pub use trace::Trace;
