//! No input may make the program panic, hang, or allocate without bound.
//!
//! [`KINDS`] has a check for each kind of input. The targets in `fuzz/` call the checks with libFuzzer's inputs. The
//! test of this crate calls them with every file in `fuzz/corpus`.

mod bounds;
mod checkpoint;
mod files;
mod ptx;
mod request;
mod syntax;
mod tables;
mod text;
mod vectors;

pub use bounds::{Cost, bounded, most_memory, print_panics_briefly};

/// Reads the bytes as one kind of input, and returns whether the program accepted them.
pub type Check = fn(&[u8]) -> bool;

/// All kinds of input, by the names of their fuzz targets and of the folders of `fuzz/corpus`.
pub const KINDS: [(&str, Check); 18] = [
    ("config", checkpoint::config),
    ("generation_config", checkpoint::generation_config),
    ("safetensors", checkpoint::safetensors),
    ("safetensors_index", checkpoint::safetensors_index),
    ("gguf", checkpoint::gguf),
    ("tokenizer", text::tokenizer),
    ("chat_template", text::chat_template),
    ("interpretation_prompt", text::interpretation_prompt),
    ("edit", vectors::edit),
    ("vectors", vectors::vectors),
    ("map", vectors::map),
    ("reader", vectors::reader),
    ("request", request::request),
    ("tokens", syntax::tokens),
    ("csv", tables::csv),
    ("jsonl", tables::jsonl),
    ("ptx", ptx::ptx),
    ("ptx_template", ptx::template),
];

/// The check of a kind.
///
/// # Panics
/// There is no such kind.
pub fn check(kind: &str) -> Check {
    let found = KINDS.iter().find(|(name, _)| *name == kind);
    found.unwrap_or_else(|| panic!("there is no kind {kind}")).1
}
