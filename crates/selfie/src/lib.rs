//! Lets a LLaMA explain and change its own hidden embeddings (SelfIE, arXiv 2403.10949). This crate is the front door.
//!
//! A [`Source`] says where a model's files are, and [`OpenOptions`] how to run it. A [`Model`] hides which device it is
//! on: it continues prompts, shows their states, and interprets embeddings. The defaults of the `selfie` program
//! (device, dtype, the ids that end a text) are set here, so that all programs built on this crate behave alike.
//!
//! ```
//! # fn main() -> selfie::Result<()> {
//! use selfie::interp::{Cell, Row};
//! use selfie::{Model, OpenOptions, Source};
//! use std::ops::ControlFlow;
//!
//! // Source::from(path) opens a Hugging Face folder.
//! let model = Model::open(Source::Demo, OpenOptions::default(), &mut ())?;
//!
//! let prompt = "[INST] What is the capital of the country of the Colosseum? [/INST]";
//! let tokens = model.tokens(prompt)?;
//! let colosseum = tokens.iter().position(|token| token.piece.contains("Colosseum")).unwrap();
//! let cells = [1, 3].map(|layer| Cell { prompt: 0, layer, token: colosseum });
//!
//! let options = model.opened.interpret_options()?;
//! let swept = model.interpret(&[prompt], &cells, &options, &mut |row: Row| {
//!     assert_eq!(row.interpretation, "The message asks for the continent of Italy.");
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(swept.rows, 2);
//! # Ok(())
//! # }
//! ```
//!
//! The crates below are generic over the device; [`on!`] calls them for a model on any device:
//!
//! ```
//! # fn main() -> selfie::Result<()> {
//! use selfie::{Model, OpenOptions, Source, llama, on};
//!
//! let model = Model::open(Source::Demo, OpenOptions::default(), &mut ())?;
//! let ids = model.opened.encode("Rome is the capital of")?;
//! let trace = on!(&model.llama, llama => llama::Trace::new(llama, &ids))?;
//! assert_eq!(trace.input_ids, ids);
//! # Ok(())
//! # }
//! ```
//!
//! The crates below are [`kernels`], [`llama`], [`interp`], [`control`] and [`demo`].
#![forbid(unsafe_code)]

mod any;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
mod device;
mod error;
mod kind;
mod maps;
mod model;
mod observer;
mod opened;
mod reconstructor;
mod select;
mod source;

pub use any::{AnyDevice, AnyModel};
pub use device::{Device, DeviceOptions};
pub use error::{Error, Result};
pub use kind::ErrorKind;
pub use maps::fit_map;
pub use model::{Model, Text};
pub use observer::{LateNotes, Note, Observer};
pub use opened::{OpenOptions, Opened};
pub use reconstructor::AnyReconstructor;
pub use select::{Missed, Selected, TokenSelector};
pub use source::Source;

pub use selfie_control as control;
pub use selfie_demo as demo;
pub use selfie_interp as interp;
pub use selfie_kernels as kernels;
pub use selfie_llama as llama;

/// Tests the example in README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
