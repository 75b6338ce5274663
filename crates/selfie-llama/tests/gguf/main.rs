//! GGUF files: what they mean, and the errors for inconsistent ones.

mod blocks;
mod config;
mod file;
mod hostile;
mod model;
mod order;
mod small;
mod split;
mod tokenizer;
