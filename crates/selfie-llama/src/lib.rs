//! A LLaMA: its checkpoint, its tokenizer, sessions with an explicit KV cache, probes and decoding.
//!
//! ```
//! # fn main() -> selfie_llama::Result<()> {
//! # let dir = std::path::Path::new("tests/golden/llama2-mha");
//! use selfie_llama::{
//!     Backend, Capture, Cpu, CpuOptions, Feed, Llama, Pass, Session, SessionSize, Site, Tokenizer,
//! };
//!
//! // A Hugging Face folder: config.json, *.safetensors, tokenizer.json.
//! let model = Llama::open(Cpu::new(CpuOptions::default())?, dir)?;
//! let ids = Tokenizer::open(dir)?.encode("The capital of France is")?;
//!
//! // The residual stream at the input of layer 2, of the prompt's last token.
//! let mut session = Session::new(&model, &SessionSize::new(&model, 1, ids.len()))?;
//! let slot = session.open()?;
//! let last = (Site::HiddenStates(2), slot, ids.len() as u32 - 1);
//! let mut state = Capture::new(model.backend(), &[last], model.config().d_model)?;
//! session.run(&Pass::new(&model, &[Feed::new(slot, &ids)]), &mut state)?;
//! let values = model.backend().read_rows(state.rows(), 0..1)?;
//! assert_eq!(values.len(), model.config().d_model);
//! # Ok(())
//! # }
//! ```
//!
//! [`capture`] does the same for sites of many prompts, and [`Trace`] keeps all states of one prompt. [`generate`]
//! continues a prompt, and [`generate_with`] also steers it. All of them are built on [`Session`].
#![deny(unsafe_code)]

mod cache;
mod chat;
mod checkpoint;
mod config;
mod decode;
mod error;
mod families;
mod folder;
mod forward;
mod generate;
mod generation_config;
mod gguf;
mod json;
mod lora;
mod mlp;
mod model;
mod note;
mod pass;
mod plan;
mod probe;
mod requests;
mod rope;
mod sampling;
mod session;
mod spec;
mod splitmix;
mod states;
mod tokenizer;
mod trace;
mod weights;
mod write;

pub use chat::{ChatEnd, ChatMessage, ChatTemplate, RenderedChat};
pub use checkpoint::{Checkpoint, Tensor, TensorInfo};
pub use config::LlamaConfig;
pub use decode::{Decoding, Sequence};
pub use error::{LlamaError, LoraError, Result, ShardError};
pub use families::ModelType;
pub use folder::resolve_folder;
pub use generate::{Generated, Generation, generate, generate_all, generate_with};
pub use generation_config::{
    GenerationConfig, IgnoredField, ResolvedSampling, SamplingOverrides, eos_ids,
};
pub use gguf::Gguf;
pub use lora::Lora;
pub use mlp::{HostTensor, MlpRows, MlpUnit, MlpValues, MlpWeights, PackedMlp};
pub use model::{Llama, stored_dtype, weight_summary};
pub use note::Note;
pub use pass::{Answer, Ask, Draw, Feed, Pass, SessionSize};
pub use plan::{TensorRole, TensorShape};
pub use probe::{Capture, Probe, Site, Visit, Want};
pub use rope::{Rope, RopeScaling};
pub use sampling::Sampling;
pub use session::Session;
pub use spec::{EmbedScale, LayerRope, LayerSpec, Norms, QkNorm, Spec};
pub use states::{PromptSite, capture};
pub use tokenizer::{Bos, TextStream, TokenText, Tokenizer};
pub use trace::Trace;
pub use weights::{WeightChoice, WeightSummary};
pub use write::Write;

// The items of selfie-kernels that a user of this crate needs.
pub use selfie_kernels::{
    Activation, Backend, BatchRow, Best, BlockFormat, Cpu, CpuOptions, CpuPath, DType, Format,
    InjectMode, Injection, KernelError, LogitMap, Slot,
};

/// Tests the example of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
