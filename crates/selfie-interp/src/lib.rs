//! Lets a LLaMA explain its own hidden embeddings (SelfIE, arXiv 2403.10949).
//!
//! An embedding of the residual stream is written over the placeholders of an *interpretation prompt* at an early
//! layer, and the model continues the prompt in words. [`interpret`] does this for any number of (prompt, layer, token)
//! cells:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use selfie_interp::{Cell, Options, Row, interpret};
//! use selfie_kernels::{Cpu, CpuOptions};
//! use std::ops::ControlFlow;
//!
//! // The demo checkpoint; `Llama::open` and `Tokenizer::open` open a folder.
//! let (model, tokenizer) = selfie_demo::open(Cpu::new(CpuOptions::default())?)?;
//! let cells = [1, 2, 3].map(|layer| Cell { prompt: 0, layer, token: 15 });
//! let options = Options { max_new_tokens: 8, ..Options::new(model.config())? };
//! let prompts = ["[INST] What is the capital of the country of the Colosseum? [/INST]"];
//! let swept = interpret(&model, &tokenizer, &prompts, &cells, &options, &mut |row: Row| {
//!     println!("layer {:?}: {}", row.layer, row.interpretation);
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(swept.rows, 3);
//! # Ok(())
//! # }
//! ```
//!
//! An interpretation is what the model *says*, not what it knows: an early layer may only repeat the token, and a late
//! one describes the next token. [`Row::relevancy_score`] measures how much each word owes to the embedding, and a
//! [`Control`] shows what the model says without it.
#![forbid(unsafe_code)]

mod control;
mod cut;
mod delivery;
mod drive;
mod embeddings;
mod error;
mod identity;
mod map;
mod messages;
mod names;
mod options;
mod prompt;
pub mod reader;
pub mod released;
mod row;
mod source;
mod sweep;
mod vectors;

pub use control::{Control, Controlled, partner_of_cell, partner_of_vector, random_vector};
pub use cut::Cut;
pub use drive::Sweep;
pub use embeddings::Embeddings;
pub use error::{InterpError, Result};
pub use identity::Key;
pub use map::{Fit, Fitted, Map};
pub use messages::PromptMessage;
pub use options::{InjectAt, Options};
pub use prompt::{InterpretationPrompt, Joining, LocatedPrompt, PlaceholderRows, PromptPart};
pub use reader::{Job, JobWrite, Outcome, PromptId, Reader, ReaderSize, ReaderStats, Text, Ticket};
pub use released::{Agreement, ReaderKind, Reconstructor, Released};
pub use row::{Row, RowFields, Samples};
pub use sweep::{
    Cell, Sink, Swept, check, check_by, check_vectors, interpret, interpret_by, interpret_vectors,
};
pub use vectors::Vector;

/// Tests the example in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
