//! What any bytes may not do: make the program panic, hang, or take memory without bound.
//!
//! [`KINDS`] has a check for each kind of input. The fuzz targets of `fuzz/` call them with what libFuzzer makes up, and the
//! test of this crate with every file of `fuzz/corpus`.

mod bounds;
mod checkpoint;
mod files;
mod ptx;
mod syntax;
mod tables;
mod text;
mod vectors;

pub use bounds::{Cost, bounded, most_memory};

/// Gives the bytes to the program's readers of one kind of input, and says whether they were taken.
pub type Check = fn(&[u8]) -> bool;

/// All kinds of input, by the names of their fuzz targets and of the folders of `fuzz/corpus`.
pub const KINDS: [(&str, Check); 17] = [
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
