//! Interpretations of a LLaMA's embeddings as a picture: tokens across, layers down, and in each cell what the model
//! says about the embedding there, with words shaded by relevancy.
//!
//! The input is rows, as `selfie interpret` writes them ([`read_rows`]). An [`Explorer`] sorts them into grids and
//! renders a self-contained web page ([`Explorer::to_html`]) or a figure ([`Explorer::to_svg`]). A server can send the
//! same page: its script works on the JSON that an `Explorer` serializes to.
//!
//! ```
//! use selfie_explorer::{Commands, Explorer, Row, Run};
//!
//! let row: Row = serde_json::from_str(
//!     r#"{"prompt": "Rome", "interpretation": "a city", "layer": 3, "token": 0, "token_decoded": "Rome",
//!         "relevancy_score": [0.1, 0.8], "pieces": ["a", " city"], "inject_layer": 1, "mode": "replace",
//!         "strength": 1.0, "model": "demo"}"#,
//! )?;
//! let run = Run { name: "rows.jsonl".to_owned(), rows: vec![row] };
//! let explorer = Explorer::new(run, None, &Commands::FromRows)?;
//! assert!(explorer.to_html()?.starts_with("<!doctype html>"));
//! assert!(explorer.to_svg().starts_with("<svg"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod command;
mod error;
mod explorer;
mod html;
mod row;
mod svg;
mod text;
mod widths;

pub use command::{Commands, command_line};
pub use error::{ExplorerError, Result};
pub use explorer::{Cell, Control, Explorer, Grid, Pair, Prompt, Run, Setting, Token};
pub use html::{Live, LivePage};
pub use row::{Row, read_rows};
pub use text::{clean, visible};
