//! GGUF files: what they stand for, and what is said of those that do not hold together.

mod blocks;
mod config;
mod file;
mod hostile;
mod model;
mod order;
mod small;
mod split;
mod tokenizer;
