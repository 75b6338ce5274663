//! A LLaMA: its checkpoint, its tokenizer, an explicit KV cache, a forward pass with probes, decoding.

mod config;
mod error;
mod generation_config;
mod json;
mod rope;

pub use config::{LlamaConfig, ModelType};
pub use error::{LlamaError, Result};
pub use generation_config::GenerationConfig;
pub use rope::{Rope, RopeScaling};
