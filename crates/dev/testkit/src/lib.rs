//! Shared by the tests of several crates: tables of cases, golden checkpoints, and comparisons with them.
//!
//! The modules panic if an expectation fails, as tests do.
#![allow(missing_docs, reason = "a helper of tests is read where it is")]

pub mod cases;
pub mod control;
pub mod instructions;
pub mod interp;
pub mod llama;
pub mod models;
pub mod readers;

/// Tests the examples of the repository's README and of the book. No package has these files, so the test is here.
#[cfg(doctest)]
#[doc = include_str!("../../../../README.md")]
#[doc = include_str!("../../../../docs/src/rust-api.md")]
struct Book;
