//! A LLaMA that explains its own hidden embeddings, as a web page and a JSON API: `selfie serve`.
//!
//! One thread owns the model and one [`Reader`](selfie::interp::Reader), which batches the work of all clients.
//! Interpretations stream as server-sent events. When a client disconnects, its work stops. States are named by handle
//! (prompt, layer, token). `openapi.json` in this crate describes the API; docs/src/serve.md shows it with curl.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use selfie::{OpenOptions, Opened, Source};
//! use selfie_serve::{Address, Limits, Server};
//!
//! let model = Opened::new(Source::Demo, OpenOptions::default())?.load_unedited(&mut ())?;
//! let server = Server::bind(model, &Address::default(), Limits::default(), vec![])?;
//! println!("http://{}", server.address());
//! // Runs forever; a program would stop on Ctrl-C.
//! server.run(|| false)?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod api;
mod engine;
mod error;
mod events;
mod guard;
mod model;
mod page;
mod problem;
mod prompts;
mod requests;
mod server;

pub use api::paths;
pub use error::{Result, ServeError};
pub use server::{Address, Limits, Server};

/// The description of the API, as served at `/openapi.json`.
pub const OPENAPI: &str = api::OPENAPI;
